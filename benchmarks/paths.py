"""What does it gain to know a head's pooling in closed form?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.tables import Table
from benchmarks.timing import alternate, milliseconds, ratio
from whyalike.decomposition import Decomposition, from_head, from_split
from whyalike.heads import Split
from whyalike.pooling import Pool

Way = Callable[[], Decomposition]

# Channels, rows and columns of the map; length of the embedding; rounds.
CASES = [(2048, 7, 512, 20), (1280, 14, 512, 5), (768, 37, 768, 3)]

ABOUT = """\
Contributions of all cells of one feature map, by both ways that whyalike has: `from_split`, where
the pooling is known in closed form and only pooled vectors are pushed through the projection, and
`from_head`, one derivative of the whole head for each cell, which serves any head.
Both are checked to agree within 1e-4 of the largest value before they are timed."""


def run() -> Table:
    """Time both ways on maps of three sizes."""
    rows = []
    for channels, side, d, rounds in CASES:
        fast, generic = both_ways(channels, side, d)
        check(fast(), generic())
        by_split, by_head = alternate(fast, generic, rounds=rounds, warmups=0)
        rows.append(
            [
                f"{channels}×{side}×{side} map → mean → Linear({channels}→{d})",
                milliseconds(by_split),
                milliseconds(by_head),
                str(ratio(by_head, by_split)),
            ]
        )
    columns = ["head", "known pooling, ms", "any head, ms", "any / known"]
    return Table("Known pooling and any head", ABOUT, columns, rows)


def both_ways(channels: int, side: int, d: int) -> tuple[Way, Way]:
    """The same head, mean and linear layer, for the fast path and for the generic one."""
    torch.manual_seed(0)
    project = nn.Linear(channels, d)
    split = Split(Pool("mean"), project, (channels,))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), project).eval()
    A = torch.randn(1, channels, side, side).relu()
    return lambda: from_split(split, A), lambda: from_head(head, A)


def check(fast: Decomposition, generic: Decomposition) -> None:
    """Both give the same v and b."""
    for ours, slow in ((fast.v, generic.v), (fast.b, generic.b)):
        assert ours.shape == slow.shape, (ours.shape, slow.shape)
        gap = ((ours - slow).abs().max() / slow.abs().max()).item()
        assert gap < 1e-4, gap
