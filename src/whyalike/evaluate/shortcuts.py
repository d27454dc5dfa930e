"""The shortcut found: places that decide many wrong matches, and whether that is chance.

A match is wrong where the nearest photograph r of a query q is of another class, nearer than p, the
nearest of q's own class. What decides it is known exactly, cell by cell of the query:

    S(q, r) − S(q, p)  =  Σ_ij v^q_ij·(e_r − e_p) / |E^q|  +  b^q·(e_r − e_p) / |E^q|,   e = E/|E|

Of each such map, the regions are found that carry most of it. A network that looks at the object,
and takes it for another, decides there, wherever the object is. One that has learned a shortcut (a
mark, a border, a stand) decides at one place again and again: the place near which most different
matches have a region (all pairs of near centres by a k-d tree), then the fullest of what lies
elsewhere, and so on. Three questions are asked of it, and each may be answered by no:

1. *Is it more than chance?* All regions are moved by lot, each within its own photograph, and the
   fullest place of these is found as the true one was (a scan statistic: that any place might have
   been the fullest is allowed for).
2. *Does the decision hang on it?* The region is hidden in the query, the network asked again, and
   what becomes of S(q, r) > S(q, p) compared with the same where as much is hidden elsewhere.
3. *Is it the object?* Where boxes are known. Nothing else can tell a shortcut from an object that
   photographers put into the middle.

Right matches are asked the same, as what puts p before the nearest of another class: a mark that
tells the truth in all photographs at hand leads no match astray before it is too late. What is not
found so: a shortcut that lies at another place in each photograph, such as a watermark by lot.
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


@dataclass(frozen=True, eq=False)
class Place:
    """A place that decides matches.

    Args:
        wrong: whether they are wrong matches, or right ones.
        xy: where, in sides of what is seen, from the upper left corner.
        matches: which of them have a region here, by index, that which carries most first.
        regions: that region of each of them.
        share: of all such matches that were looked at.
        chance: the share that has a region here if regions are moved by lot, the mean.
        fullest: the share at the fullest place of such a draw, of which 1 % have a fuller one.
        p: how often, of such draws, the fullest place is as full as this one.
        others: the share of the matches of the other kind that are decided here (told, and no part
            of the verdict: a mark decides right matches and wrong ones).
        carried: what the regions carry of the differences, as a share of all of them.
        classes: of how many classes the queries are.
        on_object: how much of the regions lies in the queries' boxes; None without boxes.
        undone: what hiding them does; None where the place is not told from chance.
    """

    wrong: bool
    xy: tuple[float, float]
    matches: tuple[int, ...]
    regions: tuple[Region, ...]
    share: float
    chance: float
    fullest: float
    p: float
    others: float | None
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
    """Where a model's matches are decided.

    Args:
        wrong, right: the matches that were looked at.
        all_wrong: how many wrong matches there are.
        queries: of so many photographs.
        places: of wrong matches, the fullest first, then of right ones; of either, none where there
            are too few matches.
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
    places = [
        place
        for wrong, these, others in ((True, *kinds), (False, *kinds[::-1]))
        for place in places_of(these, others, wrong=wrong, seed=seed)
    ]
    for done, place in enumerate(places):
        say(tell, "hiding regions", done, len(places))
        if place.p <= SIGNIFICANT:
            undone = hide(model, splits, kinds[not place.wrong], place, fill=fill, seed=seed)
            places[done] = replace(place, undone=undone)
    say(tell, "hiding regions", len(places), len(places))
    return Shortcuts(*kinds, counts[0], sum(counts), tuple(places))


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


def moved(
    regions: Sequence[Region],
    grids: Sequence[tuple[int, int]],
    draws: int,
    random: np.random.Generator,
) -> Float[np.ndarray, "draws n 2"]:
    """Centres xy of regions that lie anywhere in their photographs, each place as likely."""
    sizes, sides = np.array([(one.rows, one.columns) for one in regions]), np.array(grids)
    corners = random.integers(0, sides - sizes + 1, (draws, *sizes.shape))
    centres: np.ndarray = ((corners + sizes / 2) / sides)[..., ::-1]
    return centres


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


def places_of(
    these: Sequence[Decision], others: Sequence[Decision], *, wrong: bool = True, seed: int = 0
) -> list[Place]:
    """The fullest place of some matches, then the fullest of what lies elsewhere, and so on.

    Args:
        these: the matches; of fewer than ten, nothing is said.
        others: those of the other kind.
        wrong: whether these are wrong matches.
        seed: of the draws.
    """
    all_regions = [(at, one) for at, decision in enumerate(these) for one in decision.regions]
    if len(these) < FEWEST or not all_regions:
        return []
    of = np.array([at for at, _ in all_regions])
    grids = [these[at].frame.grid_hw for at in of]
    centres = np.array([one.centre_xy(g) for (_, one), g in zip(all_regions, grids, strict=True)])
    random = np.random.default_rng([seed, 1])
    drawn = moved([one for _, one in all_regions], grids, DRAWS, random)
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
        expected = np.mean([len({*of[np.hypot(*(one - xy).T) <= NEAR].tolist()}) for one in drawn])
        found.append(
            Place(
                wrong=wrong,
                xy=(float(xy[0]), float(xy[1])),
                matches=tuple(matches),
                regions=tuple(best[at] for at in matches),
                share=len(matches) / len(these),
                chance=float(expected) / len(these),
                fullest=float(np.quantile(by_chance, 1 - SIGNIFICANT)) / len(these),
                p=float((1 + (by_chance >= len(matches)).sum()) / (1 + DRAWS)),
                others=float(np.mean([_is_near(one, xy) for one in others])) if others else None,
                carried=sum(best[at].carried for at in matches)
                / sum(these[at].difference for at in matches),
                classes=len({these[at].query.label for at in matches}),
                on_object=_on_object([(these[at], best[at]) for at in matches]),
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
    these: Sequence[Decision],
    place: Place,
    *,
    fill: Fill = "mean",
    seed: int = 0,
) -> Undone | None:
    """Ask the network again without a place's regions, and without as much elsewhere.

    Args:
        model: the network.
        splits: as for `find_shortcuts`.
        these: the matches that the place's are of.
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
        decision, region = these[place.matches[at]], place.regions[at]
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
