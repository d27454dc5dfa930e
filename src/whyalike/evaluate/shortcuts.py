"""The shortcut found: places that decide many wrong matches, and whether that is chance.

A match is wrong where the nearest photograph r of a query q is of another class than its own p, the
nearest of its class. What decides it is known exactly, cell by cell of the query:

    S(q, r) − S(q, p)  =  Σ_ij v^q_ij·(e_r − e_p) / |E^q|  +  b^q·(e_r − e_p) / |E^q|,   e = E/|E|

A network that is right about what it looks at, and wrong about what it is, decides at the object,
wherever that is. One that has learned a shortcut (a mark, a border, a stand) decides at the same
place again and again. Three questions are asked of such a place, and each may be answered by no:

1. *Is it more than chance?* The regions of each map are moved by lot within their own photograph,
   and the fullest place of these is counted as the fullest place was (a scan statistic, with all
   places that might have been found allowed for).
2. *Does the decision hang on it?* The region is hidden in the query, the network asked again, and
   what becomes of S(q, r) > S(q, p) compared with the same where as much is hidden elsewhere.
3. *Is it the object?* Where boxes are known. Nothing else can tell a shortcut from an object that
   photographers put into the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import KDTree
from torch import Tensor

from whyalike.data import Sample
from whyalike.evaluate.pairing import Rivals
from whyalike.evaluate.perturbation import Fill, filling
from whyalike.evaluate.photographs import Photographs, Tell, say
from whyalike.evaluate.retrieval import Interval, bootstrap
from whyalike.geometry import XYXY, Frame
from whyalike.model import EmbeddingModel

LEVEL = 0.5
"""A region is a connected part of a map above so much of its largest value, ..."""
LEAST = 0.1
"""... that carries so much of all that is above zero."""
MOST = 3
"""So many regions of a map, at most."""
NEAR = 0.15
"""Regions are at one place if their centres are so near to it, in sides of what was seen."""
FEWEST = 10
"""Of fewer wrong matches nothing can be said."""
DRAWS = 199
SIGNIFICANT = 0.01
ELSEWHERE = 4
"""Places where as much is hidden, to compare with."""
HIDDEN = 60
"""Matches of a place of which the network is asked again."""
PLACES = 3
"""So many places are looked into."""


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


@dataclass(frozen=True)
class Undone:
    """What becomes of wrong matches as regions of the query are hidden.

    Args:
        asked: of so many matches.
        here: the share that is no longer wrong (the own one is before the other) without the
            region.
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


@dataclass(frozen=True, eq=False)
class Place:
    """A place that decides wrong matches.

    Args:
        xy: where, in sides of what is seen, from the upper left corner.
        matches: indices of the wrong matches with a region here, that which carries most first.
        regions: that region of each of them.
        share: of all wrong matches.
        chance: the share that has a region here if regions are moved by lot, the mean.
        fullest: the share at the fullest place of such a draw, of which 1 % have a fuller one.
        p: how often, of such draws, the fullest place is as full as this one.
        right: the share of right matches that are decided here (told, and no part of the verdict: a
            mark that tells the truth decides right matches as well).
        carried: what the regions carry of the differences, as a share of all of them.
        classes: of how many classes the queries are.
        on_object: how much of the regions lies in the queries' boxes; None without boxes.
        undone: what hiding them does; None where the place is not told from chance.
    """

    xy: tuple[float, float]
    matches: tuple[int, ...]
    regions: tuple[Region, ...]
    share: float
    chance: float
    fullest: float
    p: float
    right: float | None
    carried: float
    classes: int
    on_object: float | None
    undone: Undone | None

    @property
    def verdict(self) -> str:
        """In words: "chance", "no effect", "unknown", "object" or "shortcut"."""
        if self.p > SIGNIFICANT or self.undone is None:
            return "chance"
        if self.undone.more.low <= 0:
            return "no effect"
        if self.on_object is None:
            return "unknown"
        return "object" if self.on_object > 0.5 else "shortcut"


@dataclass(frozen=True, eq=False)
class Shortcuts:
    """Where a model's wrong matches are decided.

    Args:
        wrong: the wrong matches that were looked at.
        right: right matches, to compare with.
        all_wrong: how many wrong matches there are.
        queries: of so many photographs.
        places: the fullest first; none where there are too few wrong matches.
    """

    wrong: tuple[Decision, ...]
    right: tuple[Decision, ...]
    all_wrong: int
    queries: int
    places: tuple[Place, ...] = field(default=())

    @property
    def found(self) -> tuple[Place, ...]:
        """Those that are a shortcut by all three questions."""
        return tuple(one for one in self.places if one.verdict == "shortcut")


def find_shortcuts(
    model: EmbeddingModel,
    splits: Mapping[str, tuple[Photographs, Rivals]],
    *,
    most: int = 300,
    fill: Fill = "mean",
    seed: int = 0,
    tell: Tell | None = None,
) -> Shortcuts:
    """Look for places that decide wrong matches.

    Args:
        model: whose matches they are, at its cut.
        splits: by name, photographs and the nearest of each one's own and of another class.
        most: look at so many wrong matches by lot, and as many right ones.
        fill: what hides a region: "mean" is the photograph's own mean colour.
        seed: of all that is random.
        tell: is called as the work goes on.
    """
    random = np.random.default_rng(seed)
    kinds: list[tuple[Decision, ...]] = []
    counts = []
    for wrong in (True, False):
        these = [
            (split, int(i))
            for split, (_, rivals) in splits.items()
            for i in np.flatnonzero(rivals.known & (rivals.wrong == wrong))
        ]
        counts.append(len(these))
        chosen = sorted(random.permutation(len(these))[:most])
        what = f"explaining {'wrong' if wrong else 'right'} matches"
        found = []
        for done, at in enumerate(chosen):
            say(tell, what, done, len(chosen))
            split, i = these[at]
            found.append(decide(split, *splits[split], i))
        say(tell, what, len(chosen), len(chosen))
        kinds.append(tuple(found))
    wrong_ones, right_ones = kinds
    places: list[Place] = []
    if len(wrong_ones) >= FEWEST:
        places = _places(wrong_ones, right_ones, seed)
        likely = [one for one in places if one.p <= SIGNIFICANT]
        for done, place in enumerate(likely):
            say(tell, "hiding regions", done, len(likely))
            undone = hide(model, splits, wrong_ones, place, fill=fill, seed=seed)
            places[places.index(place)] = replace(place, undone=undone)
        say(tell, "hiding regions", len(likely), len(likely))
    return Shortcuts(wrong_ones, right_ones, counts[0], sum(counts), tuple(places))


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
    """The blocks of cells that carry most of a map: boxes around parts above half its largest value.

    What a block carries is the sum of all of its cells, those below zero among them. Blocks that
    carry less than a tenth of what is above zero are none; cells that touch at a corner are
    connected.
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


def moved(
    region: Region, grid_hw: tuple[int, int], random: np.random.Generator
) -> tuple[float, float]:
    """The centre of a region that lies anywhere in its photograph, each place as likely."""
    row, column = (
        int(random.integers(side - size + 1))
        for side, size in zip(grid_hw, (region.rows, region.columns), strict=True)
    )
    return region._replace(row=row, column=column).centre_xy(grid_hw)


def fullest(
    centres: Float[np.ndarray, "n 2"], of: np.ndarray, candidates: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """The place near which most different matches have a centre, and how many have.

    Args:
        centres: of regions, in sides.
        of: which match each is of.
        candidates: places to try; by default the centres themselves.
    """
    tried = np.unique(centres if candidates is None else candidates, axis=0)
    near = KDTree(centres).query_ball_point(tried, NEAR)
    counts = [len({*of[one].tolist()}) for one in near]
    # Of places that are equally full, the one in their middle: the nearest to the mean of all.
    best = np.flatnonzero(np.array(counts) == max(counts))
    middle = tried[best].mean(0)
    at = best[((tried[best] - middle) ** 2).sum(1).argmin()]
    return tried[at], counts[at]


def _places(
    wrong: Sequence[Decision], right: Sequence[Decision], seed: int
) -> list[Place]:
    """The fullest place, then the fullest of what lies elsewhere, and so on."""
    all_regions = [(at, one) for at, decision in enumerate(wrong) for one in decision.regions]
    if not all_regions:
        return []
    of = np.array([at for at, _ in all_regions])
    grids = [wrong[at].frame.grid_hw for at in of]
    centres = np.array([one.centre_xy(g) for (_, one), g in zip(all_regions, grids, strict=True)])
    random = np.random.default_rng([seed, 1])
    drawn = [
        np.array([moved(one, g, random) for (_, one), g in zip(all_regions, grids, strict=True)])
        for _ in range(DRAWS)
    ]
    by_chance = np.array([fullest(one, of)[1] for one in drawn])
    left = np.ones(len(of), bool)
    found: list[Place] = []
    while left.any() and len(found) < PLACES:
        xy, count = fullest(centres[left], of[left])
        if count < 2:
            break
        here = left & (np.hypot(*(centres - xy).T) <= NEAR)
        best: dict[int, Region] = {}
        for k in np.flatnonzero(here):
            at, region = all_regions[k]
            if at not in best or region.carried > best[at].carried:
                best[at] = region
        matches = sorted(best, key=lambda at: -best[at].carried)
        expected = np.mean(
            [len({*of[np.hypot(*(one - xy).T) <= NEAR].tolist()}) for one in drawn]
        )
        found.append(
            Place(
                xy=(float(xy[0]), float(xy[1])),
                matches=tuple(matches),
                regions=tuple(best[at] for at in matches),
                share=len(matches) / len(wrong),
                chance=float(expected) / len(wrong),
                fullest=float(np.quantile(by_chance, 1 - SIGNIFICANT)) / len(wrong),
                p=float((1 + (by_chance >= len(matches)).sum()) / (1 + DRAWS)),
                right=float(np.mean([_is_near(one, xy) for one in right])) if right else None,
                carried=sum(best[at].carried for at in matches)
                / sum(wrong[at].difference for at in matches),
                classes=len({wrong[at].query.label for at in matches}),
                on_object=_on_object([(wrong[at], best[at]) for at in matches]),
                undone=None,
            )
        )
        left &= ~here
    return found


def _is_near(decision: Decision, xy: np.ndarray) -> bool:
    grid = decision.frame.grid_hw
    return any(np.hypot(*(one.centre_xy(grid) - xy)) <= NEAR for one in decision.regions)


def _on_object(these: Sequence[tuple[Decision, Region]]) -> float | None:
    """How much of the regions' area lies in the boxes of their queries."""
    shares = []
    for decision, region in these:
        if decision.query.box_xyxy is not None:
            a, b = decision.xyxy(region), decision.query.box_xyxy
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            area = (a[2] - a[0]) * (a[3] - a[1])
            shares.append(max(width, 0.0) * max(height, 0.0) / area)
    return float(np.mean(shares)) if shares else None


def hide(
    model: EmbeddingModel,
    splits: Mapping[str, tuple[Photographs, Rivals]],
    wrong: Sequence[Decision],
    place: Place,
    *,
    fill: Fill = "mean",
    seed: int = 0,
) -> Undone | None:
    """Ask the network again without a place's regions, and without as much elsewhere.

    Args:
        model: the network.
        splits: as for `find_shortcuts`.
        wrong: all wrong matches.
        place: whose regions are hidden in the queries; the other photographs stay as they are.
        fill: what hides them.
        seed: of what is hidden elsewhere, and of the interval.

    Returns:
        None where no region leaves room for as much elsewhere.
    """
    random = np.random.default_rng([seed, 2])
    rows = []
    chosen = sorted(random.permutation(len(place.matches))[:HIDDEN])
    for at in chosen:
        decision, region = wrong[place.matches[at]], place.regions[at]
        others = _elsewhere(region, decision.frame.grid_hw, random)
        if not others:
            continue
        found, rivals = splits[decision.split]
        i, first, second = decision.index
        image = found.tensor(i)
        shown = [_without(image, one, decision.frame.grid_hw, fill) for one in (region, *others)]
        E = F.normalize(model.embeddings(torch.stack(shown)).double().cpu())
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
