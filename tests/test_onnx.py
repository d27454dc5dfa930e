"""Networks in ONNX files: the numbers of onnxruntime, cut anywhere, and bad files."""

from __future__ import annotations

import os
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn

import whyalike as wa
from nets import randomise
from whyalike.errors import CheckpointError, LayerError, ModelError, OutputError
from written_nets import SMALL, Face, H, W, check_explained, images, small

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from whyalike.zoo import from_onnx  # noqa: E402


def write(net: nn.Module, path, fixed: bool = False, opset: int = 17, hw=(H, W)) -> str:
    """As people's scripts have written ONNX for years; without onnxscript, so quickly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (images(1, *hw),), str(path), dynamo=False, opset_version=opset,
            input_names=["input"], output_names=["embedding"],
            dynamic_axes=None if fixed else {"input": {0: "n"}, "embedding": {0: "n"}},
        )  # fmt: skip
    return str(path)


def onnxruntime_says(path: str, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    if session.get_inputs()[0].shape[0] == 1:
        found = [session.run(["embedding"], {name: one[None].numpy()})[0] for one in x]
        return torch.from_numpy(np.concatenate(found))
    return torch.from_numpy(session.run(["embedding"], {name: x.numpy()})[0])


FOUND = {
    "mean": "8×6×10 map of NodeNetwork./2/Relu → mean → Linear(8→4)",
    "max": "8×6×10 map of NodeNetwork./2/Relu → max → Linear(8→4)",
    "gem": "8×6×10 map of NodeNetwork./2/Relu → gem(p=3) → Linear(8→6) → ReLU → Linear(6→4)",
    "flatten": "8×6×10 map of NodeNetwork./2/Relu → flatten → Linear(480→4)",
    "layer norm": "8×6×10 map of NodeNetwork./2/Relu → mean → LayerNorm → Linear(8→4)",
    "face": "8×6×10 map of NodeNetwork./bn2/BatchNormalization → flatten → Linear(480→6)",
    "mixed": "7×3×5 map of NodeNetwork./Slice_2 → mean",
}


@pytest.mark.parametrize("fixed", [False, True], ids=["any batch", "one image"])
@pytest.mark.parametrize("name", SMALL)
def test_onnx_gives_what_onnxruntime_gives(name, fixed, tmp_path):
    path = write(small(name), tmp_path / "a.onnx", fixed)
    model = wa.load(f"onnx:{path}")
    assert model.description.startswith(FOUND[name])
    assert model.preprocess == wa.Preprocess(size=(H, W))
    x = images()
    check_explained(model, x, onnxruntime_says(path, x))


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", ["gem", "face", "mixed"])
def test_onnx_of_other_opsets(name, opset, tmp_path):
    path = write(small(name), tmp_path / "a.onnx", opset=opset)
    x = images()
    torch.testing.assert_close(wa.load(path)(x), small(name)(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wa.load(path)(x), onnxruntime_says(path, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "face"])
def test_onnx_of_real_architectures(name, tmp_path):
    torch.manual_seed(0)
    net = Face(64, 64) if name == "face" else timm.create_model(name, num_classes=0)
    path = write(randomise(net).float() if name == "face" else net.eval(), tmp_path / "a.onnx",
                 fixed=name != "resnet18", hw=(64, 64))  # fmt: skip
    model = wa.load(path)
    x = images(2, 64, 64)
    check_explained(model, x, net(x).detach())
    assert "differentiated" not in model.description


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto",
                                  "mobilenetv3_small_050", "face"])  # fmt: skip
@pytest.mark.parametrize("fixed", [False, True])
def test_onnx_as_torch_writes_it_now(name, fixed, tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = Face(64, 64) if name == "face" else timm.create_model(name, num_classes=0)
    x = images(2, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (x[:1] if fixed else x,), str(tmp_path / "a.onnx"), dynamo=True,
            verbose=False, external_data=not fixed,
            dynamic_shapes=None if fixed else ({0: torch.export.Dim("n")},),
        )  # fmt: skip
    check_explained(wa.load(str(tmp_path / "a.onnx")), x, net(x).detach())


def test_operators_do_what_the_specification_says():
    """Every case of ONNX's own tests of its operators: the same numbers, or a refusal."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    agreed = set()
    for case in cases:
        (node, *others) = case.model.graph.node
        if (
            others
            or node.op_type not in from_onnx.LAYERS
            or any(
                word in case.name
                for word in ("empty_set", "allowzero")  # of no numbers at all
            )
        ):
            continue
        for inputs, outputs in case.data_sets:
            names = [value.name for value in case.model.graph.input]
            if not all(getattr(getattr(v, "dtype", None), "kind", "-") in "fib" for v in inputs):
                continue
            values = dict(zip(names, map(torch.from_numpy, map(np.array, inputs)), strict=True))
            given = [values.get(name) for name in node.input]
            if not given or given[0] is None or not given[0].is_floating_point():
                continue
            every = node.op_type in ("Concat", "Sum", "Max", "Min", "Mean")
            moving = [v is not None and (every or i == 0) for i, v in enumerate(given)]
            attributes = {a.name: from_onnx._attribute(a) for a in node.attribute}
            opset = max(o.version for o in case.model.opset_import if not o.domain)
            try:
                step = from_onnx.Step(
                    node.op_type, opset, {**attributes, "outputs": len(node.output)}, given, moving,
                    len(given[0]) if given[0].dim() else 1,
                )  # fmt: skip
                layer = from_onnx.LAYERS[node.op_type](step).eval()
                with torch.no_grad():
                    found = layer(*[v for v, moves in zip(given, moving, strict=True) if moves])
            except ModelError:
                continue
            parts = found if isinstance(found, tuple | list) else [found]
            for ours, expected in zip(parts, outputs, strict=False):
                np.testing.assert_allclose(
                    ours.numpy(), expected, rtol=1e-3, atol=1e-5, err_msg=case.name
                )
            agreed.add(node.op_type)
    assert set(from_onnx.LAYERS) - agreed == {"Cast", "Where"}  # of what is no float


def test_a_layer_is_named_as_in_the_file(tmp_path):
    net = timm.create_model("resnet10t", num_classes=0).eval()
    path = write(net, tmp_path / "a.onnx", hw=(64, 64))
    name = next(n.name for n in onnx.load(path).graph.node if n.name.startswith("/layer3/") and
                n.name.endswith("act2/Relu"))  # fmt: skip
    assert "." in name
    model = wa.load(path, layer=name)
    assert model.description.startswith("256×4×4 map of")
    check_explained(model, images(2, 64, 64), net(images(2, 64, 64)).detach())
    with pytest.raises(LayerError, match="near ones: /layer3"):
        wa.load(path, layer=name + "u")


def test_weights_beside_the_file(tmp_path):
    path = write(small("mean"), tmp_path / "a.onnx")
    expected = wa.load(path)(images())
    model = onnx.load(path)
    onnx.save(model, str(tmp_path / "b.onnx"), save_as_external_data=True, location="b.bin",
              size_threshold=0)  # fmt: skip
    torch.testing.assert_close(wa.load(str(tmp_path / "b.onnx"))(images()), expected)
    (tmp_path / "b.bin").write_bytes((tmp_path / "b.bin").read_bytes()[:10])
    with pytest.raises(CheckpointError, match="is damaged"):
        wa.load(str(tmp_path / "b.onnx"))


@pytest.mark.parametrize("location", ["../secret.bin", "link.bin", "/etc/hostname"])
def test_weights_outside_of_the_folder_are_refused(location, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 4 * 8))
    (folder / "link.bin").symlink_to("../secret.bin")
    model = onnx.load(write(small("mean"), folder / "a.onnx"))
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [4, 8])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"a\.onnx: is damaged"):
        wa.load(str(folder / "a.onnx"))


def graph(
    *nodes, outputs=(("embedding", ["n", 8]),), shape=("n", 3, H, W), kind=1, weights=(), opset=17,
    functions=(),
):  # fmt: skip
    """A file of one's own: a strided mean of the image, and the nodes given."""
    own = [
        helper.make_node("AveragePool", ["images"], ["map"], "pool", kernel_shape=[4, 4],
                         strides=[4, 4]),
        *nodes,
    ]  # fmt: skip
    made = helper.make_graph(
        own, "graph", [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(name, 1, dims) for name, dims in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(weights).items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
    model = helper.make_model(made, opset_imports=opsets, functions=functions)
    model.ir_version = 8
    return model.SerializeToString()


def node(kind, inputs, outputs=("embedding",), name="", **attributes):
    return helper.make_node(kind, inputs, outputs, name, **attributes)


POOL = (node("GlobalAveragePool", ["map"], ["pooled"]), node("Flatten", ["pooled"]))
BOMB = {"shape": np.array([2**20, 2**20])}

BAD_ONNX = {
    "not onnx": (b"hello", CheckpointError, r"a\.onnx: is not an ONNX file"),
    "empty": (b"", CheckpointError, r"is not an ONNX file, or an empty one"),
    "custom operator": (
        graph(node("Magic", ["map"], domain="mine", name="trick")),
        ModelError,
        r"node 'trick' is a mine\.Magic, which whyalike does not know",
    ),
    "operator unknown here": (
        graph(node("LSTM", ["map", "map", "map"])),
        ModelError,
        r"is a ai\.onnx\.LSTM",
    ),
    "two inputs of one": (graph(node("Relu", ["nowhere"])), CheckpointError, "is damaged"),
    "a grey image": (graph(*POOL, shape=("n", 1, H, W)), ModelError, r"it takes 'images' \(n, 1, "),
    "channels last": (graph(*POOL, shape=("n", H, W, 3)), ModelError, r"must take one batch of im"),
    "bytes": (graph(*POOL, kind=2), ModelError, r"of uint8"),
    "huge": (graph(*POOL, shape=("n", 3, 10**5, 10**5)), ModelError, "is too large"),
    "a map": (
        graph(outputs=[("map", ["n", 3, 6, 10])]),
        OutputError,
        r"one output must be the embedding \(N, d\); the file has 'map' \(2, 3, 6, 10\); name",
    ),
    "two embeddings": (
        graph(*POOL, node("Relu", ["embedding"], ["other"]),
              outputs=[("embedding", ["n", 3]), ("other", ["n", 3])]),
        OutputError,
        r"the file has 'embedding' \(2, 3\), 'other' \(2, 3\); name it as in onnx:a\.onnx#emb",
    ),
    "a constant": (
        graph(node("Relu", ["w"]), weights={"w": np.ones((2, 3), "f")}),
        OutputError,
        "does not depend on the image",
    ),
    "a bomb": (
        graph(node("ConstantOfShape", ["shape"], ["big"]), node("Add", ["map", "big"]),
              weights=BOMB),
        ModelError,
        r"a ConstantOfShape: makes a value of more than",
    ),
    "a moving bomb": (
        graph(*POOL[:1], node("Expand", ["pooled", "shape"]), weights=BOMB),
        ModelError,
        "an? Expand: makes",
    ),
    "mixes the batch": (
        graph(*POOL[:1], node("Flatten", ["pooled"], ["flat"]),
              node("Softmax", ["flat"], axis=0)),
        ModelError,
        "must not depend on the rest of its batch",
    ),
    "sums the batch": (
        graph(*POOL[:1], node("Flatten", ["pooled"], ["flat"]),
              node("ReduceSum", ["flat", "axes"]), weights={"axes": np.array([0])}),
        ModelError,
        "sums over the images of a batch",
    ),
    "weights that do not fit": (
        graph(node("Conv", ["map", "w"], kernel_shape=[1, 1]),
              weights={"w": np.ones((4, 5, 1, 1), "f")}),
        ModelError,
        r"a Conv: has weights \(4, 5, 1, 1\)",
    ),
    "text in the place of numbers": (
        graph(*POOL[:1], node("Cast", ["pooled"], to=8)),
        ModelError,
        "turns what comes from the image into STRING",
    ),
    "old": (graph(*POOL, opset=6), ModelError, "is written in opset 6"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ONNX)
def test_bad_onnx_files_are_named_with_the_reason(name, tmp_path):
    content, kind, message = BAD_ONNX[name]
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(kind, match=message) as error:
        wa.load(str(tmp_path / "a.onnx"))
    assert str(error.value).startswith(str(tmp_path / "a.onnx"))
    assert "\n" not in str(error.value)


def test_weights_of_another_size_than_their_shape(tmp_path):
    model = onnx.load(write(small("mean"), tmp_path / "a.onnx"))
    model.graph.initializer[0].raw_data = b"abcd"
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"is damaged|cannot be read"):
        wa.load(str(tmp_path / "a.onnx"))


@pytest.mark.parametrize("length", [100, 400, 900])
def test_half_a_file(length, tmp_path):
    path = tmp_path / "a.onnx"
    write(small("mean"), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"a\.onnx: "):
        wa.load(str(path))


def test_an_output_is_named_and_the_rest_is_not_looked_at(tmp_path):
    content = graph(
        *POOL, node("Relu", ["embedding"], ["other"]), node("TopK", ["other", "k"], ["best", "at"]),
        outputs=[("embedding", ["n", 3]), ("other", ["n", 3]), ("best", ["n", 1])],
        weights={"k": np.array([1])},
    )  # fmt: skip
    (tmp_path / "a.onnx").write_bytes(content)
    model = wa.load(f"onnx:{tmp_path}/a.onnx#embedding")
    torch.testing.assert_close(model(images()), images().mean((2, 3)), rtol=1e-4, atol=1e-6)
    (tmp_path / "b.onnx").write_bytes(graph(*POOL))
    with pytest.raises(OutputError, match="has no output 'nothing'; it has"):
        wa.load(f"{tmp_path}/b.onnx#nothing")


def test_names_do_not_become_code(tmp_path, monkeypatch):
    """A traced head is source code, in which the names of layers stand."""
    monkeypatch.delenv("WHYALIKE_PWNED", raising=False)
    evil = '"), __import__("os").environ.update(WHYALIKE_PWNED="1"), getattr(self, "x'
    content = graph(
        node("Relu", ["map"], ["a"], name=evil),
        node("GlobalAveragePool", ["a"], ["b"], name=evil + "y"),
        node("Flatten", ["b"], name="forward"),
    )  # fmt: skip
    (tmp_path / "a.onnx").write_bytes(content)
    wa.load(str(tmp_path / "a.onnx")).explain(list(images()))
    assert "WHYALIKE_PWNED" not in os.environ


def test_the_size_is_the_users_where_the_file_leaves_it_open(tmp_path):
    (tmp_path / "a.onnx").write_bytes(graph(*POOL, shape=("n", 3, "h", "w")))
    mine = wa.Preprocess(size=(16, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert wa.load(str(tmp_path / "a.onnx")).preprocess.size == (224, 224)
    assert wa.load(str(tmp_path / "a.onnx"), preprocess=mine).preprocess is mine


def test_another_opinion_than_onnxruntimes_is_refused(tmp_path, monkeypatch):
    path = write(small("mean"), tmp_path / "a.onnx")
    monkeypatch.setitem(from_onnx.LAYERS, "Relu", lambda step: nn.GELU())
    with pytest.raises(ModelError, match="does not give what onnxruntime gives; the gap is"):
        wa.load(path)


def test_without_the_extra_it_is_said_what_to_install(tmp_path, monkeypatch):
    path = write(small("mean"), tmp_path / "a.onnx")
    monkeypatch.delitem(sys.modules, "whyalike.zoo.from_onnx", raising=False)
    monkeypatch.delattr("whyalike.zoo.from_onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ModelError, match=r"the package 'onnx' is needed; install 'whyalike\[onnx\]'"
    ):
        wa.load(path)


def test_a_file_has_its_own_weights(tmp_path):
    with pytest.raises(ModelError, match="leave the checkpoint out"):
        wa.load("onnx:a.onnx", checkpoint="b.pt")
