"""The baselines: the paper's section V, and slow forms of the others."""

import pytest
import torch
from torch import nn

import whyalike as wa
from nets import IMAGE_HW, C, D, H, W, images, pooled_size, randomise, trunk
from whyalike import baselines
from whyalike.errors import ModelError


def build(pool: str, linear: bool = True) -> wa.EmbeddingModel:
    project = nn.Linear(pooled_size(pool), D) if linear else nn.Identity()
    net = randomise(nn.ModuleList([trunk(), project]))
    return wa.EmbeddingModel(net[0], pool, net[1])


@pytest.fixture
def two() -> tuple[torch.Tensor, torch.Tensor]:
    return images(1)[0], images(1, seed=2)[0]


def overall_with_bias(model, two) -> torch.Tensor:
    return wa.explain_pair(model, *two).overall_map("query", bias=True)


@pytest.mark.parametrize("linear", [True, False])
def test_on_mean_heads_grad_cam_without_norm_is_the_decomposition(two, linear):
    model = build("mean", linear)
    expected = overall_with_bias(model, two)
    torch.testing.assert_close(baselines.grad_cam_no_norm(model, *two), expected)
    torch.testing.assert_close(baselines.rectified_grad_cam(model, *two), expected)


@pytest.mark.parametrize(
    "baseline",
    [
        baselines.grad_cam,
        baselines.rectified_grad_cam,
        baselines.layer_cam,
        baselines.gradient_times_input,
    ],
)
def test_the_reference_may_be_given_as_its_embedding(two, baseline):
    model = build("mean")
    embedding = model.explain(two[1]).embedding
    torch.testing.assert_close(baseline(model, two[0], embedding), baseline(model, *two))


@pytest.mark.parametrize("pool", ["max", "flatten"])
def test_on_max_and_flatten_heads_only_the_rectified_one_is(two, pool):
    model = build(pool)
    expected = overall_with_bias(model, two)
    torch.testing.assert_close(baselines.rectified_grad_cam(model, *two), expected)
    plain = baselines.grad_cam_no_norm(model, *two)
    assert (plain - expected).norm() > 0.3 * expected.norm()


def test_the_jacobian_of_the_cosine_and_why_grad_cam_fades(two):
    """Eq. 14: ∂cos/∂E = (e' − cos·e) / |E|, with e = E/|E|; zero where the match is perfect."""
    E = torch.randn(1, D, dtype=torch.float64, requires_grad=True)
    other = torch.randn(1, D, dtype=torch.float64)
    S = baselines.cosine(E, other)
    (gradient,) = torch.autograd.grad(S.sum(), E)
    e, e_other = E / E.norm(), other / other.norm()
    torch.testing.assert_close(gradient, (e_other - S * e) / E.norm())

    model, (image, _) = build("mean"), two
    same = wa.explain_pair(model, image, image)
    assert same.similarity == pytest.approx(1)
    assert baselines.grad_cam_signed(model, image, image).abs().max() < 1e-9
    assert same.overall_map("query", bias=True).abs().max() > 0.01


def test_the_cut_methods_are_their_formulas(two):
    model = build("max")
    features, head = model.net.features, model.net.head
    A = features(two[0][None]).detach().requires_grad_()
    other = model(two[1][None]).detach()
    (G,) = torch.autograd.grad(torch.cosine_similarity(head(A), other).sum(), A)
    A, G = A[0].detach(), G[0]
    grad_cam, layer_cam, plus_plus = (torch.zeros(H, W, dtype=torch.float64) for _ in range(3))
    for c in range(C):
        grad_cam += G[c].mean() * A[c]
        weight = 0.0
        for i in range(H):
            for j in range(W):
                g = G[c, i, j]
                layer_cam[i, j] += max(g, 0) * A[c, i, j]
                if g != 0:
                    weight += g**2 / (2 * g**2 + A[c].sum() * g**3) * max(g, 0)
        plus_plus += weight * A[c]
    torch.testing.assert_close(baselines.grad_cam(model, *two), grad_cam.relu())
    torch.testing.assert_close(baselines.layer_cam(model, *two), layer_cam.relu())
    torch.testing.assert_close(baselines.grad_cam_plus_plus(model, *two), plus_plus.relu())


def test_cam_is_the_map_of_the_references_class(two):
    model = build("mean")
    k = model(two[1][None])[0].argmax()
    A = model.net.features(two[0][None])[0].detach()
    expected = sum(model.net.head.project.weight[k, c].detach() * A[c] for c in range(C))
    torch.testing.assert_close(baselines.cam(model, *two), expected)
    with pytest.raises(ModelError, match="mean pooling and one linear layer"):
        baselines.cam(build("max"), *two)


def test_gradient_times_input_by_differences(two):
    model = build("mean")
    other = model(two[1][None]).detach()
    found = baselines.gradient_times_input(model, *two)
    assert found.shape == IMAGE_HW
    for row, column in ((0, 0), (5, 7), (11, 19)):
        slope = 0.0
        for colour in range(3):
            step = torch.zeros_like(two[0])
            step[colour, row, column] = 1e-6
            up, down = (model((two[0] + s)[None]) for s in (step, -step))
            rise = torch.cosine_similarity(up, other) - torch.cosine_similarity(down, other)
            slope += (rise / 2e-6).item() * two[0][colour, row, column].item()
        assert found[row, column].item() == pytest.approx(slope, abs=1e-7)


def test_integrated_gradients_of_both_add_up_to_the_difference(two):
    model = build("mean")
    q, r = two
    total = baselines.integrated_gradients(model, q, r, steps=200).sum()
    total += baselines.integrated_gradients(model, r, q, steps=200).sum()
    start = torch.cosine_similarity(model(0 * q[None]), model(0 * r[None]))
    end = torch.cosine_similarity(model(q[None]), model(r[None]))
    assert total.item() == pytest.approx((end - start).item(), abs=4e-3)


def test_occlusion_is_the_mean_fall_over_the_squares_on_a_pixel(two):
    model = build("mean")
    other = model(two[1][None]).detach()
    found = baselines.occlusion(model, *two, window=6, stride=4, batch_size=5)
    whole = torch.cosine_similarity(model(two[0][None]), other)
    for row, column in ((0, 0), (3, 17), (11, 19)):
        falls = []
        for top in range(-2, 12, 4):
            for left in range(-2, 20, 4):
                if top <= row < top + 6 and left <= column < left + 6:
                    hidden = two[0].clone()
                    hidden[:, max(top, 0) : top + 6, max(left, 0) : left + 6] = 0
                    score = torch.cosine_similarity(model(hidden[None]), other)
                    falls.append((whole - score).item())
        assert found[row, column].item() == pytest.approx(sum(falls) / len(falls), abs=1e-12)


def test_the_network_is_left_as_it_was(two):
    model = build("mean")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in ("grad_cam", "layer_cam", "gradient_times_input", "integrated_gradients"):
        assert torch.isfinite(getattr(baselines, name)(model, *two)).all()
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
