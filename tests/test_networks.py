"""Every kind of network that is promised, as timm's own classes make it, small and random."""

import pytest
import timm
import torch
from timm.models import maxxvit
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.resnet import Bottleneck
from torch import nn

import whyalike as wa
from nets import seeded
from oracle import replayed_decomposition
from test_depth import HW, images, perturbed, unfused
from whyalike.decomposition import from_head

TOKENS = {"img_size": HW, "patch_size": 8, "depth": 3, "num_heads": 2, "num_classes": 0}
VIT = {"embed_dim": 12, **TOKENS}
EVA = {"embed_dim": 16, **TOKENS}  # rotary embeddings need fours
SWIN = {"img_size": HW, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 2,
        "num_classes": 0}  # fmt: skip
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (6, 8, 10, 12), "patch_size": 2, "num_classes": 0}


def of_timm(name: str, **options):
    return lambda: timm.create_model(name, **options)


def maxvit() -> nn.Module:
    sizes = maxxvit.MaxxVitTransformerCfg(dim_head=4, window_size=(2, 2), grid_size=(2, 2))
    config = maxxvit.MaxxVitCfg(embed_dim=(8, 12), depths=(1, 1), block_type=("M", "M"),
                                stem_width=8, transformer_cfg=sizes)  # fmt: skip
    return maxxvit.MaxxVit(config, img_size=HW, num_classes=0)


def efficientnet() -> nn.Module:
    stages = [["ds_r1_k3_s1_e1_c8_se0.25"], ["ir_r1_k3_s2_e4_c12_se0.25"],
              ["ir_r2_k5_s2_e4_c16_se0.25"]]  # fmt: skip
    return timm.models.EfficientNet(
        decode_arch_def(stages), stem_size=8, num_features=20, num_classes=0, act_layer=nn.SiLU
    )


def resnet() -> nn.Module:
    return timm.models.ResNet(
        Bottleneck, (1, 1, 1, 1), channels=(4, 6, 8, 10), stem_width=8, num_classes=0
    )


BLOCKS = ("blocks.0", "blocks.1", "blocks.2")
STAGES = ("stem", "stages.0", "stages.1")
# what it is: (network, layers to cut at, prefix tokens, whether layers behind the pooling add
# something, activations that are the gate of two branches)
NETWORKS = {
    "ViT": (of_timm("vit_small_patch16_224", **VIT), BLOCKS[:2], 1, False, ()),
    "DeiT, distilled": (of_timm("deit_small_distilled_patch16_224", **VIT | {"num_classes": 6}),
                        BLOCKS[:2], 2, True, ()),
    "DINOv2 with registers": (of_timm("vit_small_patch14_reg4_dinov2", **VIT), BLOCKS[:2], 5,
                              False, ()),
    "DINOv2 with registers and SwiGLU": (of_timm("vit_giant_patch14_reg4_dinov2", **VIT),
                                         BLOCKS[:2], 5, False, ("silu",)),
    "DINOv3": (of_timm("vit_small_patch16_dinov3", **EVA), BLOCKS, 5, False, ()),
    "DINOv3 with SwiGLU": (of_timm("vit_small_plus_patch16_dinov3", **EVA), BLOCKS, 5, False,
                           ("silu",)),
    "EVA-02": (of_timm("eva02_tiny_patch14_224", **EVA), BLOCKS, 1, True, ("silu",)),
    "Perception Encoder": (of_timm("vit_pe_core_tiny_patch16_384", **EVA), BLOCKS, 1, True, ()),
    "rotary, mixed": (of_timm("vit_small_patch16_rope_mixed_224", **EVA), BLOCKS[:2], 1, False, ()),
    "CLIP": (of_timm("vit_base_patch16_clip_quickgelu_224", **VIT), BLOCKS[:2], 1, False, ()),
    "SigLIP": (of_timm("vit_base_patch16_siglip_224", **VIT), BLOCKS, 0, True, ()),
    "Swin": (of_timm("swin_tiny_patch4_window7_224", **SWIN), ("patch_embed", "layers.0",
             "layers.1.blocks.0"), 0, False, ()),
    "Swin v2": (of_timm("swinv2_tiny_window8_256", **SWIN), ("patch_embed", "layers.0",
                "layers.1.blocks.0"), 0, False, ()),
    "ConvNeXt": (of_timm("convnext_tiny", **CONVNEXT), STAGES, 0, True, ()),
    "ConvNeXt v2": (of_timm("convnextv2_atto", **CONVNEXT), STAGES, 0, True, ()),
    "MaxViT": (maxvit, STAGES, 0, False, ()),
    "EfficientNet": (efficientnet, ("blocks.0", "blocks.1", "blocks.2.0"), 0, False, ()),
    "ResNet": (resnet, ("maxpool", "layer1", "layer2"), 0, False, ()),
}  # fmt: skip


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = perturbed(NETWORKS[kind][0]().double())
    generator = seeded(5)
    for name, tensor in net.state_dict().items():
        if "grn" in name or name.endswith("latent"):  # zero where training begins
            tensor += 0.5 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return net


@pytest.mark.parametrize("kind", NETWORKS)
def test_values_are_the_full_jacobian_of_the_network_with_its_gates_as_numbers(kind):
    _, layers, prefix, _, branches = NETWORKS[kind]
    x, net = images(), make(kind)
    v, b = replayed_decomposition(unfused(make(kind)), layers[1], x, branches)
    model = wa.EmbeddingModel.from_module(net, layers[1], wa.Preprocess(size=HW))
    found = model._cut.decompose(x)
    assert found.taylor == [{}]
    assert found.layout.prefix == prefix
    first = found.layout.kind == "channels first"
    flat = v.flatten(2).sum(1).T if first else v.sum(-1).flatten(1).T
    scale = found.E.norm().item()
    for ours, theirs in ((found.prefix[0], flat[:prefix]), (found.values()[0], flat[prefix:]),
                         (found.b[0], b)):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * scale)


@pytest.mark.parametrize("surrogate", ["gates", pytest.param("gamma", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_completeness_in_float32_at_several_depths(kind, surrogate):
    _, layers, _, behind, _ = NETWORKS[kind]
    net, x = make(kind).float(), images(dtype=torch.float32)
    E = net(x)[0].detach()
    u = torch.randn(len(E), generator=seeded(2))
    for layer in layers:
        model = wa.EmbeddingModel.from_module(
            net, layer, wa.Preprocess(size=HW), surrogate=surrogate, biases="located"
        )
        found = model._cut.decompose(x)  # by forward mode, and refused beyond 1e-4
        assert found.taylor == [{}]
        torch.testing.assert_close(found.E[0], E, rtol=1e-5, atol=1e-5 * E.norm().item())
        places = found.heads[0].pull(u[None])[1]  # by reverse mode
        gap = (places.sum() + found.b[0] @ u - E @ u).abs()
        assert gap <= 1e-4 * E.norm() * u.norm()
        assert (found.b.norm() > 1e-3 * E.norm()) == behind


def test_equal_maxima_inside_a_network_go_where_the_forward_pass_takes_them_from():
    """A quarter of the numbers are one and the same; each window has one winner, the first."""
    A = torch.randint(0, 3, (1, 4, 4, 6), generator=seeded(3)).double()
    weight = torch.randn(5, 4, generator=seeded(4), dtype=torch.float64)
    pools = {
        "max_pool2d": lambda A: nn.functional.max_pool2d(A, 2),
        "amax": lambda A: A.unflatten(3, (3, 2)).unflatten(2, (2, 2)).amax((3, 5)),
    }
    pooled, at = nn.functional.max_pool2d(A, 2, return_indices=True)
    expected = torch.zeros(24, 5, dtype=torch.float64)
    for c in range(4):
        for value, index in zip(pooled[0, c].flatten(), at[0, c].flatten(), strict=True):
            expected[index] += weight[:, c] * value / 6
    for name, pool in pools.items():
        found = from_head(lambda A, pool=pool: pool(A).mean((2, 3)) @ weight.T, A)
        torch.testing.assert_close(found.v[0], expected, msg=name)
    lowest = from_head(lambda A: (-A).amin((2, 3), keepdim=True).flatten(1), A)
    highest = from_head(lambda A: nn.functional.max_pool2d(A, (4, 6)).flatten(1), A)
    torch.testing.assert_close(lowest.v, -highest.v)
