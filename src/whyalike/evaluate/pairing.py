"""With which image each one is compared."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Pairing = Literal["nearest", "random", "self"]
"""The nearest of its class, another of its class by lot, or itself."""

ROWS = 4096
"""Images whose scores with all others are held at once."""


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
