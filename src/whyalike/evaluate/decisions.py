"""What puts one photograph before another for a query, and the regions that do.

    S(q, a) − S(q, b)  =  Σ_ij v^q_ij·(e_a − e_b) / |E^q|  +  b^q·(e_a − e_b) / |E^q|,   e = E/|E|

as `whyalike.difference` has it, with embeddings that are at hand already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from whyalike.data import Sample
from whyalike.evaluate.pairing import Rivals
from whyalike.evaluate.photographs import Photographs
from whyalike.geometry import XYXY, Frame

LEVEL = 0.5
"""A region is a connected part of a map above so much of its largest value, ..."""
LEAST = 0.1
"""... that carries so much of all that is above zero."""
MOST = 3
"""So many regions of a map, at most."""


class Region(NamedTuple):
    """A block of cells of a query: its upper left cell, its size, and what it carries."""

    row: int
    column: int
    rows: int
    columns: int
    carried: float

    def centre_xy(self, grid_hw: tuple[int, int]) -> tuple[float, float]:
        """In sides of what was seen, from its upper left corner."""
        h, w = grid_hw
        return (self.column + self.columns / 2) / w, (self.row + self.rows / 2) / h


@dataclass(frozen=True, eq=False)
class Decision:
    """What puts one photograph before another, for a query.

    Args:
        split: of the data that all three are of.
        query: the photograph that is asked with.
        first: the one that is ranked first: of a wrong match, of another class.
        second: the one that it beats: the nearest of the other kind.
        score: S(query, first).
        difference: S(query, first) − S(query, second).
        values: what each cell of the query gives to the difference.
        bias: what no cell does; `values` and it add up to the difference.
        frame: where the cells lie on the query.
        regions: where most of it comes from, the largest first.
        index: of the query, and of both others, among the photographs of the split.
    """

    split: str
    query: Sample
    first: Sample
    second: Sample
    score: float
    difference: float
    values: Float[Tensor, "h w"]
    bias: float
    frame: Frame
    regions: tuple[Region, ...]
    index: tuple[int, int, int]

    def xyxy(self, region: Region) -> XYXY:
        """A region's box in pixels of the query."""
        return self.frame.cell_xyxy(region.row, region.column, region.rows, region.columns)


def decide(split: str, found: Photographs, rivals: Rivals, i: int) -> Decision:
    """Why the first is before the second, of the nearest own and the nearest other one."""
    own, other = int(rivals.own[i]), int(rivals.other[i])
    first, second = (other, own) if rivals.wrong[i] else (own, other)
    query = found.explained(i)
    e_first, e_second = (F.normalize(rivals.E[k], dim=0) for k in (first, second))
    unit = (query.embedding / query.length).double().cpu()
    scores = [(unit @ e.double()).item() for e in (e_first, e_second)]
    values = (query.map(e_first - e_second) / query.length).double().cpu()
    difference = scores[0] - scores[1]
    return Decision(
        split=split,
        query=found.samples[i],
        first=found.samples[first],
        second=found.samples[second],
        score=scores[0],
        difference=difference,
        values=values.float(),
        bias=difference - values.sum().item(),
        frame=query.frame,
        regions=regions(values),
        index=(i, first, second),
    )


def regions(values: Float[Tensor, "h w"]) -> tuple[Region, ...]:
    """The blocks of cells that carry most of a map.

    Boxes around the parts that are above half of the largest value; cells that touch at a corner
    are connected. What a block carries is the sum of all of its cells, those below zero among them;
    less than a tenth of what is above zero makes none.
    """
    array = values.detach().cpu().double().numpy()
    top, positive = array.max(), array.clip(min=0).sum()
    if not top > 0:
        return ()
    labels, _ = ndimage.label(array > LEVEL * top, structure=np.ones((3, 3)))
    found = []
    for rows, columns in ndimage.find_objects(labels):
        carried = float(array[rows, columns].sum())
        if carried >= LEAST * positive:
            size = rows.stop - rows.start, columns.stop - columns.start
            found.append(Region(rows.start, columns.start, *size, carried))
    return tuple(sorted(found, key=lambda one: -one.carried)[:MOST])
