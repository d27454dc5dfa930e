"""Measures of a map: does the score hang on it, whose is it? Where it lies, `evaluate` measures.

All take maps (n, H, W) at the image's resolution and any scale: what is below zero counts as
nothing, and the rest is divided by its largest value, map by map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 16


def deletion_and_insertion(
    score: Callable[[Float[Tensor, "k 3 H W"]], Float[Tensor, " k"]],
    image: Float[Tensor, "3 H W"],
    values: Float[Tensor, "H W"],
    fill: float = 0.0,
) -> tuple[float, float]:
    """Petsiuk et al., "RISE", BMVC 2018: areas under the score, above zero, as pixels go and come.

    In 16 equal steps, the pixels of the largest values first; equal ones in an order by lot, the
    same for all images.

    Args:
        score: from images to their scores.
        fill: the value of a pixel that is hidden, in units of the network's input.
    """
    generator = torch.Generator().manual_seed(0)
    lot = torch.randperm(values.numel(), generator=generator)
    order = lot[values.flatten()[lot].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    cuts = torch.arange(STEPS + 1)[:, None] * len(order) / STEPS
    taken = (rank[None] < cuts).view(-1, 1, *values.shape)
    hidden = torch.full_like(image, fill)
    scores = score(
        torch.cat([torch.where(taken, hidden, image), torch.where(taken, image, hidden)])
    )
    deletion, insertion = scores.double().clamp(min=0).chunk(2)
    return tuple(torch.trapezoid(curve).item() / STEPS for curve in (deletion, insertion))


def correlation(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float:
    """Pearson's, over the cells of two maps of one grid; NaN where one of them is constant."""
    a, b = (x.detach().cpu().double().flatten() for x in (a, b))
    a, b = a - a.mean(), b - b.mean()
    return ((a @ b) / (a.norm() * b.norm())).item()


def rank_correlation(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float:
    """Spearman's: Pearson's of the ranks."""
    return correlation(*(_ranks(x) for x in (a, b)))


def _ranks(values: Tensor) -> Tensor:
    """Ranks, the mean of them where values are equal."""
    _, place, counts = (
        values.detach().cpu().flatten().unique(return_inverse=True, return_counts=True)
    )
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]
