"""Does a match hang on a region? It is hidden in the query, and the network asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from whyalike.evaluate.decisions import Decision, Region
from whyalike.evaluate.pairing import Rivals
from whyalike.evaluate.perturbation import Fill, filling
from whyalike.evaluate.photographs import Photographs
from whyalike.evaluate.retrieval import Interval, bootstrap
from whyalike.model import EmbeddingModel

ELSEWHERE = 4
"""Places where as much is hidden, to compare with."""
HIDDEN = 60
"""Matches of a place of which the network is asked again."""


@dataclass(frozen=True)
class Undone:
    """What becomes of matches as regions of the query are hidden.

    Args:
        asked: of so many matches.
        here: the share where the first is no longer before the second without the region.
        elsewhere: the same without as much of the query elsewhere, the mean over some places.
        more: here − elsewhere, the mean over the matches with its 99 % interval.
        fell: by how much the difference of the two scores fell without the region.
        predicted: by how much, as the region carries so much of it.
    """

    asked: int
    here: float
    elsewhere: float
    more: Interval
    fell: float
    predicted: float


def hide(
    model: EmbeddingModel,
    splits: Mapping[str, tuple[Photographs, Rivals]],
    these: Sequence[tuple[Decision, Region]],
    *,
    fill: Fill = "mean",
    seed: int = 0,
) -> Undone | None:
    """Ask the network again without some regions of queries, and without as much elsewhere.

    Args:
        model: the network.
        splits: by name, photographs and the nearest of each one's own and of another class.
        these: matches, each with the region that is hidden in its query; the other photographs
            stay as they are.
        fill: what hides them.
        seed: of what is hidden elsewhere, and of the interval.

    Returns:
        None where no region leaves room for as much elsewhere.
    """
    random = np.random.default_rng([seed, 2])
    rows = []
    chosen = sorted(random.permutation(len(these))[:HIDDEN])
    for at in chosen:
        decision, region = these[at]
        others = _elsewhere(region, decision.frame.grid_hw, random)
        if not others:
            continue
        found, rivals = splits[decision.split]
        i, first, second = decision.index
        image = found.tensor(i)
        shown = [_without(image, one, decision.frame.grid_hw, fill) for one in (region, *others)]
        with torch.no_grad():  # as it comes: an embedding of nothing has no length, and S = 0
            E = F.normalize(model(model.to_net(torch.stack(shown))).double().cpu())
        e_first, e_second = (F.normalize(rivals.E[k].double(), dim=0) for k in (first, second))
        after = (E @ (e_first - e_second)).numpy()
        undone = after <= 0
        fell = decision.difference - after[0]
        rows.append((undone[0], undone[1:].mean(), fell, region.carried))
    if not rows:
        return None
    here, elsewhere, fell, predicted = np.array(rows, float).T
    more = bootstrap(here - elsewhere, level=0.99, seed=seed)
    means = (float(one.mean()) for one in (fell, predicted))
    return Undone(len(rows), float(here.mean()), float(elsewhere.mean()), more, *means)


def _elsewhere(
    region: Region, grid_hw: tuple[int, int], random: np.random.Generator
) -> list[Region]:
    """Some places by lot for a block of that size that share no cell with it."""
    h, w = grid_hw
    free = [
        (row, column)
        for row in range(h - region.rows + 1)
        for column in range(w - region.columns + 1)
        if abs(row - region.row) >= region.rows or abs(column - region.column) >= region.columns
    ]
    chosen = random.permutation(len(free))[:ELSEWHERE]
    return [region._replace(row=free[k][0], column=free[k][1]) for k in chosen]


def _without(
    image: Float[Tensor, "3 H W"], region: Region, grid_hw: tuple[int, int], fill: Fill
) -> Float[Tensor, "3 H W"]:
    """An input with a block of cells hidden."""
    (h, w), (height, width) = grid_hw, image.shape[1:]
    y0, y1 = region.row * height // h, -(-(region.row + region.rows) * height // h)
    x0, x1 = region.column * width // w, -(-(region.column + region.columns) * width // w)
    shown = image.clone()
    shown[:, y0:y1, x0:x1] = filling(image, fill)[:, y0:y1, x0:x1]
    return shown
