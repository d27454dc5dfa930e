"""Transformers and any depth: completeness, and the full Jacobian of networks with held gates."""

from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.models import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn

import whyalike as wa
from nets import seeded
from oracle import held_biases, held_decomposition
from whyalike import baselines
from whyalike.errors import LayerError
from whyalike.layout import Layout, find_layout

HW = (32, 48)


def perturbed(net: nn.Module) -> nn.Module:
    """Biases and statistics that are not zero, norms that do something."""
    generator = seeded(3)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() <= 1:
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor += 0.2 * (noise.abs() if name.endswith("running_var") else noise)
    return net.eval()


def vit(**options) -> nn.Module:
    options = {
        "img_size": HW,
        "patch_size": 8,
        "embed_dim": 12,
        "depth": 3,
        "num_heads": 2,
        **options,
    }
    torch.manual_seed(0)
    return perturbed(timm.models.VisionTransformer(num_classes=0, **options).double())


def swin() -> nn.Module:
    torch.manual_seed(0)
    return perturbed(timm.models.SwinTransformer(
        img_size=(32, 48), patch_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2),
        window_size=2, num_classes=0).double())  # fmt: skip


def convnext() -> nn.Module:
    torch.manual_seed(0)
    return perturbed(
        timm.models.ConvNeXt(
            patch_size=2,
            depths=(1, 1, 1, 1),
            dims=(8, 10, 12, 14),
            ls_init_value=0.5,
            num_classes=0,
        ).double()
    )


def efficientnet() -> nn.Module:
    torch.manual_seed(0)
    return perturbed(timm.create_model("efficientnet_lite0", num_classes=16).double())


def images(n: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, 3, *HW, generator=seeded(1), dtype=dtype)


def unfused(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return net


# what it is: (network, layer to cut at, layout there)
SMALL = {
    "ViT": (vit, "blocks.0", Layout("tokens", (4, 6), 1)),
    "ViT, last block": (vit, "blocks.1", Layout("tokens", (4, 6), 1)),
    "ViT, registers and LayerScale": (
        lambda: vit(reg_tokens=2, init_values=0.5), "blocks.0", Layout("tokens", (4, 6), 3)),
    "ViT, mean of tokens": (
        lambda: vit(global_pool="avg", class_token=False, fc_norm=True), "blocks.1",
        Layout("tokens", (4, 6))),
    "ViT, attention pooling": (
        lambda: vit(global_pool="map", class_token=False), "blocks.2", Layout("tokens", (4, 6))),
    "ViT, normed queries and keys": (
        lambda: vit(qk_norm=True), "blocks.0", Layout("tokens", (4, 6), 1)),
    "Swin": (swin, "layers.0", Layout("channels last", (8, 12))),
    "Swin, a window block": (swin, "layers.1.blocks.0", Layout("channels last", (4, 6))),
    "ConvNeXt": (convnext, "stages.1", Layout("channels first", (4, 6))),
    "EfficientNet": (efficientnet, "blocks.4", Layout("channels first", (2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [k for k in SMALL if "pooling" not in k])
def test_values_are_the_full_jacobian_of_the_held_network(kind, fused):
    build, layer, layout = SMALL[kind]
    if not fused and kind in ("ConvNeXt", "EfficientNet"):
        pytest.skip("has no attention")
    net, x = build(), images()
    v, b = held_decomposition(unfused(build()), layer, x)
    if not fused:
        net = unfused(net)
    model = wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=HW))
    found = model._cut.decompose(x)
    assert found.layout == layout
    assert not any(found.taylor)
    flat = v.flatten(2).sum(1).T if layout.kind == "channels first" else v.sum(-1).flatten(1).T
    p = layout.prefix
    torch.testing.assert_close(found.prefix[0], flat[:p], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.values()[0], flat[p:], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.b[0], b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["ViT", "ViT, registers and LayerScale"])
def test_biases_lie_where_they_are_added(kind):
    build, layer, layout = SMALL[kind]
    x = images()
    net = unfused(build())
    v, _ = held_decomposition(net, layer, x)
    expected = v.sum(-1).flatten(1).T + held_biases(net, layer, x, layout.places)
    model = wa.EmbeddingModel.from_module(net, layer, wa.Preprocess(size=HW), biases="located")
    found = model._cut.decompose(x)
    both = torch.cat([found.prefix[0], found.values()[0]])
    torch.testing.assert_close(both, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("surrogate", ["gates", "gamma"])
@pytest.mark.parametrize("kind", SMALL)
def test_with_located_biases_the_places_carry_the_embedding(kind, surrogate):
    """All but what is added to the pooled vector, by the norm or the layers behind the pooling."""
    build, layer, _ = SMALL[kind]
    net = build()
    model = wa.EmbeddingModel.from_module(
        net, layer, wa.Preprocess(size=HW), surrogate=surrogate, biases="located"
    )
    x = images(2)
    found = model._cut.decompose(x)
    assert not any(found.taylor)
    torch.testing.assert_close(
        found.values().sum(1) + found.prefix.sum(1) + found.b, net(x), rtol=1e-9, atol=1e-9
    )
    if kind in ("ViT, mean of tokens", "ViT, attention pooling", "ConvNeXt", "EfficientNet"):
        assert found.b.norm() > 1e-3  # a norm, an MLP or a linear layer comes behind the pooling
    else:
        assert found.b.norm() < 1e-9 * found.E.norm()


DEPTHS = {
    "resnet50": ("maxpool", "layer1.1", "layer2", "layer3.2", "layer4.1"),
    "tf_efficientnet_b0": ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"),
    "convnext_tiny": ("stem", "stages.0", "stages.1", "stages.2.blocks.4", "stages.3.blocks.1"),
    "vit_small_patch16_224": ("blocks.0", "blocks.3", "blocks.6", "blocks.9", "blocks.10"),
    "swin_tiny_patch4_window7_224": (
        "patch_embed", "layers.0", "layers.1.blocks.0", "layers.2.blocks.3", "layers.3.blocks.0"),
    "maxvit_pico_rw_256": ("stem", "stages.0", "stages.1", "stages.2", "stages.3.blocks.0"),
}  # fmt: skip
OPTIONS = {
    "vit_small_patch16_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2},
    "maxvit_pico_rw_256": {"img_size": 64},
}


# Of these, smaller ones of their kind are in tests/test_networks.py.
SLOW = ("swin_tiny_patch4_window7_224", "maxvit_pico_rw_256", "convnext_tiny", "tf_efficientnet_b0")


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in DEPTHS],
)
def large(request):
    name = request.param
    torch.manual_seed(0)
    net = perturbed(timm.create_model(name, num_classes=0, **OPTIONS.get(name, {})))
    return name, 64, net


@pytest.mark.parametrize("surrogate", ["gates", pytest.param("gamma", marks=pytest.mark.slow)])
def test_completeness_at_five_depths_in_float32(large, surrogate):
    name, size, net = large
    x = torch.randn(1, 3, size, size, generator=seeded(1))
    before = {k: t.clone() for k, t in net.state_dict().items()}
    E = net(x).detach()
    u = torch.randn(E.shape[1], generator=seeded(2))
    for layer in DEPTHS[name]:
        model = wa.EmbeddingModel.from_module(
            net, layer, wa.Preprocess(size=size), surrogate=surrogate, biases="located"
        )
        found = model.explain(x[0])
        assert not any(found.taylor)
        carried = found.total() + found.prefix.sum(0)
        pooled = "convnext" in name or "maxvit" in name  # a norm behind the pooling has a bias
        assert (carried + found.bias - E[0]).norm() <= 1e-4 * E.norm()
        assert pooled or found.bias.norm() <= 1e-4 * E.norm()
        total = found.map(u).sum() + (found.rest @ u)
        assert (total - E[0] @ u).abs() <= 1e-4 * E.norm() * u.norm()
        middle = size / 2
        halves = [(0, 0, middle, size), (middle, 0, size, size)]
        both = sum(found.within(half) for half in halves)
        torch.testing.assert_close(both, found.total(), rtol=1e-3, atol=1e-4 * E.norm().item())
    # the network is as it was
    assert all(torch.equal(before[k], t) for k, t in net.state_dict().items())
    assert torch.equal(net(x).detach(), E)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not any(m.training for m in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_class_token_under_taylor_loses_the_score():
    """ViT-S cut before its last block: frozen gates keep the score, the derivative does not."""
    torch.manual_seed(0)
    net = perturbed(timm.create_model("vit_small_patch16_224", num_classes=0, img_size=96))
    two = torch.randn(2, 3, 96, 96, generator=seeded(1))
    model = wa.EmbeddingModel.from_module(
        net, "blocks.10", wa.Preprocess(size=96), biases="located"
    )
    pair = wa.explain_pair(model, *two)
    ledger = pair.ledger
    assert sum(sum(row.values()) for row in ledger.values()) == pytest.approx(pair.similarity)
    assert sum(abs(ledger["bias"][k]) + abs(ledger[k]["bias"]) for k in ledger) < 1e-4
    carried = sum(ledger[a][b] for a in ("cells", "prefix tokens")
                  for b in ("cells", "prefix tokens"))  # fmt: skip
    assert carried == pytest.approx(pair.similarity, abs=1e-4)
    taylor = wa.explain_pair(model.cut(surrogate="taylor", biases="residual"), *two)
    assert {"layer_norm", "gelu"} < set(taylor.taylor)
    lost = taylor.ledger
    carried = sum(lost[a][b] for a in ("cells", "prefix tokens")
                  for b in ("cells", "prefix tokens"))  # fmt: skip
    assert abs(carried) < 0.2 * abs(pair.similarity)


@pytest.mark.parametrize("kind", ["ViT, registers and LayerScale", "Swin"])
def test_baselines_and_arrays_of_tokens_and_channels_last(kind, tmp_path):
    build, layer, layout = SMALL[kind]
    model = wa.EmbeddingModel.from_module(build(), layer, wa.Preprocess(size=HW))
    x, y = images(2)
    pair = wa.explain_pair(model, x, y)
    for method in (baselines.grad_cam, baselines.layer_cam, baselines.rectified_grad_cam):
        assert method(model, x, y).shape == layout.grid_hw
    pair.save(tmp_path / "pair.npz")
    found = np.load(tmp_path / "pair.npz")
    total = found["query_values"].sum((0, 1)) + found["query_prefix"].sum(0) + found["query_bias"]
    np.testing.assert_allclose(total, found["query_embedding"], rtol=1e-9, atol=1e-9)
    assert ("prefix tokens counted as bias" in pair.model) == (layout.prefix > 0)


def test_networks_of_tokens_are_cut_by_themselves():
    with pytest.warns(UserWarning, match="at no layer"):
        # A random class token carries itself.
        model = wa.EmbeddingModel.from_module(vit(), preprocess=wa.Preprocess(size=HW))
    assert "(auto: cells carry" in repr(model)
    mean = vit(global_pool="avg", class_token=False)
    model = wa.EmbeddingModel.from_module(mean, preprocess=wa.Preprocess(size=HW))
    assert model.layer == "norm"
    with pytest.raises(LayerError, match="near ones: blocks"):
        model.cut("blocks.9")


def test_tokens_are_drawn_sharp():
    """In a stem of finer cells, or else where they are cut: deeper ones have been read by then."""
    preprocess = wa.Preprocess(size=HW)
    model = wa.EmbeddingModel.from_module(vit(), "blocks.0", preprocess)
    assert model.sharp().layer == "blocks.0"
    assert str(model.drawn().surrogate) == "gamma 0.1, biases located, affinity 2 keeping 0.25"
    stem = ConvStem(channels=(4, 8, 16), stride=(2, 2, 2), kernel_size=3)
    with_stem = perturbed(
        VisionTransformer(
            HW, 1, embed_layer=partial(HybridEmbed, backbone=stem, proj=False), embed_dim=16,
            depth=2, num_heads=2, num_classes=12).double()
    )  # fmt: skip
    model = wa.EmbeddingModel.from_module(with_stem, "blocks.0", preprocess)
    assert model.sharp().layer == "patch_embed.backbone.1"
    assert model.sharp(finer=3).layer == "patch_embed.backbone.0"
    (x,) = images(1)
    ours = model.drawn().explain(x)
    assert ours.frame.grid_hw == (8, 12)
    u = torch.randn(12, generator=seeded(2), dtype=torch.float64)
    carried = ours.map(u).sum() + ours.rest @ u
    torch.testing.assert_close(carried, ours.embedding @ u, rtol=1e-8, atol=1e-8)
    windows = wa.EmbeddingModel.from_module(swin(), "layers.0", preprocess)
    assert windows.drawn() is windows


@pytest.mark.parametrize(
    ("shape", "image_hw", "grids", "prefix", "expected"),
    [
        ((2, 64, 7, 7), (224, 224), [], None, Layout("channels first", (7, 7))),
        ((2, 7, 7, 64), (224, 224), [], None, Layout("channels last", (7, 7))),
        ((2, 16, 8, 4), (256, 128), [], None, Layout("channels first", (8, 4))),
        ((2, 197, 384), (224, 224), [], None, Layout("tokens", (14, 14), 1)),
        ((2, 197, 384), (224, 224), [(14, 14)], 1, Layout("tokens", (14, 14), 1)),
        ((2, 196, 384), (224, 224), [(14, 14)], 1, Layout("tokens", (14, 14), 0)),
        ((2, 1374, 384), (518, 518), [], None, Layout("tokens", (37, 37), 5)),
        ((2, 129, 8), (128, 64), [], None, Layout("tokens", (16, 8), 1)),
        ((2, 1, 8), (64, 64), [], None, None),
        ((2, 7, 8), (64, 64), [], None, Layout("tokens", (2, 2), 3)),
        ((2, 64, 1, 1), (64, 64), [], None, None),
        ((2, 64), (64, 64), [], None, None),
        ((2, 1024, 1), (224, 224), [(7, 7)], 0, None),  # channels that were pooled
    ],
)
def test_layouts(shape, image_hw, grids, prefix, expected):
    assert find_layout(torch.Size(shape), image_hw, grids, prefix) == expected
