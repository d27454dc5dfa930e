"""Networks in exported programs: the same numbers, cut anywhere, and nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

import whyalike as wa
from whyalike.errors import CheckpointError, LayerError, ModelError, OutputError
from whyalike.zoo import from_pt2
from written_nets import SMALL, H, W, check_explained, images, small


def write_pt2(net: nn.Module, path, fixed: bool = False, core: bool = False, hw=(H, W)) -> str:
    shapes = None if fixed else ({0: torch.export.Dim("n")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (images(1 if fixed else 2, *hw),), dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if core else program, str(path))
    return str(path)


FORMS = {"as exported": {}, "core operators": {"core": True}, "one image": {"fixed": True}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SMALL)
def test_programs_give_what_the_network_gives(name, form, tmp_path):
    net = small(name)
    model = wa.load(write_pt2(net, tmp_path / "a.pt2", **FORMS[form]))
    if name != "mixed":
        assert "8×6×10 map" in model.description
    check_explained(model, images(), net(images()).detach())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer2"),
        ("tf_efficientnet_lite0", "blocks.4"),
        ("mobilenetv3_small_050", "blocks.3"),
    ],
)
def test_programs_are_cut_at_modules_of_the_network(name, layer, tmp_path):
    """At an early layer, so that all kinds of operators lie behind it."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    path = write_pt2(net, tmp_path / "a.pt2", hw=(64, 64))
    x = images(2, 64, 64)
    ours = wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=64))
    model = wa.load(f"pt2:{path}", layer=layer)
    check_explained(model, x, net(x).detach())
    for c, expected in zip(model.explain(list(x)), ours.explain(list(x)), strict=True):
        scale = float(expected.values.norm())
        torch.testing.assert_close(c.values, expected.values, rtol=1e-3, atol=1e-5 * scale)
    with pytest.raises(LayerError, match="no module 'layer22'; near ones: "):
        wa.load(path, layer="layer22")


class Payload:
    """What must never run."""

    def __reduce__(self):
        return (exec, ("import os; os.environ['WHYALIKE_PWNED'] = '1'",))


def rewritten(path: str, changes: dict[str, bytes | Callable[[dict], object]]) -> None:
    """A program with some of its entries replaced, or its JSON changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for end, change in changes.items():
        name = next((n for n in entries if n.endswith(end)), end)
        if callable(change):
            content = json.loads(entries[name])
            change(content)
            entries[name] = json.dumps(content).encode()
        else:
            entries[name] = change
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def first_node(**values):
    return lambda program: program["graph_module"]["graph"]["nodes"][0].update(values)


def test_nothing_in_a_program_is_run(tmp_path, monkeypatch):
    """Sample inputs, custom objects, guards, expressions: torch.export.load would run each."""
    monkeypatch.delenv("WHYALIKE_PWNED", raising=False)
    net, path = small("mean"), str(tmp_path / "a.pt2")
    write_pt2(net, path)
    run = "__import__('os').environ.update(WHYALIKE_PWNED='1')"
    pickled = io.BytesIO()
    torch.save((Payload(),), pickled)

    def guard(program):
        program["guards_code"] = [run]
        sizes = program["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = run

    rewritten(
        path,
        {"data/sample_inputs/model.pt": pickled.getvalue(), "models/model.json": guard,
         "a/data/constants/custom_obj_0": pickle.dumps(Payload()),
         "a/data/aotinductor/model/evil.so": b"\x7fELF"},
    )  # fmt: skip
    torch.testing.assert_close(wa.load(path)(images()), net(images()))
    config = {"config": {"x": {"path_name": "custom_obj_0", "use_pickle": True, "is_param": False,
                               "tensor_meta": None}}}  # fmt: skip
    rewritten(path, {"model_constants_config.json": lambda c: c.update(config)})
    with pytest.raises(CheckpointError, match="'x' is a pickle"):
        wa.load(path)
    assert "WHYALIKE_PWNED" not in os.environ


BAD_PT2 = {
    "any function": (
        first_node(target="torch.hub.load"), ModelError, "a torch.hub.load: which whyalike does not"
    ),
    "any operator": (
        first_node(target="torch.ops.mine.run.default"), ModelError, "a torch.ops.mine.run.defau"
    ),
    "any of aten's": (
        first_node(target="torch.ops.aten.from_file.default"), ModelError, "from_file.default: "
    ),
    "another version": (
        lambda p: p["schema_version"].update(major=99), CheckpointError, "is of version 99; 8 can"
    ),
    "no nodes": (lambda p: p["graph_module"].pop("graph"), CheckpointError, "is damaged"),
    "an unknown name": (
        first_node(inputs=[{"name": "input", "arg": {"as_tensor": {"name": "?"}}, "kind": 1}]),
        ModelError,
        "KeyError: '[?]'",
    ),
    "no list": (lambda p: p.update(graph_module=3), CheckpointError, "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PT2)
def test_bad_programs_are_named_with_the_reason(name, tmp_path):
    change, kind, message = BAD_PT2[name]
    path = write_pt2(small("mean"), tmp_path / "a.pt2")
    rewritten(path, {"models/model.json": change})
    with pytest.raises(kind, match=message) as error:
        wa.load(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_program(tmp_path):
    path = tmp_path / "a.pt2"
    for content in (b"", b"hello", b"PK\x03\x04 and no more"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as an exported program"):
            wa.load(str(path))
    torch.save(small("mean").state_dict(), path)
    with pytest.raises(CheckpointError, match=r"it holds no models/model\.json"):
        wa.load(str(path))
    with pytest.raises(CheckpointError, match="there is no such file"):
        wa.load("pt2:nowhere.pt2")
    write_pt2(small("mean"), path)
    rewritten(str(path), {"weights/weight_0": b"1234"})
    with pytest.raises(CheckpointError, match="a tensor of"):
        wa.load(str(path))


def test_programs_of_another_form(tmp_path):
    class Two(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x.amax((2, 3))

    with pytest.raises(
        OutputError, match=r"embeddings .N, d. and nothing else; it gives mean, amax"
    ):
        wa.load(write_pt2(Two(), tmp_path / "a.pt2"))

    class Cumulated(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).cumsum(1)

    with pytest.raises(
        ModelError, match=r"a torch.ops.aten.cumsum.default: which whyalike does not"
    ):
        wa.load(write_pt2(Cumulated(), tmp_path / "a.pt2"))
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Dropout(), nn.Flatten())
    with pytest.raises(ModelError, match="is random; export the network in eval mode"):
        wa.load(write_pt2(net.train(), tmp_path / "a.pt2"))


def test_every_operator_of_the_tables_exists():
    for name in from_pt2._KNOWN:
        assert hasattr(torch.ops.aten, name), name
