"""Pixels hidden, on networks and maps of which it is known what comes out."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import whyalike as wa
from whyalike.evaluate import perturbation as perturb

H, W = 12, 20


def image(seed=0, hw=(H, W)):
    return torch.randn(3, *hw, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_model(stride=4):
    """Without a bias anywhere: what is hidden by zeros gives nothing, and nothing else changes."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, stride, stride, bias=False))
    head = nn.Linear(6, 5, bias=False)
    net = wa.EmbeddingModel(trunk.double().eval(), "mean", head.double().eval())
    return net.requires_grad_(False)


def cosine_to(model, reference):
    E = model(reference[None])
    return lambda images: torch.cosine_similarity(model(images), E)


def test_the_areas_of_a_planted_object_are_known():
    """The score is the share of the object's pixels that are seen; it has 1/8 of all."""
    values = torch.zeros(16, 16)
    values[:4, :8] = 1
    ones = torch.ones(3, 16, 16)
    score = lambda images: images[:, 0, :4, :8].mean((1, 2))  # noqa: E731
    # Two of sixteen steps take it all: 1, 1/2, 0, 0, ... ; four of thirty-two come to the same.
    for steps in (16, 32):
        found = perturb.deletion_and_insertion(score, ones, values, steps=steps)
        assert found == pytest.approx((1 / 16, 15 / 16))


def test_stages_by_brute_force():
    x, values = image(), image(1)[0]
    hidden = perturb.filling(x, "mean")
    gone, come = perturb.stages(x, values, hidden, steps=5)
    ranked = sorted(range(H * W), key=lambda i: -values.flatten()[i].item())
    for step in range(6):
        first = {*ranked[: step * H * W // 5]}
        for i in range(H * W):
            at = (slice(None), i // W, i % W)
            assert gone[step][at].equal((hidden if i in first else x)[at])
            assert come[step][at].equal((x if i in first else hidden)[at])
    curve = torch.tensor([0.5, -1.0, 0.25])
    assert perturb.area(curve).item() == pytest.approx((0.25 + 0.125) / 2)


def test_fills():
    x = image() + 3
    assert not perturb.filling(x, "grey").any()
    mean = perturb.filling(x, "mean")
    assert mean[:, 3, 4].tolist() == pytest.approx(x.flatten(1).mean(1).tolist())
    blurred = perturb.filling(x, "blur")
    assert blurred.var() < 0.3 * x.var()
    flat = torch.full_like(x, 2.0)
    assert perturb.filling(flat, "blur").allclose(flat)
    with pytest.raises(ValueError, match="fill is one of grey, mean, blur; came 'black'"):
        perturb.filling(x, "black")


def test_imputed_pixels_are_the_weighted_mean_of_their_neighbours():
    x, mask = image(), image(1)[0] > 0.2
    mask[:4, :4] = True  # a corner, too
    found = perturb.imputed(x, mask, noise=0)
    assert found[:, ~mask].equal(x[:, ~mask])
    assert perturb.imputed(x, mask & False, noise=0).equal(x)
    for y, column in mask.nonzero().tolist():
        total, weights = 0.0, 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < H and 0 <= column + dx < W:
                    weight = 1 / 12 if dy and dx else 1 / 6
                    total, weights = (
                        total + weight * found[:, y + dy, column + dx],
                        weights + weight,
                    )
        assert found[:, y, column].tolist() == pytest.approx((total / weights).tolist())


def test_a_slope_is_imputed_as_it_was_and_noise_is_as_large_as_asked():
    x = (2.0 * torch.arange(H)[:, None] - torch.arange(W)).double().expand(3, -1, -1)
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[2:9, 3:17] = True
    before = x.clone()
    assert perturb.imputed(x, mask, noise=0).allclose(x)
    assert x.equal(before)
    noisy = perturb.imputed(x, mask, noise=0.5, seed=1)
    assert (noisy - x)[:, mask].std().item() == pytest.approx(0.5, rel=0.1)
    assert noisy.equal(perturb.imputed(x, mask, noise=0.5, seed=1))
    with pytest.raises(ValueError, match="hides all of them"):
        perturb.imputed(x, torch.ones_like(mask))


def test_road_of_a_planted_object():
    """A bright disc on black: taking its pixels first leaves nothing of it to impute from."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    disc = ((y - 15) ** 2 + (x - 17) ** 2 < 25).double()
    picture = disc.expand(3, -1, -1)
    score = lambda images: images[:, 0][:, disc.bool()].mean(1)  # noqa: E731
    found = perturb.road(score, picture, disc, [0.2, 0.4])
    assert found == pytest.approx(1, abs=0.01)  # seen whole, but for noise; and not at all
    assert perturb.road(score, picture, -disc, [0.2, 0.4]) == pytest.approx(-1, abs=0.01)
    assert perturb.road(score, picture, image(3, (32, 32))[0], [0.2, 0.4]) == pytest.approx(
        0, abs=0.1
    )


def test_boxes_lie_in_the_image():
    boxes = perturb.random_boxes((H, W), 500, seed=1)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (W, H)).all()
    wide, high = (boxes[:, 2:] - boxes[:, :2]).T
    assert (wide.min(), wide.max(), high.min(), high.max()) == (W // 8, W // 2, 1, H // 2)
    assert (boxes == perturb.random_boxes((H, W), 500, seed=1)).all()
    assert {*boxes[:, 2]} == {*range(2, W + 1)}


def test_of_a_linear_network_the_predicted_change_is_the_measured_one():
    model, x, y = linear_model(), image(), image(1)
    pair = wa.explain_pair(model, x, y)
    boxes = 4 * perturb.random_boxes((3, 5), 40, seed=0)  # of whole cells, so nothing is shared
    measured = perturb.measured_changes(cosine_to(model, y), x, boxes, torch.zeros_like(x))
    predicted = perturb.changes_by_vectors(pair.query, pair.reference.embedding, boxes)
    assert predicted == pytest.approx(measured, abs=1e-9)
    assert perturb.agreement(predicted, measured) == pytest.approx((1, 1, 0, 0), abs=1e-9)
    # Of any fill, with the vectors of what fills.
    hidden = image(2)
    measured = perturb.measured_changes(cosine_to(model, y), x, boxes, hidden)
    other = model.explain(hidden)
    predicted = perturb.changes_by_vectors(pair.query, pair.reference.embedding, boxes, other)
    assert predicted == pytest.approx(measured, abs=1e-9)


def test_of_a_product_the_map_alone_predicts_the_change():
    """The score without its norms is linear in what is hidden, and the map with bias its parts."""
    model, x, y = linear_model(), image(), image(1)
    pair = wa.explain_pair(model, x, y)
    E, other = model(x[None]), model(y[None])
    product = lambda images: (model(images) @ other[0]) / (E.norm() * other.norm())  # noqa: E731
    boxes = 4 * perturb.random_boxes((3, 5), 40, seed=0)
    measured = perturb.measured_changes(product, x, boxes, torch.zeros_like(x))
    predicted = perturb.changes_by_map(pair.overall_map("query", bias=True), boxes, (H, W))
    assert predicted == pytest.approx(measured, abs=1e-9)
    for found in (predicted, 3 * predicted):
        assert perturb.agreement(found, measured).unexplained == pytest.approx(0, abs=1e-9)


def test_changes_by_brute_force():
    x = image()
    values = image(4)[0, :3, :5]
    score = lambda images: images.square().sum((1, 2, 3))  # noqa: E731
    boxes = perturb.random_boxes((H, W), 70, seed=2)  # of any pixels
    hidden = perturb.filling(x, "blur")
    measured = perturb.measured_changes(score, x, boxes, hidden)
    predicted = perturb.changes_by_map(values, boxes, (H, W))
    for (x0, y0, x1, y1), change, said in zip(boxes, measured, predicted, strict=True):
        erased = x.clone()
        erased[:, y0:y1, x0:x1] = hidden[:, y0:y1, x0:x1]
        assert change == pytest.approx((erased.square().sum() - x.square().sum()).item())
        pixels = [values[r // 4, c // 4].item() / 16 for r in range(y0, y1) for c in range(x0, x1)]
        assert said == pytest.approx(-sum(pixels))


def test_agreement_is_scipys():
    random = np.random.default_rng(0)
    p, m = random.standard_normal((2, 50))
    found = perturb.agreement(p, m)
    line = stats.linregress(p, m)
    assert found.correlation == pytest.approx(line.rvalue)
    assert found.slope == pytest.approx(line.slope)
    assert found.infidelity == pytest.approx(sum((a - b) ** 2 for a, b in zip(p, m)) / 50)  # noqa: B905
    for sign in (1, -1):
        best = max(np.linalg.lstsq(sign * p[:, None], m, rcond=None)[0][0], 0)
        left = ((m - best * sign * p) ** 2).sum() / (m**2).sum()
        assert perturb.agreement(sign * p, m).unexplained == pytest.approx(left)
    assert perturb.agreement(-m, m).unexplained == 1
    nothing = perturb.agreement(np.zeros(50), m)
    assert np.isnan([nothing.correlation, nothing.slope]).all()
    assert nothing.unexplained == 1
    assert np.isnan(perturb.agreement(np.full(50, 0.1), m).slope)
