"""The paper's networks: names, numbers, heads, and files as the authors made them.

Their weights are not at hand: what is loaded here are files of the same form, with other numbers.
"""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import whyalike as wa
from whyalike.cli import cli, main
from whyalike.errors import CheckpointError, LayerError, ModelError, OutputFileError
from whyalike.zoo import importing, load_two, published
from whyalike.zoo.published import crossview
from whyalike.zoo.published.start import seeded

SHARED = Path(__file__).parents[2] / "shared"
KEYS = SHARED / "published_checkpoint_keys.json"
PAIRS = SHARED / "data" / "published_pairs"

TASKS = {
    "bn_inception": "image_retrieval",
    "reid_baseline": "person_reid",
    "ir_resnet152": "face_verification",
}
PHOTOGRAPHS = {
    "bn_inception": ("51.jpg", "52.jpg"),
    "reid_baseline": ("1501_c3s3_075419_03.jpg", "1501_c6s4_001877_00.jpg"),
    "ir_resnet152": ("Abel_Pacheco_0001.jpg", "Abel_Pacheco_0004.jpg"),
    "siamese_vgg16": ("0013073_grd.jpg", "0013073_sat.jpg"),
}
# What each file is wrapped in.
AS_SAVED = {
    "bn_inception": lambda state: {"state_dict": state, "epoch": 12},
    "reid_baseline": lambda state: {f"module.{k}": v for k, v in state.items()},
    "ir_resnet152": lambda state: state,
}
SMALL = wa.Preprocess(size=(32, 48), channels="BGR")
needs_pairs = pytest.mark.skipif(not PAIRS.is_dir(), reason=f"the paper's pairs are not in {PAIRS}")


def shapes(name: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {k: list(v.shape) for k, v in published.NETWORKS[name]().state_dict().items()}


def trained(name: str) -> nn.Module:
    """A network none of whose numbers is that of a fresh one."""
    net = seeded(published.NETWORKS[name])
    generator = torch.Generator().manual_seed(1)
    for key, value in net.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith("tracked"):
            value.fill_(7)
        elif key.endswith("running_var"):
            value.copy_(1 + noise.abs() / 4)
        elif value.dim() == 1:
            value.add_(noise * 0.05)
    return net


@pytest.fixture(scope="module", params=TASKS)
def loaded(request, tmp_path_factory) -> SimpleNamespace:
    """A network, the file that it was saved in, and what came of the file."""
    name = request.param
    net = trained(name)
    path = tmp_path_factory.mktemp(name) / "authors.pth.tar"
    torch.save(AS_SAVED[name](net.state_dict()), path)
    model = getattr(published, name)(path)
    return SimpleNamespace(name=name, net=net, path=path, model=model)


@pytest.fixture(scope="module")
def towers_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "towers.safetensors"
    save_file(trained("siamese_vgg16").state_dict(), path)
    return path


@pytest.fixture
def small_towers(monkeypatch):
    """Towers for small images, as a VGG-16 at 512×512 takes seconds."""
    monkeypatch.setattr(crossview, "preprocess", lambda tower: SMALL)


# -- names and numbers ---------------------------------------------------------------------------


@pytest.mark.skipif(not KEYS.is_file(), reason=f"the list of the authors' keys is not in {KEYS}")
@pytest.mark.parametrize("name", TASKS)
def test_names_and_shapes_are_those_of_the_authors_files(name):
    theirs = dict(json.loads(KEYS.read_text())[TASKS[name]])
    assert shapes(name) == theirs
    assert list(shapes(name)) == list(theirs)


@pytest.mark.parametrize(
    ("name", "count", "digest", "some"),
    [
        ("bn_inception", 490, "21b709a18596b938", "inception_4e_double_3x3_2_bn.running_mean"),
        ("reid_baseline", 324, "690efcfb41b9d5da", "resnet_conv.6.2.conv3.weight"),
        ("ir_resnet152", 937, "0a3a97e2cc8387f1", "layer3.35.prelu.weight"),
        ("siamese_vgg16", 54, "0240c3791fac0eac", "aerial.conv5_3.weight"),
    ],
)
def test_names_and_shapes_stay_as_they_are(name, count, digest, some):
    found = shapes(name)
    assert len(found) == count
    assert some in found
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("preprocess", "size_hw", "expected"),
    [
        (published.inception.PREPROCESS, (224, 224), (50 - 104, 100 - 117, 200 - 128)),
        (
            published.reid.PREPROCESS,
            (256, 128),
            ((200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225),
        ),
        (
            published.faces.PREPROCESS,
            (112, 112),
            ((50 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (200 / 255 - 0.406) / 0.225),
        ),
        (crossview.preprocess("ground"), (224, 1232), (50 - 103.939, 100 - 116.779, 200 - 123.6)),
        (crossview.preprocess("aerial"), (512, 512), (50 - 103.939, 100 - 116.779, 200 - 123.6)),
    ],
    ids=["bn_inception", "reid_baseline", "ir_resnet152", "ground", "aerial"],
)
def test_what_one_colour_becomes(preprocess, size_hw, expected):
    tensor, view = preprocess(Image.new("RGB", (30, 20), (200, 100, 50)))
    assert tensor.shape == (3, *size_hw)
    assert view == (0, 0, 30, 20)
    wanted = torch.tensor(expected, dtype=torch.float32).view(3, 1, 1).expand_as(tensor)
    torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-4)


# -- the networks --------------------------------------------------------------------------------


def test_a_file_as_the_authors_saved_it_is_loaded_bit_for_bit(loaded):
    mine, theirs = loaded.model.net.state_dict(), loaded.net.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], v) for k, v in theirs.items())
    assert not any(module.training for module in loaded.model.modules())


def test_heads_are_known_in_closed_form(loaded):
    found = {
        "bn_inception": "1024×7×7 map of BNInception.inception_5b_output → max → "
        "Linear(1024→512) → embedding of 512",
        "reid_baseline": "2048×16×8 map of ReidBaseline.resnet_conv.6 → mean → "
        "BatchNorm1d → embedding of 2048",
        "ir_resnet152": "512×7×7 map of IRResNet152.bn2 → flatten → "
        "Linear(25088→512) → BatchNorm1d → embedding of 512",
    }
    assert repr(loaded.model) == f"EmbeddingModel({found[loaded.name]})"


@needs_pairs
def test_the_papers_pairs_are_explained_completely(loaded):
    photographs = [PAIRS / name for name in PHOTOGRAPHS[loaded.name]]
    pair = wa.explain_pair(loaded.model, *photographs)
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-6)
    assert all(pair.terms[1:])  # biases too
    for side in (pair.query, pair.reference):
        total = side.values.sum((0, 1)) + side.bias
        torch.testing.assert_close(total, side.embedding, rtol=1e-4, atol=1e-4)
        assert side.embedding.isfinite().all()
    for side in ("query", "reference"):
        overall = pair.overall_map(side)
        assert overall.isfinite().all()
        assert overall.std() > 0
    # Their network's inputs, ready-made, are explained alike.
    tensor, _ = loaded.model.preprocess(Image.open(photographs[0]).convert("RGB"))
    ready_made = loaded.model.explain(tensor)
    torch.testing.assert_close(ready_made.values, pair.query.values, rtol=1e-4, atol=1e-5)


def outputs_of(net: nn.Module, images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """What each module of a network gave, each time that it ran."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.setdefault(name, []).append(output.clone())
        )
        for name, module in net.named_modules()
        if name
    ]
    with torch.no_grad():
        seen[""] = [net(images)]
    for handle in handles:
        handle.remove()
    return seen


def test_what_runs_where(loaded):
    """The maps on the way, and what sets these networks apart from others of their names."""
    net = loaded.model.net
    seen = outputs_of(net, torch.randn(1, 3, *loaded.model.preprocess.size_hw))
    sizes = {name: tuple(outputs[-1].shape[1:]) for name, outputs in seen.items()}
    runs = Counter({name: len(outputs) for name, outputs in seen.items()})
    if loaded.name == "bn_inception":
        maps = [sizes[f"inception_{block.name}_output"] for block in published.inception.BLOCKS]
        assert [c for c, _, _ in maps] == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]
        assert [h for _, h, w in maps if h == w] == [28, 28, *[14] * 5, 7, 7, 7]
        map_ = seen["inception_5b_output"][0]
        assert map_.min() == 0  # each branch is rectified
        assert runs["classifier.bn"] == 0
        wanted = net.classifier["linear"](map_.amax((2, 3)))
    elif loaded.name == "reid_baseline":
        assert seen["resnet_conv.2"][0].min() < 0  # no ReLU behind the stem
        assert sizes["resnet_conv.2"] == (64, 64, 32)
        assert sizes["resnet_conv.5"] == (1024, 16, 8)
        assert runs["classifier.classifier"] == 0
        wanted = net.classifier["bn"](seen["resnet_conv.6"][0].mean((2, 3)))
    else:
        assert runs["prelu"] == 1
        assert runs["layer3.35.prelu"] == 2
        assert sizes["maxpool"] == (64, 55, 55)
        assert [sizes[f"layer{i}"][1] for i in (1, 2, 3, 4)] == [55, 28, 14, 7]
        wanted = net.bn3(net.fc(seen["bn2"][0].flatten(1)))
    torch.testing.assert_close(seen[""][0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_random_weights_are_the_same_each_time_and_tell_images_apart(name):
    before = torch.random.get_rng_state()
    net, again = seeded(published.NETWORKS[name]), seeded(published.NETWORKS[name])
    assert torch.equal(torch.random.get_rng_state(), before)
    state = again.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    size_hw = {"bn_inception": (96, 96), "reid_baseline": (96, 48), "ir_resnet152": (112, 112)}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        E = net(torch.randn(2, 3, *size_hw[name], generator=generator))
    assert E.isfinite().all()
    assert 1e-2 < E.std() < 1e3
    assert torch.cosine_similarity(E[:1], E[1:]).item() < 0.9999


# -- two towers ----------------------------------------------------------------------------------


def test_towers_have_trunks_of_their_own_and_one_layer_in_common(towers_file, small_towers):
    towers = published.siamese_vgg16(towers_file)
    ground, aerial = towers
    assert ground.net.fc1 is aerial.net.fc1
    assert ground.net.trunk is not aerial.net.trunk
    saved = load_file(towers_file)
    assert torch.equal(ground.net.trunk.conv1_1.weight, saved["ground.conv1_1.weight"])
    assert torch.equal(aerial.net.trunk.conv5_3.bias, saved["aerial.conv5_3.bias"])
    assert repr(aerial) == (
        "EmbeddingModel(512×2×3 map of Tower.trunk.relu5_3 → mean → Linear(512→4096) → "
        "embedding of 4096)"
    )
    one, other = (Image.effect_noise((64, 48), spread).convert("RGB") for spread in (40, 90))
    pair = wa.explain_pair(towers.ground, one, other, reference_model=towers.aerial)
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-6)
    torch.testing.assert_close(
        pair.reference.bias, saved["fc1.bias"], rtol=1e-4, atol=1e-4
    )  # what no cell gives


def test_what_pooling_leaves_over_is_pooled_as_by_tensorflow():
    """A side of 5 gives 3 cells by "SAME", the last of a single row."""
    pool = crossview.vgg16().pool1
    image = torch.arange(25.0).view(1, 1, 5, 5)
    wanted = torch.tensor([[6.0, 8, 9], [16, 18, 19], [21, 23, 24]])
    torch.testing.assert_close(pool(image)[0, 0], wanted)


@pytest.mark.slow
@needs_pairs
def test_the_papers_views_are_explained_completely(towers_file):
    towers = published.siamese_vgg16(towers_file)
    query, reference = (PAIRS / name for name in PHOTOGRAPHS["siamese_vgg16"])
    pair = wa.explain_pair(towers.ground, query, reference, reference_model=towers.aerial)
    assert pair.overall_map("query").shape == (14, 77)
    assert pair.overall_map("reference").shape == (32, 32)
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-6)
    for side in (pair.query, pair.reference):
        total = side.values.sum((0, 1)) + side.bias
        torch.testing.assert_close(total, side.embedding, rtol=1e-4, atol=1e-2)


def test_query_and_reference_may_have_networks_of_their_own(towers_file, small_towers):
    specs = ("published:siamese_vgg16/aerial", "published:siamese_vgg16/ground")
    aerial, ground = load_two(*specs, layer="trunk.relu4_3", checkpoint=towers_file)
    assert aerial.layer == ground.layer == "trunk.relu4_3"
    saved = load_file(towers_file)
    for model, tower in ((ground, "ground"), (aerial, "aerial")):
        assert torch.equal(model.net.trunk.conv3_2.weight, saved[f"{tower}.conv3_2.weight"])
    with pytest.warns(UserWarning, match="published:siamese_vgg16 has random weights") as warned:
        load_two("published:siamese_vgg16")
    assert len(warned) == 1
    one, same = load_two("timm:resnet10t", pretrained=False)
    assert one is same
    one, other = load_two("timm:resnet10t", "timm:resnet14t", pretrained=False, layer="layer3")
    assert (one.layer, other.layer) == ("layer3", "layer4")
    assert len(one.net.layer1) == 1


# -- as a spec -----------------------------------------------------------------------------------


def test_specs():
    with pytest.warns(UserWarning, match=r"published:bn_inception has random weights.*checkpoint"):
        wa.load("published:bn_inception", preprocess=wa.Preprocess(size=64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not where it is said that they are meant
        model = wa.load(
            "published:bn_inception",
            pretrained=False,
            layer="inception_4e_output",
            preprocess=wa.Preprocess(size=96),
        )
    assert repr(model).startswith("EmbeddingModel(1056×3×3 map of BNInception.inception_4e_output")
    with pytest.raises(ModelError, match="no published network 'bn'; there are: bn_inception, re"):
        wa.load("published:bn")
    with pytest.raises(ModelError, match="load published:siamese_vgg16/ground and published:siam"):
        wa.load("published:siamese_vgg16")
    with pytest.raises(LayerError, match="near ones: inception_4e_output"):
        wa.load("published:bn_inception", pretrained=False, layer="inception_4e_out")


def test_files_that_are_another_networks(loaded, towers_file, tmp_path):
    other = "reid_baseline" if loaded.name == "bn_inception" else "bn_inception"
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the network's|should have shape"):
        getattr(published, other)(loaded.path)
    with pytest.raises(CheckpointError, match="lacks"):
        getattr(published, loaded.name)(towers_file)
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(loaded.path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        getattr(published, loaded.name)(damaged)


# -- the command line ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name, seed in (("a.png", 3), ("b.png", 4)):
        noise = np.random.default_rng(seed).integers(0, 255, (60, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "mine.py").write_text(
        "import torch, whyalike as wa\n"
        "def make(size, d=4):\n"
        "    return wa.EmbeddingModel(torch.nn.Conv2d(3, 8, 8, 8), 'mean',\n"
        "                             torch.nn.Linear(8, d), wa.Preprocess(size=size))\n"
        "def street(): return make((16, 64))\n"
        "def air(): return make(32)\n"
        "def longer(): return make(32, 5)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def json_of(*arguments: str) -> dict:
    done = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.filterwarnings("default")  # here they are printed
def test_random_weights_are_said_to_be(folder, monkeypatch, capsys):
    command = ["explain", "a.png", "b.png", "--model", "published:bn_inception"]
    monkeypatch.setattr(sys, "argv", ["whyalike", *command])
    main()
    said = capsys.readouterr()
    assert said.err.startswith("whyalike: published:bn_inception has random weights, with which")
    assert len(said.err.splitlines()) == 1
    assert "similarity " in said.out


def test_both_towers_on_the_command_line(folder, towers_file, small_towers):
    command = ["explain", "a.png", "b.png", "--plain", "--checkpoint", str(towers_file)]
    both = json_of(*command, "--model", "published:siamese_vgg16")
    assert both["model"].startswith("512×2×3 map of Tower.trunk.relu5_3 → mean → Linear(512→4096)")
    named = [f"published:siamese_vgg16/{tower}" for tower in ("aerial", "ground")]
    swapped = ["explain", "b.png", "a.png", "--plain", "--checkpoint", str(towers_file)]
    other = json_of(*swapped, "--model", named[0], "--reference-model", named[1])
    assert other["similarity"] == pytest.approx(both["similarity"], abs=1e-6)
    assert other["terms"]["query_bias"] == pytest.approx(both["terms"]["reference_bias"], abs=1e-6)


def test_a_reference_model_of_ones_own(folder):
    command = ["explain", "a.png", "b.png", "--model", "mine:street", "--reference-model"]
    found = json_of(*command, "mine:air")
    assert found["query"]["grid_hw"] == [2, 8]
    assert found["reference"]["grid_hw"] == [4, 4]
    assert sum(found["terms"].values()) == pytest.approx(found["similarity"], abs=1e-6)
    with pytest.raises(ModelError, match="4"):
        CliRunner().invoke(cli, [*command, "mine:longer"], catch_exceptions=False)


def test_models_lists_them():
    listed = CliRunner().invoke(cli, ["models", "resnet10t"]).stdout
    assert all(f"  published:{spec} " in listed for spec in published.SPECS)
    as_json = json.loads(CliRunner().invoke(cli, ["models", "resnet10t", "--json"]).stdout)
    assert {"model": "published:ir_resnet152", "pretrained": False} in as_json


# -- importing -----------------------------------------------------------------------------------


def test_a_torch_file_becomes_safetensors(loaded, tmp_path):
    output = tmp_path / "out.safetensors"
    found = json_of("import-checkpoint", str(loaded.path), "-o", str(output))
    assert found == {"model": f"published:{loaded.name}", "files": [str(output)]}
    state = load_file(output)
    assert all(torch.equal(state[k], v) for k, v in loaded.net.state_dict().items())
    with safe_open(output, "pt") as file:
        assert file.metadata() == {"network": loaded.name}


def test_files_that_cannot_be_imported(tmp_path):
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"no weights of a published network .*: a\.weight$"):
        importing.import_checkpoint(tmp_path / "other.pt", tmp_path / "out.safetensors")
    half = {k: v for k, v in trained("reid_baseline").state_dict().items() if "conv.6" not in k}
    torch.save(half, tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match=r"lacks \d+ of the network's 324 weights"):
        importing.import_checkpoint(tmp_path / "half.pt", tmp_path / "out.safetensors")
    run = CliRunner()
    for arguments, error, message in (
        (["missing", "-o", "out.safetensors"], CheckpointError, "no such file"),
        ([str(tmp_path / "half.pt"), "-o", "out.pt"], OutputFileError, "one of .safetensors"),
    ):
        with pytest.raises(error, match=message):
            run.invoke(cli, ["import-checkpoint", *arguments], catch_exceptions=False)
    assert not (tmp_path / "out.safetensors").exists()


def theirs() -> dict[str, np.ndarray]:
    """The variables of the authors' TensorFlow checkpoint, with other numbers."""
    generator = np.random.default_rng(0)
    sizes = {"Gap_local/fc1": (512, 4096)}
    for scope in ("Grd", "Sat"):
        channels = 3
        for stage, out, count in crossview.STAGES:
            for number in range(1, count + 1):
                sizes[f"{scope}/conv{stage}_{number}"] = (3, 3, channels, out)
                channels = out
    variables = {f"{name}/weights": shape for name, shape in sizes.items()}
    variables |= {f"{name}/biases": shape[-1:] for name, shape in sizes.items()}
    return {
        name: generator.standard_normal(shape, dtype=np.float32)
        for name, shape in variables.items()
    }


class Reader:
    """As TensorFlow's reader of checkpoints."""

    def __init__(self, variables: dict[str, np.ndarray]) -> None:
        self.variables = variables

    def get_variable_to_shape_map(self):
        return {name: list(value.shape) for name, value in self.variables.items()}

    def get_variable_to_dtype_map(self):
        return {
            name: SimpleNamespace(name=value.dtype.name, is_floating=value.dtype.kind == "f")
            for name, value in self.variables.items()
        }

    def get_tensor(self, name):
        return self.variables[name]


@pytest.fixture
def tensorflow(monkeypatch):
    """A stand-in for TensorFlow that finds the variables that it is given."""

    def found(variables: dict[str, np.ndarray]) -> None:
        train = SimpleNamespace(load_checkpoint=lambda prefix: Reader(variables))
        monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(train=train))

    return found


def check_imported(state: dict[str, torch.Tensor], variables: dict[str, np.ndarray]) -> None:
    assert {k: list(v.shape) for k, v in state.items()} == shapes("siamese_vgg16")
    for tower, scope in (("ground", "Grd"), ("aerial", "Sat")):
        # One pixel by hand: TensorFlow sums rows, columns and channels of the patch around it.
        patch = np.random.default_rng(1).standard_normal((3, 3, 64)).astype(np.float32)
        kernel, bias = (variables[f"{scope}/conv2_1/{part}"] for part in ("weights", "biases"))
        by_hand = np.einsum("hwi,hwio->o", patch, kernel) + bias
        mine = nn.functional.conv2d(
            torch.from_numpy(patch).permute(2, 0, 1)[None],
            state[f"{tower}.conv2_1.weight"],
            state[f"{tower}.conv2_1.bias"],
        )
        torch.testing.assert_close(mine.flatten(), torch.from_numpy(by_hand), rtol=1e-4, atol=1e-4)
    pooled = np.random.default_rng(2).standard_normal(512).astype(np.float32)
    by_hand = pooled @ variables["Gap_local/fc1/weights"] + variables["Gap_local/fc1/biases"]
    mine = nn.functional.linear(torch.from_numpy(pooled), state["fc1.weight"], state["fc1.bias"])
    torch.testing.assert_close(mine, torch.from_numpy(by_hand), rtol=1e-4, atol=1e-3)


def test_tensorflows_variables_become_ours(tensorflow, tmp_path):
    variables = theirs()
    tensorflow({**variables, "Sat/conv1_1/weights/Adam": np.zeros(3), "step": np.zeros((), int)})
    (tmp_path / "model.ckpt.index").touch()
    output = tmp_path / "towers.safetensors"
    assert importing.import_checkpoint(tmp_path / "model.ckpt", output) == "siamese_vgg16"
    check_imported(load_file(output), variables)
    assert importing.import_checkpoint(tmp_path / "model.ckpt.index", output) == "siamese_vgg16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("Grd/conv5_3/biases"), "lacks 'Grd/conv5_3/biases'; is it another"),
        (
            lambda v: v.update({"Sat/conv1_1/weights": np.zeros((64, 3, 3, 3), np.float32)}),
            r"should hold floats of shape \(3, 3, 3, 64\), the file has float32 of shape \(64, ",
        ),
        (
            lambda v: v.update({"Gap_local/fc1/biases": np.zeros(4096, np.int64)}),
            r"the file has int64 of shape \(4096,\)",
        ),
    ],
    ids=["missing", "shape", "kind"],
)
def test_tensorflows_variables_are_checked(tensorflow, change, message):
    variables = theirs()
    change(variables)
    tensorflow(variables)
    with pytest.raises(CheckpointError, match=message):
        importing.read_tensorflow("model.ckpt")


def test_without_tensorflow_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CheckpointError, match=r"pip install 'whyalike\[tensorflow\]'"):
        importing.read_tensorflow("model.ckpt")


WRITE = """
import sys, numpy, tensorflow
variables = numpy.load(sys.argv[1])
names = list(variables)
tensorflow.raw_ops.SaveV2(prefix=sys.argv[2], tensor_names=names,
                          shape_and_slices=[""] * len(names),
                          tensors=[variables[name] for name in names])
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorflow") is None, reason="tensorflow is not installed")
def test_a_checkpoint_that_tensorflow_wrote(tmp_path):
    """In processes of their own: TensorFlow's warnings and threads are its own business."""
    variables = theirs()
    np.savez(tmp_path / "variables.npz", **variables)
    command = [sys.executable, "-c", WRITE, "variables.npz", "model.ckpt"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "model.ckpt.index").is_file()

    def convert(prefix: str, output: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "whyalike", "import-checkpoint", prefix, "-o", output],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    done = convert("model.ckpt", "towers.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote towers.safetensors, for --model published:siamese_vgg16\n"
    check_imported(load_file(tmp_path / "towers.safetensors"), variables)
    (tmp_path / "model.ckpt.index").write_bytes(b"no table" * 40)
    done = convert("model.ckpt", "again.safetensors")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "whyalike: model.ckpt: cannot be read as a TensorFlow checkpoint ("
    )
    assert not (tmp_path / "again.safetensors").exists()
