"""A model with its explanation as one network: the same numbers without derivatives, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whyalike as wa
from nets import randomise
from whyalike.errors import CompletenessError, ModelError, OutputFileError
from whyalike.zoo import export, exporting
from written_nets import SMALL, Face, GeM, H, W, images, pooled, small


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def flat_mean() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


HEADS = {
    "mean": lambda: pooled(flat_mean()),
    "mean, linear": SMALL["mean"],
    "max, linear": SMALL["max"],
    "gem, relu chain": lambda: pooled(
        GeM(), nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.PReLU(), nn.Linear(5, 4)
    ),
    "flatten, linear, batch norm": SMALL["flatten"],
    "dropout first": lambda: pooled(nn.Flatten(), nn.Dropout(), nn.Linear(480, 4)),
    "layer norm": SMALL["layer norm"],
    "gelu, unit length": lambda: pooled(
        flat_mean(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 4), Function(F.normalize)
    ),
    "functions": lambda: pooled(
        flat_mean(),
        Function(lambda x: F.leaky_relu(F.silu(F.layer_norm(x, (8,))), 0.2)),
        nn.BatchNorm1d(8, affine=False),
    ),
    "a convolution of one cell": lambda: pooled(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.Hardswish(), nn.BatchNorm2d(4), nn.Flatten()
    ),
    "channels last": lambda: pooled(
        nn.AdaptiveAvgPool2d(1),
        Function(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)),
        nn.Flatten(),
    ),
    "face": Face,
}


def cut(net: nn.Module) -> wa.EmbeddingModel:
    layer = "bn2" if isinstance(net, Face) else "2"
    return wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=(H, W)))


def prepared(name: str) -> wa.EmbeddingModel:
    net = randomise(HEADS[name]()).float()
    for module in net.modules():
        if isinstance(module, GeM):
            module.p.data.fill_(3.0)
    return cut(net)


def run(path: Path, x: Tensor) -> list[Tensor]:
    """What the file gives, by its own runtime."""
    if path.suffix == ".pt2":
        with torch.no_grad():
            return list(torch.export.load(path).module()(x))
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["images"]
    assert tuple(value.name for value in session.get_outputs()) == exporting.NAMES
    return [torch.from_numpy(a) for a in session.run(None, {"images": x.numpy()})]


def check_equal(model: wa.EmbeddingModel, path: Path, x: Tensor) -> None:
    v, b, E, grid_hw, _ = model.decompose(x)
    for found, expected in zip(run(path, x), (E, v.unflatten(1, grid_hw), b), strict=True):
        scale = float(E.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * scale)


def check_written(model: wa.EmbeddingModel, path: Path) -> None:
    if path.suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert export(model, path) == path
    height, width = model.preprocess.size_hw
    for n in (1, 4):
        check_equal(model, path, images(n, height, width))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", HEADS)
def test_programs_give_what_the_model_gives(name, tmp_path):
    check_written(prepared(name), tmp_path / "a.pt2")


@pytest.mark.parametrize("name", ["mean, linear", "max, linear", "gem, relu chain", "face"])
def test_onnx_gives_what_the_model_gives(name, tmp_path):
    check_written(prepared(name), tmp_path / "a.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(HEADS) - {"mean, linear", "max, linear", "face"}))
def test_onnx_of_every_head(name, tmp_path):
    check_written(prepared(name), tmp_path / "a.onnx")


def test_a_real_architecture(tmp_path):
    net = timm.create_model("resnet18", num_classes=0).eval()
    check_written(
        wa.EmbeddingModel.from_module(net, None, wa.Preprocess(size=64)), tmp_path / "a.pt2"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto"]
)
def test_onnx_of_real_architectures(name, tmp_path):
    net = timm.create_model(name, num_classes=0).eval()
    layer = "stages" if name == "convnext_atto" else None
    model = wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, where it pools maps with channels last
        check_written(model, tmp_path / "a.onnx")


def test_what_was_written_is_read_again(tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    model = prepared("mean, linear")
    export(model, tmp_path / "a.onnx")
    again = wa.load(f"{tmp_path}/a.onnx#embedding")
    assert again.preprocess.size_hw == (H, W)
    for ours, theirs in zip(model.decompose(images()), again.decompose(images()), strict=True):
        if isinstance(ours, Tensor):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_network_in_half_precision_is_written_in_full(tmp_path):
    model = prepared("mean, linear")
    half = cut(model.net.to(torch.bfloat16))
    export(half, tmp_path / "a.pt2")
    assert all(t.dtype == torch.float32 for t in run(tmp_path / "a.pt2", images()))


REFUSED = {
    "a gate that is not zero at zero": (
        lambda: cut(pooled(flat_mean(), nn.Linear(8, 4), nn.Sigmoid()).eval()),
        "(Sigmoid) behind the pooling has no form without derivatives here; there are some for",
    ),
    "an operation of its own": (
        lambda: cut(pooled(flat_mean(), Function(lambda x: x.cumsum(1))).eval()),
        "the operation 'cumsum' behind the pooling has no form without derivatives here",
    ),
    "two ways": (
        lambda: cut(pooled(flat_mean(), Function(lambda x: x + x.relu())).eval()),
        "is not a chain: 'add' takes",
    ),
    "an early layer": (
        lambda: wa.EmbeddingModel.from_module(small("mean"), "0", wa.Preprocess(size=32)),
        "the head behind layer '0' is not a known pooling",
    ),
    "flatten and no linear layer": (
        lambda: cut(pooled(nn.Flatten(), nn.BatchNorm1d(480)).eval()),
        "the map is flattened with no linear layer right behind",
    ),
    "another surrogate": (
        lambda: prepared("mean, linear").cut(surrogate="gamma"),
        "only explanations with gates held can be exported; this one is 'gamma",
    ),
    "no preprocess": (
        lambda: wa.EmbeddingModel(nn.Conv2d(3, 4, 4, 4)),
        "a preprocess must say how large images are",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_with_the_reason(name, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises(ModelError) as error:
        export(make(), tmp_path / "a.pt2")
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_what_disagrees_with_the_model_is_not_written(ending, tmp_path, monkeypatch):
    if ending == ".onnx":
        pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    right = exporting._pooled

    def wrong(pool, A):
        z, parts, offset = right(pool, A)
        return exporting._State(z, parts.flip(1), offset)

    monkeypatch.setattr(exporting, "_pooled", wrong)
    (tmp_path / f"a{ending}").write_text("before")
    with pytest.raises(CompletenessError, match=r"another contributions .*; nothing was written"):
        export(prepared("mean"), tmp_path / f"a{ending}")
    assert (tmp_path / f"a{ending}").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(
        OutputFileError, match=r"the ending says what to write, one of \.onnx, \.pt2"
    ):
        export(small("mean"), tmp_path / "a.html")
    with pytest.raises(OutputFileError, match="there is no folder"):
        export(small("mean"), tmp_path / "no" / "a.onnx")


def test_without_the_extra_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"is needed; install 'whyalike\[onnx\]'"):
        export(prepared("mean"), tmp_path / "a.onnx")


FACTORY = """
import torch, whyalike as wa
torch.manual_seed(0)
def model():
    return wa.EmbeddingModel(torch.nn.Conv2d(3, 8, 8, 8), "mean", torch.nn.Linear(8, 4),
                             wa.Preprocess(size=(24, 40)))
"""


def whyalike(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "whyalike", *arguments], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, check=False,
    )  # fmt: skip


def test_the_command(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    done = whyalike(tmp_path, "export", "a.pt2", "--model", "mine:model")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "wrote a.pt2"
    embedding, contributions, bias = run(tmp_path / "a.pt2", images(2, 24, 40))
    assert contributions.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(contributions.sum((1, 2)) + bias, embedding, rtol=1e-4, atol=1e-5)
    done = whyalike(tmp_path, "export", "b.pt2", "--model", "mine:model", "--json")
    assert json.loads(done.stdout)["files"] == ["b.pt2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.html"], "a.html: the ending says what to write, one of .onnx, .pt2"),
        (["a.pt2", "--model", "a.pt2"], "a.pt2: is one of the inputs"),
        (["a.pt2", "--model", "pt2:./a.pt2"], "a.pt2: is one of the inputs"),
        (["b.pt2", "--model", "pt2:a.pt2"], "a.pt2: cannot be read as an exported program"),
        (["b.onnx", "--model", "onnx:mine.onnx"], "mine.onnx: there is no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_on_bad_input(arguments, message, tmp_path, monkeypatch, capsys):
    from whyalike.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt2").write_text("not a program")
    monkeypatch.setattr(sys, "argv", ["whyalike", "export", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt2"]
