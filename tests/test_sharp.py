"""Finer maps of the default network: where they are cut, and that they add up."""

import dataclasses
import math

import pytest
import torch

import whyalike as wa
from whyalike.data.samples import demo_pair
from whyalike.decomposition import LinearHead
from whyalike.errors import CompletenessError, ModelError


@pytest.fixture(scope="module")
def model():
    return wa.load()


def test_sharp_maps_are_finer_and_add_up(model):
    sharp = model.sharp()
    assert sharp.layer == "blocks.4"  # the last of 14×14, through which everything goes
    pair = wa.explain_pair(sharp, *demo_pair())
    assert pair.query.frame.grid_hw == (14, 14)
    assert pair.similarity == wa.explain_pair(model, *demo_pair()).similarity
    assert abs(pair.terms.pairs - pair.similarity) < 1e-4
    for side in ("query", "reference"):
        assert pair.overall_map(side).sum().item() == pytest.approx(pair.similarity, abs=1e-4)
    coarse = pair.query.on_grid((5, 7))
    assert coarse.at_hand
    torch.testing.assert_close(coarse.total(), pair.query.total(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(coarse.rest, pair.query.rest)


@pytest.mark.parametrize(("finer", "grids"), [(2, [14, 28, 56]), (4, [28, 14, 56])])
def test_cells_are_alike_by_features_of_three_resolutions(model, finer, grids):
    x = model.sharp(finer=finer).explain(demo_pair()[0])
    assert x.affinity is not None
    assert [A.shape[2] for A in x.affinity.maps] == grids


def test_the_finest_is_taken_where_none_is_fine_enough(model):
    assert model.sharp(finer=1000).layer == model.sharp(finer=16).layer


def test_what_a_cut_can_be(model):
    assert model.cut("blocks.5").cut(surrogate="gamma", gamma=math.inf).layer == "blocks.5"
    assert "(gamma inf, biases residual)" in repr(model.cut(surrogate="gamma", gamma=math.inf))
    for wrong in ({"surrogate": "delta"}, {"gamma": -1}, {"gamma": math.nan}, {"biases": "away"}):
        with pytest.raises(ValueError, match="came"):
            model.cut(**wrong)
    parts = wa.EmbeddingModel(torch.nn.Conv2d(3, 4, 3).eval(), "mean")
    with pytest.raises(ModelError, match="preprocess"):
        parts.sharp()


def test_weights_that_changed_since_are_noticed(model):
    sharp = model.sharp()
    x = sharp.explain(demo_pair()[0])
    weight = model.net.conv_head.weight
    kept = weight.detach().clone()
    try:
        weight.data.mul_(2)
        with pytest.raises(CompletenessError, match="explain it again"):
            x.map(x.embedding)
    finally:
        weight.data.copy_(kept)
    assert torch.isfinite(x.map(x.embedding)).all()


@pytest.mark.parametrize("off", [0.0, 1e-5, 3e-4])
def test_a_map_is_held_to_its_sum_as_closely_as_the_network_is(model, off):
    x = model.sharp().explain(demo_pair()[0])

    class Off(LinearHead):
        def pull(self, u):
            E, places = x.source.pull(u)
            places[0, 0] += off * E.norm() * u.norm()
            return E, places

    source = Off(x.source.run, x.source.A, x.source.layout, x.source.surrogate)
    wrong = dataclasses.replace(x, source=source)
    if off < source.tolerance:
        torch.testing.assert_close(wrong.map(x.embedding), x.map(x.embedding), rtol=1e-2, atol=1e-4)
    else:
        with pytest.raises(CompletenessError, match="add up to E · u"):
            wrong.map(x.embedding)


class Behind(torch.nn.Module):
    """A network whose vector gets constants: by layers, and perhaps by a bound that is none's."""

    def __init__(self, bound: bool) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 6, 3, 2, padding=1)
        self.second = torch.nn.Conv2d(6, 6, 3, padding=1)
        self.fc, self.norm = torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5)
        self.bound = bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu().mean((2, 3)) - 0.25
        x = x.clamp(min=0.125) if self.bound else x
        return self.norm(self.fc(x)) + torch.linspace(0, 1, 5, dtype=x.dtype)


@pytest.mark.parametrize("surrogate", ["gates", "gamma"])
@pytest.mark.parametrize("bound", [False, True])
def test_what_layers_add_to_the_vector_is_b_where_nothing_else_does(surrogate, bound):
    """The first image decides, by the derivative, whether later ones are spared it."""
    torch.manual_seed(0)
    net = Behind(bound).double().eval()
    net.norm.running_mean.copy_(torch.randn(5))
    net.norm.bias.data.copy_(torch.randn(5))
    model = wa.EmbeddingModel.from_module(
        net, "first", wa.Preprocess(size=16), surrogate=surrogate, biases="located"
    )
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    alone = [model.cut().explain(x) for x in images]
    first, later = model.explain(images[0]), model.explain(images[1])
    assert list(model._cut._layers_add_b.values()) == [not bound]
    for ours, plain in zip((first, later), alone, strict=True):
        torch.testing.assert_close(ours.bias, plain.bias, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.total(), ours.values.sum((0, 1)), rtol=1e-9, atol=1e-9)
        u = torch.randn(5, dtype=torch.float64)
        assert ours.map(u).sum().item() == pytest.approx((ours.total() @ u).item(), abs=1e-9)
    assert later.bias.norm() > 0.1
