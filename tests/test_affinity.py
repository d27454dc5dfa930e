"""Maps that are shared among like cells: held to loops over the definition."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whyalike as wa
from nets import seeded
from test_depth import HW, images, vit
from whyalike.affinity import Affinity

H, W = 3, 5


def slow(maps: list[Tensor], grid_hw: tuple[int, int], power: float, own: float = 0.0) -> Tensor:
    """P of one image, entry by entry."""
    h, w = grid_hw
    kinds = ["area" if A.shape[1] >= h and A.shape[2] >= w else "bilinear" for A in maps]
    maps = [F.interpolate(A[None], grid_hw, mode=k)[0] for A, k in zip(maps, kinds, strict=True)]
    P = torch.zeros(h * w, h * w, dtype=torch.float64)
    for i in range(h * w):
        for j in range(h * w):
            cosines = []
            for A in maps:
                f, g = (A.flatten(1)[:, k] - A.mean((1, 2)) for k in (i, j))
                length = f.norm() * g.norm()
                cosines.append((f @ g / length).item() if length > 0 else 0.0)
            P[i, j] = 1.0 if i == j else max(0.0, sum(cosines) / len(cosines)) ** power
    return own * torch.eye(h * w) + (1 - own) * P / P.sum(0)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("grids", [[(H, W)], [(H, W), (6, 10)], [(6, 10), (2, 3)]])
@pytest.mark.parametrize(("block", "kept"), [(1, 0), (10**9, 0), (1, 10**9), (10**9, 10**9)])
def test_what_cells_share_is_the_definition(power, grids, block, kept, monkeypatch):
    monkeypatch.setattr("whyalike.affinity.BLOCK_BYTES", block)
    monkeypatch.setattr("whyalike.affinity.KEPT_BYTES", kept)
    maps = [torch.randn(2, 4, *hw, generator=seeded(1), dtype=torch.float64) for hw in grids]
    m = torch.randn(2, H * W, generator=seeded(2), dtype=torch.float64)
    affinity = Affinity(maps, (H, W), power)
    for i in range(2):
        P = slow([A[i] for A in maps], (H, W), power)
        torch.testing.assert_close(affinity.matrix()[i], P)
        torch.testing.assert_close(affinity.share(m)[i], P @ m[i])
    torch.testing.assert_close(affinity.share(m).sum(1), m.sum(1))


def test_a_share_that_cells_keep_is_theirs():
    A = torch.randn(1, 4, H, W, generator=seeded(1), dtype=torch.float64)
    m = torch.randn(1, H * W, generator=seeded(2), dtype=torch.float64)
    affinity = Affinity([A], (H, W), 2.0, own=0.25)
    P = slow([A[0]], (H, W), 2.0, own=0.25)
    torch.testing.assert_close(affinity.matrix()[0], P)
    torch.testing.assert_close(affinity.share(m)[0], P @ m[0])
    torch.testing.assert_close(affinity.share(m).sum(), m.sum())
    assert affinity.on_grid((2, 2)).own == 0.25


def test_cells_with_nothing_to_tell_them_apart_keep_their_own():
    m = torch.randn(1, H * W, generator=seeded(0))
    torch.testing.assert_close(Affinity([torch.ones(1, 4, H, W)], (H, W), 2.0).share(m), m)


def test_two_parts_share_within_themselves():
    """Left and right have one feature each: a map becomes constant on either."""
    A = torch.zeros(1, 2, 4, 6)
    A[0, 0, :, :2], A[0, 1, :, 2:] = 1, 1
    m = torch.rand(1, 24, generator=seeded(0))
    shared = Affinity([A], (4, 6), 2.0).share(m).view(4, 6)
    left, right = m.view(4, 6)[:, :2], m.view(4, 6)[:, 2:]
    torch.testing.assert_close(shared[:, :2], left.mean().expand(4, 2))
    torch.testing.assert_close(shared[:, 2:], right.mean().expand(4, 4))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, 2, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x).relu()).relu()).relu()
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Small().double().eval()


@pytest.mark.parametrize("surrogate", ["gates", "gamma"])
@pytest.mark.parametrize("layer", ["second", "third"])
def test_maps_keep_their_sums_and_v_stay(net, layer, surrogate):
    """Known pooling and any head; the finer map that is looked at is the first convolution's."""
    plain = wa.EmbeddingModel.from_module(
        net, layer, wa.Preprocess(size=(16, 24)), surrogate=surrogate, biases="located"
    )
    model = plain.cut(affinity=2.0)
    assert "affinity 2" in repr(model)
    x = torch.randn(3, 16, 24, generator=seeded(1), dtype=torch.float64)
    ours, other = model.explain(x), plain.explain(x)
    torch.testing.assert_close(ours.values, other.values)
    torch.testing.assert_close(ours.at((3, 7)), other.at((3, 7)))
    u = torch.randn(6, generator=seeded(2), dtype=torch.float64)
    first = net.first(x[None])
    cut = net.second(first.relu())
    cut = cut if layer == "second" else net.third(cut.relu())
    P = slow([cut[0].detach(), first[0].detach()], (4, 6), 2.0)
    torch.testing.assert_close(ours.map(u).flatten(), P @ other.map(u).flatten())
    coarse = ours.on_grid((2, 3))
    P = slow([cut[0].detach(), first[0].detach()], (2, 3), 2.0)
    torch.testing.assert_close(coarse.map(u).flatten(), P @ other.on_grid((2, 3)).map(u).flatten())


def test_prefix_tokens_keep_theirs():
    plain = wa.EmbeddingModel.from_module(vit(reg_tokens=2), "blocks.0", wa.Preprocess(size=HW))
    model = plain.cut(affinity=1.0)
    (x,) = images(1)
    u = torch.randn(12, generator=seeded(2), dtype=torch.float64)
    ours, other = model.explain(x), plain.explain(x)
    torch.testing.assert_close(ours.prefix, other.prefix)
    torch.testing.assert_close(ours.map(u).sum(), other.map(u).sum())
    assert not np.allclose(ours.map(u), other.map(u))


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_a_power_that_is_none_is_refused(net, wrong):
    with pytest.raises(ValueError, match="affinity is 0"):
        wa.EmbeddingModel.from_module(net, "second", wa.Preprocess(size=16), affinity=wrong)
