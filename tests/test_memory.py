"""The bound on the memory of many derivatives, counted in bytes that tensors hold."""

import pytest
import torch
from torch import Tensor, nn

from nets import C, H, W, randomise, seeded
from whyalike.decomposition import Derivative, LinearHead
from whyalike.memory import Memory
from whyalike.surrogates import Surrogate

KIB = 1024


def test_what_is_alive_is_counted_once_and_no_longer_than_it_lives():
    before = torch.zeros(64 * KIB, dtype=torch.uint8)
    with Memory() as memory:
        a = torch.zeros(10 * KIB, dtype=torch.uint8)
        b = a.view(10, -1)[2:].t()  # no memory of its own
        before.add_(1)
        assert memory.peak == 10 * KIB
        c = b.contiguous()
        assert memory.peak == 18 * KIB
        del a, b, c
        d = torch.ones(17 * KIB, dtype=torch.uint8)
        assert memory.peak == 18 * KIB
        e = d + d
        assert memory.peak == 34 * KIB
    f = e + e
    assert memory.peak == 34 * KIB
    assert f.sum() == 4 * 17 * KIB


@pytest.mark.parametrize("kind", ["gates", "gamma"])
def test_all_values_take_no_more_than_they_are_allowed(kind, monkeypatch):
    net = randomise(nn.Sequential(nn.Conv2d(C, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 6, 1)))
    A = torch.randn(1, C, H, W, generator=seeded(4), dtype=torch.float64)
    passes, along = 0, Derivative.along

    def counted(derivative: Derivative, tangents: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return along(derivative, tangents)

    monkeypatch.setattr(Derivative, "along", counted)

    def values(bound: int) -> tuple[Tensor, int, int]:
        nonlocal passes
        passes = 0
        linear = LinearHead(lambda A: net(A).mean((2, 3)), A, surrogate=Surrogate(kind))
        with Memory() as memory:
            v = linear.values(bound)
        return v, memory.peak - 2 * v.nbytes, passes  # as parts, and together

    one_by_one, least, most_passes = values(0)
    assert most_passes == H * W
    fewest = most_passes
    for times in (1.5, 1.9, 100):
        v, peak, passes = values(int(times * least))
        torch.testing.assert_close(v, one_by_one, rtol=1e-12, atol=1e-12)
        assert peak <= times * least
        assert passes < fewest  # and what is allowed is used
        fewest = passes
    assert fewest == 2
