"""Kinds of region: the strongest matches of a pair, and the clusters of what is in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from whyalike.pair import Pair

STARTS, ROUNDS = 8, 50
"""Of k-means: so many beginnings, of which the tightest end is taken, each of so many rounds."""
DRAWS = 999
"""Of `by_chance`."""


class Strong(NamedTuple):
    """Two cells that carry much together.

    query, reference: row and column of each.
    value: what they carry, in units of cosine.
    """

    query: tuple[int, int]
    reference: tuple[int, int]
    value: float


def strongest(pair: Pair, each: int) -> list[Strong]:
    """The cells that carry most together, for the match; each cell once at most.

    Args:
        pair: with all v at hand.
        each: at most so many.
    """
    links = pair.matrix().detach().flatten(2).flatten(0, 1)
    across = [c.frame.grid_hw[1] for c in (pair.query, pair.reference)]
    found: list[Strong] = []
    while len(found) < min(each, *links.shape):
        best = int(links.argmax())
        row, column = divmod(best, links.shape[1])
        if not (value := links[row, column].item()) > 0:
            break
        found.append(Strong(divmod(row, across[0]), divmod(column, across[1]), value))
        links[row], links[:, column] = -torch.inf, -torch.inf
    return found


def directions(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """v scaled to length 1, in float32 on the CPU; one that is zero stays so."""
    return torch.nn.functional.normalize(values.detach().cpu().float(), dim=-1)


def clusters(
    points: Float[np.ndarray, "n d"], kinds: int, seed: int
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, " n"]]:
    """Centres by k-means, and whose each point is: of a few beginnings, the tightest end.

    Args:
        points: any.
        kinds: centres, at most: no more than there are different points.
        seed: of the beginnings (k-means++; Arthur and Vassilvitskii, SODA 2007).
    """
    most = min(kinds, len(np.unique(points.round(5), axis=0)))
    for count in range(most, 1, -1):
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for start in range(STARTS):
            try:
                centres, of = kmeans2(
                    points, count, iter=ROUNDS, minit="++", missing="raise",
                    rng=np.random.default_rng([seed, start]),
                )  # fmt: skip
            except ClusterError:  # one of its clusters went empty
                continue
            spread = float(((points - centres[of]) ** 2).sum())
            if best is None or spread < best[0]:
                best = spread, centres, of
        if best is not None:
            return best[1], best[2]
    return points.mean(0, keepdims=True), np.zeros(len(points), int)


def in_order(held: Float[np.ndarray, "a b"]) -> tuple[np.ndarray, np.ndarray]:
    """Orders of rows and of columns that put what answers what best on the diagonal, most first."""
    rows, columns = linear_sum_assignment(-held)
    most = np.argsort(-held[rows, columns], kind="stable")
    rows, columns = rows[most], columns[most]
    left = [
        np.setdiff1d(np.arange(n), one) for n, one in zip(held.shape, (rows, columns), strict=True)
    ]
    return np.append(rows, left[0]), np.append(columns, left[1])


def nearest(
    values: Float[Tensor, "n d"], centres: Float[np.ndarray, "k d"]
) -> Int[np.ndarray, " n"]:
    """The kind of each cell, by its direction; −1 where v is zero."""
    unit = directions(values).numpy()
    found: np.ndarray = (2 * unit @ centres.T - (centres**2).sum(1)).argmax(1)
    return np.where(unit.any(1), found, -1)


def by_chance(
    pair: Int[np.ndarray, " n"],
    kinds: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]],
    values: Float[np.ndarray, " n"],
    shape: tuple[int, int],
    seed: int,
) -> Float[np.ndarray, "a b"]:
    """How often two kinds hold as much if each pair's reference is another pair's by lot.

    In each of `DRAWS` draws the references change places whole, and the strongest match of a query
    meets the reference's cell that was in the strongest match there, and so on. Told as (1 + draws
    in which the two kinds hold as much or more) / (1 + draws): of one pair, 1.

    Args:
        pair: of each match, its number; those of one pair in order of their strength.
        kinds: of its cells in the query and in the reference.
        values: what it carries.
        shape: how many kinds there are.
        seed: of the draws.
    """
    pairs, first = np.unique(pair, return_index=True)
    row = np.searchsorted(pairs, pair)
    rank = np.arange(len(pair)) - first[row]
    there = np.full((len(pairs), int(rank.max()) + 1), -1)
    there[row, rank] = kinds[1]

    def held(others: Int[np.ndarray, " n"]) -> Float[np.ndarray, " cells"]:
        met = others >= 0  # a pair may have fewer matches than another
        cell = (kinds[0] * shape[1] + others)[met]
        found: np.ndarray = np.bincount(cell, values[met], shape[0] * shape[1])
        return found / max(found.sum(), np.finfo(float).tiny)

    seen = held(kinds[1]) - 1e-9
    random = np.random.default_rng([seed, 1])
    as_full = np.zeros(shape[0] * shape[1])
    for _ in range(DRAWS):
        as_full += held(there[random.permutation(len(pairs))][row, rank]) >= seen
    return ((1 + as_full) / (1 + DRAWS)).reshape(shape)
