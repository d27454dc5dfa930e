"""Networks of Hugging Face's transformers: tiny ones with random weights, saved into a folder."""

import copy
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import skimage.data
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, QuickGELUActivation, SiLUActivation

import whyalike as wa
from nets import seeded
from oracle import Held, HeldNorm, held_decomposition
from whyalike.errors import CheckpointError, ModelError
from whyalike.layout import Layout
from whyalike.zoo import image_processor

SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
       "intermediate_size": 24, "image_size": SIDE, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 2}  # fmt: skip
STAGES = {"num_stages": 3, "hidden_sizes": [8, 10, 12], "depths": [1, 1, 1], "patch_size": 2}
WINDOWS = {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2],
           "num_heads": [2, 2], "window_size": 2}  # fmt: skip


def pooler(output, model) -> Tensor:
    return output.pooler_output.flatten(1)


def token(output, model) -> Tensor:
    return output.last_hidden_state[:, 0]


def features(output, model) -> Tensor:
    """Of a model of images and texts, by its own method."""
    return output if isinstance(output, Tensor) else output.pooler_output


def stretched() -> hf.ViTImageProcessor:
    return hf.ViTImageProcessor(size=SQUARE)


def cropped() -> hf.BitImageProcessor:
    return hf.BitImageProcessor(size={"shortest_edge": 37}, crop_size=SQUARE)


def clip_vision() -> nn.Module:
    config = hf.CLIPVisionConfig(**VIT, projection_dim=12)
    return hf.CLIPVisionModelWithProjection(config)


def mlps(ratio: int = 2) -> dict:
    return {k: v for k, v in VIT.items() if k != "intermediate_size"} | {"mlp_ratio": ratio}


# name: (the network, its image processor, what the embedding is to be, layers to cut at, tokens)
FAMILIES = {
    "ViT": (lambda: hf.ViTModel(hf.ViTConfig(**VIT)), stretched, token,
            ("embeddings", "layers.0", "layers.1"), 1),
    "DeiT": (lambda: hf.DeiTModel(hf.DeiTConfig(**VIT)),
             lambda: hf.DeiTImageProcessor(size={"height": 36, "width": 36}, crop_size=SQUARE),
             token, ("layers.0", "layers.1"), 2),
    "BEiT": (lambda: hf.BeitModel(hf.BeitConfig(**VIT)), stretched, pooler,
             ("layers.0", "layers.2"), 1),
    "DINOv2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**mlps())), cropped, pooler,
               ("encoder.layer.0", "encoder.layer.1"), 1),
    "DINOv2, SwiGLU": (
        lambda: hf.Dinov2Model(hf.Dinov2Config(**mlps(), use_swiglu_ffn=True)), cropped, pooler,
        ("encoder.layer.0", "encoder.layer.1"), 1),
    "DINOv2 with registers": (
        lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**mlps(), num_register_tokens=3)),
        cropped, pooler, ("encoder.layer.0", "encoder.layer.1"), 4),
    "DINOv3": (
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VIT, num_register_tokens=4)),
        lambda: hf.DINOv3ViTImageProcessor(size=SQUARE), pooler,
        ("model.layer.0", "model.layer.1"), 5),
    "DINOv3, SwiGLU": (
        lambda: hf.DINOv3ViTModel(
            hf.DINOv3ViTConfig(**VIT, use_gated_mlp=True, hidden_act="silu")),
        lambda: hf.DINOv3ViTImageProcessor(size=SQUARE), pooler,
        ("model.layer.0", "model.layer.1"), 1),
    "DINOv3, ConvNeXt": (
        lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(
            hidden_sizes=[8, 10, 12, 14], depths=[1, 1, 1, 1])),
        lambda: hf.DINOv3ViTImageProcessor(size={"height": 64, "width": 64}), pooler,
        ("model.stages.0", "model.stages.2.layers.0", "model.stages.3"), 0),
    "CLIP": (
        lambda: hf.CLIPModel(hf.CLIPConfig(
            vision_config=VIT, text_config=TEXT, projection_dim=12)),
        lambda: hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE), features,
        ("vision_model.encoder.layers.0", "vision_model.encoder.layers.1"), 1),
    "CLIP, vision tower": (
        lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VIT)),
        lambda: hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE), pooler,
        ("pre_layrnorm", "encoder.layers.1"), 1),
    "CLIP, projected tower": (
        clip_vision, lambda: hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        lambda output, model: output.image_embeds, ("vision_model.encoder.layers.1",), 1),
    "MetaCLIP 2": (
        lambda: hf.MetaClip2Model(hf.MetaClip2Config(
            vision_config=VIT, text_config=TEXT, projection_dim=12)),
        lambda: hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE), features,
        ("vision_model.encoder.layers.0",), 1),
    "SigLIP": (
        lambda: hf.SiglipModel(hf.SiglipConfig(vision_config=VIT, text_config=TEXT)),
        lambda: hf.SiglipImageProcessor(size=SQUARE), features,
        ("encoder.layers.0", "encoder.layers.1", "post_layernorm"), 0),
    "Swin": (lambda: hf.SwinModel(hf.SwinConfig(**WINDOWS)), stretched, pooler,
             ("encoder.layers.0.blocks.1", "encoder.layers.0", "encoder.layers.1.blocks.0",
              "layernorm"), 0),
    "Swin V2": (lambda: hf.Swinv2Model(hf.Swinv2Config(**WINDOWS)), stretched, pooler,
                ("encoder.layers.0.blocks.1", "encoder.layers.1.blocks.0"), 0),
    "ConvNeXt": (lambda: hf.ConvNextModel(hf.ConvNextConfig(**STAGES)),
                 lambda: hf.ConvNextImageProcessor(size={"shortest_edge": SIDE}), pooler,
                 ("encoder.stages.0", "encoder.stages.1.layers.0", "encoder.stages.2"), 0),
    "ConvNeXt V2": (lambda: hf.ConvNextV2Model(hf.ConvNextV2Config(**STAGES)),
                    lambda: hf.ConvNextImageProcessor(size={"shortest_edge": SIDE}), pooler,
                    ("encoder.stages.0", "encoder.stages.1.layers.0", "encoder.stages.2"), 0),
    "ResNet": (
        lambda: hf.ResNetModel(hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 2])),
        lambda: hf.ConvNextImageProcessor(size={"shortest_edge": 64}), pooler,
        ("embedder", "encoder.stages.1", "encoder.stages.3.layers.0", "encoder.stages.3"), 0),
}  # fmt: skip


def perturbed(net: nn.Module) -> nn.Module:
    """Biases, statistics, scales and tokens that are not zero, norms that do something."""
    generator = seeded(3)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and (tensor.dim() <= 1 or not tensor.any()):
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor += 0.2 * (noise.abs() if name.endswith("running_var") else noise)
    return net.eval()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a family's network, and the network as it was saved."""
    made = {}

    def of(family: str):
        if family not in made:
            build, processor, *_ = FAMILIES[family]
            torch.manual_seed(0)
            net = perturbed(build())
            folder = tmp_path_factory.mktemp("networks") / family.replace(" ", "_")
            net.save_pretrained(folder)
            processor().save_pretrained(folder)
            made[family] = folder, net
        return made[family]

    return of


@pytest.fixture
def vit(folder_of, tmp_path):
    """A copy of a ViT's folder, to spoil."""
    return shutil.copytree(folder_of("ViT")[0], tmp_path / "vit")


def rewrite(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def layer_of(family: str, index: int = 0) -> str:
    return f"model.{FAMILIES[family][3][index]}"


def load(folder, layer: str, choice: str = "", **options) -> wa.EmbeddingModel:
    return wa.load(f"transformers:{folder}{choice}", layer=layer, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_embedding_is_the_one_that_people_use(family, folder_of):
    folder, net = folder_of(family)
    _, _, embedding, _, tokens = FAMILIES[family]
    model = load(folder, layer_of(family))
    x = torch.randn(2, 3, *model.preprocess.size_hw, generator=seeded(1))
    run = net.get_image_features if embedding is features else net
    with torch.no_grad():
        expected = embedding(run(pixel_values=x), net)
        torch.testing.assert_close(model.net(x), expected, rtol=1e-5, atol=1e-6)
    assert model.net.num_prefix_tokens == tokens
    assert model.layout(x).prefix == tokens


VARIANTS = ("BEiT", "DINOv3, ConvNeXt", "CLIP, vision tower", "CLIP, projected tower", "Swin V2",
            "MetaCLIP 2", "ConvNeXt")  # fmt: skip
WITH_SURROGATES = [
    pytest.param(family, surrogate, marks=[pytest.mark.slow] * (i > 0 and family in VARIANTS))
    for family in FAMILIES
    for i, surrogate in enumerate(("gates", "gamma"))
]


@pytest.mark.parametrize(("family", "surrogate"), WITH_SURROGATES)
def test_completeness_at_each_depth(family, surrogate, folder_of):
    model = load(folder_of(family)[0], layer_of(family))
    x = torch.randn(3, *model.preprocess.size_hw, generator=seeded(1))
    with torch.no_grad():
        E = model.net(x[None])[0]
    for layer in FAMILIES[family][3]:
        found = model.cut(f"model.{layer}", surrogate=surrogate, biases="located").explain(x)
        assert found.taylor == {}
        carried = found.total() + found.prefix.sum(0)
        torch.testing.assert_close(carried + found.bias, E, rtol=1e-4, atol=1e-4)
    # What is added to tokens and maps is located; to the pooled vector, a norm, a projection or
    # the layers of a pooling behind it add more.
    if family in ("ViT", "DeiT", "DINOv2", "DINOv2 with registers", "DINOv3", "Swin", "ResNet"):
        assert found.bias.norm() < 1e-4 * E.norm()
    # nothing stays behind
    with torch.no_grad():
        assert torch.equal(model.net(x[None])[0], E)


@pytest.mark.parametrize("family", [f for f in FAMILIES if "ConvNeXt" not in f and f != "ResNet"])
def test_eager_attention_is_explained_as_well(family, folder_of):
    model = load(folder_of(family)[0], layer_of(family, -1))
    x = torch.randn(3, *model.preprocess.size_hw, generator=seeded(1))
    u = torch.randn(len(model.net(x[None])[0]), generator=seeded(2))
    first = model.explain(x)
    model.net.model.set_attn_implementation("eager")
    found = model.explain(x)
    assert found.taylor == {}
    torch.testing.assert_close(found.prefix, first.prefix, rtol=1e-4, atol=1e-5)
    # one reverse-mode derivative, against all the v by forward-mode ones
    torch.testing.assert_close(found.map(u), first.values @ u, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["ViT", "DINOv2 with registers", "Swin", "SigLIP", "ConvNeXt"])
def test_depths_and_pairs(family, folder_of, tmp_path):
    folder, _ = folder_of(family)
    model = load(folder, layer_of(family))
    photos = skimage.data.astronaut(), skimage.data.chelsea()
    for step in model.depths(photos[0]):
        assert step.layer.startswith("model.")
        assert step.cells + step.prefix + step.bias == pytest.approx(1)
    pair = wa.explain_pair(model, *photos)
    total = sum(value for row in pair.ledger.values() for value in row.values())
    assert total == pytest.approx(pair.similarity, abs=1e-5)
    pair.save(tmp_path / "pair.npz")


def test_the_layer_is_found(folder_of):
    """Of tokens by what cells carry; the norm behind the blocks is a step of a wrapped network."""
    model = wa.load(f"transformers:{folder_of('Swin')[0]}")
    assert model.layer == "model.layernorm"
    assert "cells carry 100%" in repr(model)
    model = wa.load(f"transformers:{folder_of('BEiT')[0]}")
    assert model.layer == "model.layernorm"
    model = wa.load(f"transformers:{folder_of('ResNet')[0]}")
    assert repr(model) == (
        "EmbeddingModel(20×2×2 map of TransformersNetwork.model.encoder.stages.3 → mean → "
        "embedding of 20)"
    )
    assert "→ mean → LayerNorm →" in repr(wa.load(f"transformers:{folder_of('ConvNeXt V2')[0]}"))


# -- against the full Jacobian of a held network ---------------------------------------------------

ACTIVATIONS = GELUActivation | GELUTanh | QuickGELUActivation | SiLUActivation | nn.GELU | nn.SiLU


class HeldAttention(nn.Module):
    """Attention with the weights that it gave."""

    def __init__(self, attention: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.v_proj, self.weights = attention.v_proj, weights
        self.out = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj

    def forward(self, hidden_states: Tensor, *_, **__) -> tuple[Tensor, None]:
        n, tokens, channels = hidden_states.shape
        v = self.v_proj(hidden_states).view(n, tokens, self.weights.shape[1], -1).transpose(1, 2)
        return self.out((self.weights @ v).transpose(1, 2).reshape(n, tokens, channels)), None


class HeldGatedMLP(nn.Module):
    """A branch times another one, which is a number."""

    def __init__(self, mlp: nn.Module, gate: Tensor) -> None:
        super().__init__()
        self.up_proj, self.down_proj, self.gate = mlp.up_proj, mlp.down_proj, gate

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.up_proj(x) * self.gate)


def hold(net: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in which each gate is what it was at these images.

    Attention weights are those that transformers itself returns, by its eager attention.
    """
    net = copy.deepcopy(net)
    net.model.set_attn_implementation("eager")
    inputs, weights = {}, {}

    def note(name):
        return lambda m, given, out: inputs.update({name: given[0].detach().clone()})

    def note_weights(name):
        return lambda m, given, out: weights.update({name: out[1].detach().clone()})

    handles = []
    for name, module in net.named_modules():
        if isinstance(module, ACTIVATIONS | nn.LayerNorm) or hasattr(module, "gate_proj"):
            handles.append(module.register_forward_hook(note(name)))
        if hasattr(module, "v_proj"):
            handles.append(module.register_forward_hook(note_weights(name)))
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    for name, module in list(net.named_modules()):
        x = inputs.get(name)
        with torch.no_grad():
            if name in weights:
                held = HeldAttention(module, weights[name])
            elif hasattr(module, "gate_proj"):
                held = HeldGatedMLP(module, module.act_fn(module.gate_proj(x)))
            elif isinstance(module, ACTIVATIONS) and x is not None:
                held = Held(torch.where(x == 0, 0.0, module(x) / x))
            elif isinstance(module, nn.LayerNorm) and x is not None:
                held = HeldNorm(module, x, -1)
            else:
                continue
        setattr(net.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], held)
    return net.eval()


@pytest.mark.parametrize(
    ("family", "choice"),
    [("ViT", "#cls"), ("ViT", "#mean"), ("DeiT", "#cls"), ("DINOv2 with registers", "#pooler"),
     ("DINOv3", "#pooler"), ("DINOv3, SwiGLU", "#pooler"), ("CLIP", "#projection"),
     ("SigLIP", "#mean")],
)  # fmt: skip
def test_values_are_the_full_jacobian_of_the_held_network(family, choice, folder_of):
    made = load(folder_of(family)[0], layer_of(family), choice)
    net = made.net.double()
    net.model.set_attn_implementation("eager")
    x = torch.randn(1, 3, SIDE, SIDE, generator=seeded(1), dtype=torch.float64)
    v, b = held_decomposition(net, made.layer, x, hold)
    flat = v.sum(-1).flatten(1).T
    p = FAMILIES[family][4]
    # Eager attention has its softmax in float32, by whose rounding the other one lies apart.
    for attention, near in (("eager", 1e-8), ("sdpa", 1e-6)):
        net.model.set_attn_implementation(attention)
        model = wa.EmbeddingModel.from_module(net, made.layer, made.preprocess)
        found = model._cut.decompose(x)
        assert found.layout == Layout("tokens", (4, 4), p)
        assert found.taylor == [{}]
        torch.testing.assert_close(found.prefix[0], flat[:p], rtol=near, atol=near)
        torch.testing.assert_close(found.values()[0], flat[p:], rtol=near, atol=near)
        torch.testing.assert_close(found.b[0], b, rtol=near, atol=near)


# -- which embedding -------------------------------------------------------------------------------


def test_the_embedding_may_be_chosen(folder_of):
    x = torch.randn(2, 3, SIDE, SIDE, generator=seeded(1))
    folder, net = folder_of("DINOv2 with registers")
    with torch.no_grad():
        output = net(pixel_values=x)
        found = load(folder, layer_of("DINOv2 with registers"), "#mean").net(x)
    # a class token and three registers come first
    torch.testing.assert_close(found, output.last_hidden_state[:, 4:].mean(1))
    folder, net = folder_of("ViT")
    with torch.no_grad():
        found = load(folder, "model.layers.0", "#pooler").net(x)
        torch.testing.assert_close(found, net(pixel_values=x).pooler_output)


@pytest.mark.parametrize(
    ("family", "choice", "message"),
    [
        ("SigLIP", "#cls", r"has no embedding #cls; it has #pooler, #mean$"),
        ("CLIP", "#pooler", r"has no embedding #pooler; it has #projection, #cls, #mean$"),
        ("ViT", "#projection", r"has no embedding #projection; it has #pooler, #cls, #mean$"),
        ("ResNet", "#cls", r"has no embedding #cls; it has #pooler, #mean$"),
        ("ViT", "#first", "is one of #projection, #pooler, #cls, #mean; came #first$"),
    ],
)
def test_an_embedding_that_is_not_there(family, choice, message, folder_of):
    with pytest.raises(ModelError, match=message):
        load(folder_of(family)[0], layer_of(family), choice)


def test_a_pooler_without_weights_is_not_made_up(tmp_path):
    """As in checkpoints of classifiers, from which nothing is missing but the pooler."""
    torch.manual_seed(0)
    classifier = perturbed(hf.ViTForImageClassification(hf.ViTConfig(**VIT)))
    classifier.save_pretrained(tmp_path)
    stretched().save_pretrained(tmp_path)
    model = load(tmp_path, "model.layers.0")
    x = torch.randn(1, 3, SIDE, SIDE, generator=seeded(1))
    with torch.no_grad():
        expected = classifier.vit(pixel_values=x).last_hidden_state[:, 0]
        torch.testing.assert_close(model.net(x), expected)
    with pytest.raises(CheckpointError, match=r"lacks 2 .* weights, such as pooler\.dense\.bias"):
        load(tmp_path, "model.layers.0", "#pooler")


def test_weights_that_are_missing(vit):
    from safetensors.torch import load_file, save_file

    state = load_file(vit / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, vit / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of the network's weights, such as layernorm"
    ):
        load(vit, "model.layers.0")
    assert load(vit, "model.layers.0", pretrained=False)


def test_random_weights_need_no_file_of_them(vit):
    os.remove(vit / "model.safetensors")
    assert "16×1 + 4×4 tokens map" in repr(load(vit, "model.layers.0", pretrained=False))
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        load(vit, "model.layers.0")


def test_a_folder_may_have_a_hash_in_its_name(vit):
    there = vit.rename(vit.parent / "vit#2")
    assert load(there, "model.layers.0").net.choice == "cls"
    assert load(there, "model.layers.0", "#mean").net.choice == "mean"


def test_half_precision_is_computed_in_float32(folder_of, tmp_path):
    copy.deepcopy(folder_of("ViT")[1]).half().save_pretrained(tmp_path)
    stretched().save_pretrained(tmp_path)
    assert next(load(tmp_path, "model.layers.0").net.parameters()).dtype == torch.float32


# -- preprocessing ---------------------------------------------------------------------------------

PROCESSORS = {
    "ViT": hf.ViTImageProcessor(),
    "CLIP": hf.CLIPImageProcessor(),
    "SigLIP": hf.SiglipImageProcessor(),
    "DeiT": hf.DeiTImageProcessor(),
    "DINOv2": hf.BitImageProcessor(size={"shortest_edge": 256}),
    "ConvNeXt, 224": hf.ConvNextImageProcessor(size={"shortest_edge": 224}),
    "ConvNeXt, 384": hf.ConvNextImageProcessor(),
    "DINOv3": hf.DINOv3ViTImageProcessor(),
    "not normalised": hf.ViTImageProcessor(do_normalize=False),
    "not scaled": hf.ViTImageProcessor(do_rescale=False, image_mean=[100, 120, 90]),
    "scaled to -1..1": hf.ViTImageProcessor(
        rescale_factor=1 / 127.5, image_mean=[1, 1, 1], image_std=[1, 1, 1]
    ),
    "nearest": hf.ViTImageProcessor(resample=Image.Resampling.NEAREST),
}


@pytest.mark.parametrize("size_wh", [(401, 300), (300, 413)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_photographs_are_prepared_as_the_processor_does(name, size_wh, tmp_path):
    PROCESSORS[name].save_pretrained(tmp_path)
    ours = image_processor.preprocess(str(tmp_path))
    width, height = size_wh
    photo = Image.fromarray(skimage.data.astronaut()[:height, :width])
    found, view = ours(photo)
    std = torch.tensor(ours.std).view(3, 1, 1)
    if name != "DINOv3":  # which has no other
        pillow = hf.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        theirs = pillow(photo, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
    # Resampling in torch rounds otherwise, and finds the nearest pixel otherwise, than Pillow.
    theirs = PROCESSORS[name](photo, return_tensors="pt")["pixel_values"][0]
    levels = ((found - theirs) * std * 255).abs()
    assert levels.mean() < 0.3 or name == "nearest"
    assert levels.max() < 8 or name == "nearest"
    assert view[2] - view[0] <= width


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (hf.BitImageProcessor(do_center_crop=False), "keeps proportions without cutting out"),
        (hf.BitImageProcessor(crop_size={"height": 200, "width": 100}), "keeps proportions"),
        (hf.ViTImageProcessor(do_resize=False), "does not resize"),
        (hf.BitImageProcessor(size={"shortest_edge": 200}), r"it crops \(224, 224\) out of"),
        (hf.EfficientNetImageProcessor(), "something to images that a Preprocess does not"),
        (hf.ViTImageProcessor(size={"height": 10**6, "width": 10**6}), "at most 100,000,000"),
        (hf.ViTImageProcessor(image_std=[0, 1, 1]), "std is three numbers above 0"),
    ],
    ids=lambda x: "" if isinstance(x, str) else type(x).__name__,
)
def test_preprocessing_that_is_not_ours_is_refused(processor, message, vit):
    processor.save_pretrained(vit)
    with pytest.raises(ModelError, match=message) as error:
        load(vit, "model.layers.0")
    assert "\n" not in str(error.value)
    # and may be given instead
    assert load(vit, "model.layers.0", preprocess=wa.Preprocess(size=SIDE))


@pytest.mark.parametrize("kind", [None, "AutoModel", "pipeline", "AutoImageProcessor", 3])
def test_what_is_no_image_processor(kind, vit):
    rewrite(vit / "preprocessor_config.json", image_processor_type=kind)
    with pytest.raises(ModelError, match=r"names no image processor|cannot be taken over"):
        load(vit, "model.layers.0")


def test_a_folder_without_an_image_processor(vit):
    os.remove(vit / "preprocessor_config.json")
    with pytest.raises(ModelError, match=r"has no image processor \(preprocessor_config\.json\)"):
        load(vit, "model.layers.0")


# -- strangers -------------------------------------------------------------------------------------


def test_code_of_a_folder_is_not_run(vit, monkeypatch):
    monkeypatch.delenv("WHYALIKE_PWNED", raising=False)
    (vit / "evil.py").write_text("import os; os.environ['WHYALIKE_PWNED'] = '1'")
    config = json.loads((vit / "config.json").read_text())
    rewrite(vit / "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    with pytest.raises(ModelError, match=r"holds code of its own, which is not run \(auto_map\)"):
        load(vit, "model.layers.0")
    (vit / "config.json").write_text(json.dumps(config))
    rewrite(vit / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Processor"})
    with pytest.raises(ModelError, match=r"is code of its own, which is not run \(auto_map\)"):
        load(vit, "model.layers.0")
    assert load(vit, "model.layers.0", preprocess=wa.Preprocess(size=SIDE))
    assert "WHYALIKE_PWNED" not in os.environ


class Payload:
    """What must never run."""

    def __reduce__(self):
        return (exec, ("import os; os.environ['WHYALIKE_PWNED'] = '1'",))


def test_weights_of_torch_are_read_without_code(vit, monkeypatch):
    monkeypatch.delenv("WHYALIKE_PWNED", raising=False)
    expected = load(vit, "model.layers.0").net.state_dict()
    os.remove(vit / "model.safetensors")
    state = {k.removeprefix("model."): v for k, v in expected.items()}
    torch.save(state, vit / "pytorch_model.bin")
    found = load(vit, "model.layers.0").net.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    torch.save({**state, "x": Payload()}, vit / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="its weights cannot be read") as error:
        load(vit, "model.layers.0")
    assert "\n" not in str(error.value)
    (vit / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="its weights cannot be read"):
        load(vit, "model.layers.0")
    assert "WHYALIKE_PWNED" not in os.environ


HOSTILE = {
    "quantised": ({"quantization_config": {"quant_method": "bnb"}}, "holds quantised weights"),
    "no type": ({"model_type": None}, "knows no networks of type None"),
    "unknown type": ({"model_type": "nothing"}, "knows no networks of type 'nothing'"),
    "a list as type": ({"model_type": ["vit"]}, "knows no networks of type"),
    "text": ({"model_type": "bert"}, "networks of type 'bert' take more than images"),
    "images and text": ({"model_type": "blip"}, "networks of type 'blip' take more than images"),
    "timm": ({"model_type": "timm_wrapper"}, "name it timm:NAME"),
    "many layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is at most 1000; came 10000"),
    "wide": ({"hidden_size": 10**6, "intermediate_size": 10**6}, r"has [\d,]+ weights; at most"),
    "no numbers": ({"hidden_size": "16"}, "its config.json makes no network"),
    "heads": ({"num_attention_heads": 0}, "its config.json makes no network"),
    "other shapes": ({"intermediate_size": 20}, "its weights cannot be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_settings_of_strangers(name, vit):
    changes, message = HOSTILE[name]
    rewrite(vit / "config.json", **changes)
    with pytest.raises(ModelError, match=message) as error:
        load(vit, "model.layers.0")
    assert "\n" not in str(error.value)


def test_how_to_run_it_is_not_the_folders_to_say(vit):
    """A name of an attention kernel is one to fetch from the hub and to start."""
    kernel = "someone/kernels"
    rewrite(vit / "config.json", attn_implementation=kernel, _attn_implementation=kernel,
            return_dict=False, output_attentions=True, dtype="float16")  # fmt: skip
    net = load(vit, "model.layers.0").net
    assert net.model.config._attn_implementation == "sdpa"
    assert next(net.parameters()).dtype == torch.float32


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_files_that_are_damaged(name, content, vit):
    (vit / name).write_bytes(content)
    with pytest.raises(ModelError) as error:
        load(vit, "model.layers.0")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith((f"{vit}: ", "transformers cannot find"))


def test_an_adapter_is_refused(vit):
    (vit / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/network"}')
    with pytest.raises(ModelError, match="holds an adapter; merge it"):
        load(vit, "model.layers.0")


@pytest.mark.parametrize("name", ["", "/no/such/folder", "../away", "a/b/c", "a b", "https://x/y"])
def test_names_that_are_none(name):
    with pytest.raises(ModelError, match="is a folder or a name on the hub such as"):
        wa.load(f"transformers:{name}")


def test_what_else_is_refused(vit):
    with pytest.raises(ModelError, match="leave the checkpoint out"):
        load(vit, "model.layers.0", checkpoint=vit / "model.safetensors")
    with pytest.raises(ModelError, match=r"running the network raised ValueError: Input image"):
        load(vit, "model.layers.0", preprocess=wa.Preprocess(size=48))


def test_an_explanation_of_real_photographs_adds_up(folder_of):
    folder, _ = folder_of("DINOv2 with registers")
    model = load(folder, layer_of("DINOv2 with registers"))
    pair = wa.explain_pair(model.sharp(), skimage.data.astronaut(), skimage.data.chelsea())
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-5)
    assert np.isfinite(pair.overall_map("query").numpy()).all()
