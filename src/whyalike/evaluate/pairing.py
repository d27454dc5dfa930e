"""With which image each one is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from whyalike.evaluate.retrieval import CHUNK_BYTES

Pairing = Literal["nearest", "random", "self"]
"""The nearest of its class, another of its class by lot, or itself."""

ROWS = 4096
"""Images whose scores with all others are held at once."""


@dataclass(frozen=True, eq=False)
class Rivals:
    """Of each image, the nearest of its own class and the nearest of another.

    Args:
        E: embeddings.
        own, other: indices; −1 where there is none.
        gap: S(image, other) − S(image, own).
    """

    E: Float[Tensor, "n d"]
    own: Int[np.ndarray, " n"]
    other: Int[np.ndarray, " n"]
    gap: Float[np.ndarray, " n"]

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Which images have both."""
        both: np.ndarray = (self.own >= 0) & (self.other >= 0)
        return both

    @property
    def wrong(self) -> Bool[np.ndarray, " n"]:
        """Whose nearest of all is of another class; of a tie, not so."""
        wrong: np.ndarray = self.known & (self.gap > 0)
        return wrong


def rivals(E: Float[Tensor, "n d"], labels: Shaped[np.ndarray, " n"]) -> Rivals:
    """Find them, in chunks of images.

    Args:
        E: embeddings, of any length.
        labels: classes.
    """
    kind = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    unit = F.normalize(E.double().cpu())
    found = []
    rows = max(1, CHUNK_BYTES // (8 * len(E)))
    for start in range(0, len(E), rows):
        S = unit[start : start + rows] @ unit.T
        S[torch.arange(len(S)), torch.arange(start, start + len(S))] = -torch.inf
        same = kind[start : start + rows, None] == kind[None]
        best = [S.masked_fill(hidden, -torch.inf).max(1) for hidden in (~same, same)]
        at = [torch.where(one.values == -torch.inf, -1, one.indices) for one in best]
        found.append((*at, best[1].values - best[0].values))
    own, other, gap = (torch.cat(one).numpy() for one in zip(*found, strict=True))
    return Rivals(E, own, other, gap)


def partners(
    E: Float[Tensor, "n d"],
    labels: Shaped[np.ndarray, " n"],
    pairing: Pairing = "nearest",
    *,
    seed: int = 0,
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The index of each image's partner, and whether its nearest of all is of its class (R@1).

    Args:
        E: embeddings.
        labels: classes.
        pairing: which partner.
        seed: of the lot.

    Returns:
        Partners, −1 where no other image is of the class; and a truth value for each image.

    Raises:
        ValueError: another pairing.
    """
    if pairing not in get_args(Pairing):
        raise ValueError(f"pairing is one of {', '.join(get_args(Pairing))}; came {pairing!r}")
    _, kinds = np.unique(labels, return_inverse=True)
    kind = torch.from_numpy(kinds)
    unit = F.normalize(E).double().cpu()
    nearest, right = [], []
    for start in range(0, len(E), ROWS):
        rows = slice(start, start + ROWS)
        S = unit[rows] @ unit.T
        S[torch.arange(len(S)), torch.arange(start, start + len(S))] = -torch.inf
        right.append(kind[S.argmax(1)] == kind[rows])
        S = S.masked_fill(kind[rows, None] != kind[None], -torch.inf)
        best, at = S.max(1)
        nearest.append(torch.where(best == -torch.inf, -1, at))
    first = torch.cat(right).numpy() & (len(E) > 1)
    if pairing == "nearest":
        return torch.cat(nearest).numpy(), first
    if pairing == "self":
        return np.arange(len(E)), first
    return _by_lot(kinds, np.random.default_rng(seed)), first


def _by_lot(kinds: Int[np.ndarray, " n"], random: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Another one of the same kind, each as likely as the next."""
    found = np.full(len(kinds), -1)
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        if len(members) > 1:
            ahead = random.integers(1, len(members), len(members))
            found[members] = members[(np.arange(len(members)) + ahead) % len(members)]
    return found
