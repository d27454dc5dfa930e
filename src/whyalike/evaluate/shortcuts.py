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
3. *Is it the object?* Less of the regions must lie in the queries' boxes than if they lay anywhere.
   Without boxes this stays open, as nothing else can tell a shortcut from an object that
   photographers put into the middle; and a shortcut that lies where objects do is not told from
   them.

Right matches are asked the same, as what puts p before the nearest of another class: a mark that
tells the truth in all photographs at hand leads no match astray before it is too late. What is not
found so: a shortcut that lies at another place in each photograph, such as a watermark by lot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.stride_tricks import sliding_window_view
from scipy.spatial import KDTree

from whyalike.evaluate.decisions import Decision, Region, decide
from whyalike.evaluate.hiding import Undone, hide
from whyalike.evaluate.pairing import Rivals
from whyalike.evaluate.perturbation import Fill
from whyalike.evaluate.photographs import Photographs, Tell, say
from whyalike.evaluate.retrieval import Interval, bootstrap
from whyalike.model import EmbeddingModel

NEAR = 0.15
"""Regions are at one place if their centres are so near to it, in sides of what was seen."""
FEWEST = 10
"""Of fewer wrong matches nothing can be said."""
DRAWS = 199
SIGNIFICANT = 0.01
PLACES = 3
"""So many places are looked into."""


@dataclass(frozen=True)
class OnObject:
    """Whether regions lie on the object, or beside it.

    Args:
        share: of their area, what lies in the boxes of their queries.
        chance: the same if each lay anywhere in its photograph, the mean over all places.
        more: share − chance, the mean over the matches with its 99 % interval.
    """

    share: float
    chance: float
    more: Interval


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
        carried: what the regions carry of the differences, as a share of all of them; None where
            there are only ties.
        classes: of how many classes the queries are.
        on_object: how much of the regions lies in the queries' boxes; None without boxes.
        undone: what hiding them does; None where the place is not told from chance, or where no
            region leaves room for as much elsewhere.
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
    carried: float | None
    classes: int
    on_object: OnObject | None
    undone: Undone | None

    @property
    def verdict(self) -> str:
        """In words: "chance", "object", "too large", "no effect", "unknown" or "shortcut"."""
        if self.p > SIGNIFICANT:
            return "chance"
        if self.on_object is not None and self.on_object.more.low > 0:
            return "object"
        if self.undone is None:
            return "too large"
        if self.undone.more.low <= 0:
            return "no effect"
        if self.on_object is None or self.on_object.more.high >= 0:
            return "unknown"
        return "shortcut"


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
    wrong, all_wrong = _decisions(splits, True, most, random, tell)
    right, all_right = _decisions(splits, False, most, random, tell)
    places = [
        *places_of(wrong, right, wrong=True, seed=seed),
        *places_of(right, wrong, wrong=False, seed=seed),
    ]
    for done, place in enumerate(places):
        say(tell, "hiding regions", done, len(places))
        if place.p <= SIGNIFICANT:
            these = wrong if place.wrong else right
            here = [(these[at], one) for at, one in zip(place.matches, place.regions, strict=True)]
            undone = hide(model, splits, here, fill=fill, seed=seed)
            places[done] = replace(place, undone=undone)
    say(tell, "hiding regions", len(places), len(places))
    return Shortcuts(wrong, right, all_wrong, all_wrong + all_right, tuple(places))


def _decisions(
    splits: Mapping[str, tuple[Photographs, Rivals]],
    wrong: bool,
    most: int,
    random: np.random.Generator,
    tell: Tell | None,
) -> tuple[tuple[Decision, ...], int]:
    """Some of the wrong or of the right matches by lot, explained; and how many there are."""
    these = [
        (split, int(i))
        for split, (_, rivals) in splits.items()
        for i in np.flatnonzero(rivals.known & (rivals.wrong == wrong))
    ]
    chosen = sorted(random.permutation(len(these))[:most])
    what = f"explaining {'wrong' if wrong else 'right'} matches"
    found = []
    for done, at in enumerate(chosen):
        say(tell, what, done, len(chosen))
        split, i = these[at]
        found.append(decide(split, *splits[split], i))
    say(tell, what, len(chosen), len(chosen))
    return tuple(found), len(these)


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
    centres: Float[np.ndarray, "n 2"], of: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " 2"], int]:
    """Of the centres, the one near which most different matches have one; and how many have.

    Args:
        centres: of regions, in sides.
        of: which match each is of.
    """
    tried = np.unique(centres, axis=0)
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
    pairs = [(at, one) for at, decision in enumerate(these) for one in decision.regions]
    if len(these) < FEWEST or not pairs:
        return []
    of = np.array([at for at, _ in pairs])
    grids = [these[at].frame.grid_hw for at in of]
    centres = np.array([one.centre_xy(g) for (_, one), g in zip(pairs, grids, strict=True)])
    drawn = moved([one for _, one in pairs], grids, DRAWS, np.random.default_rng([seed, 1]))
    by_chance = np.array([fullest(one, of)[1] for one in drawn]) / len(these)
    left = np.ones(len(of), bool)
    found: list[Place] = []
    while left.any() and len(found) < PLACES:
        xy, count = fullest(centres[left], of[left])
        if count < 2:
            break
        here = left & _near(centres, xy)
        left &= ~here
        here_by_chance = [len({*of[_near(one, xy)].tolist()}) for one in drawn]
        strongest: dict[int, Region] = {}
        for at, region in sorted((pairs[k] for k in np.flatnonzero(here)), key=_by_carried):
            strongest.setdefault(at, region)
        members = [(these[at], region) for at, region in strongest.items()]
        share = len(members) / len(these)
        found.append(
            Place(
                wrong=wrong,
                xy=(float(xy[0]), float(xy[1])),
                matches=tuple(strongest),
                regions=tuple(strongest.values()),
                share=share,
                chance=float(np.mean(here_by_chance)) / len(these),
                fullest=float(np.quantile(by_chance, 1 - SIGNIFICANT)),
                p=float((1 + (by_chance >= share).sum()) / (1 + DRAWS)),
                others=float(np.mean([_is_near(one, xy) for one in others])) if others else None,
                carried=_part(members),
                classes=len({decision.query.label for decision, _ in members}),
                on_object=on_object(members, seed=seed),
                undone=None,
            )
        )
    return found


def _by_carried(pair: tuple[int, Region]) -> float:
    return -pair[1].carried


def _near(centres: Float[np.ndarray, "n 2"], xy: Float[np.ndarray, " 2"]) -> Bool[np.ndarray, " n"]:
    near: np.ndarray = np.hypot(*(centres - xy).T) <= NEAR
    return near


def _is_near(decision: Decision, xy: np.ndarray) -> bool:
    centres = [one.centre_xy(decision.frame.grid_hw) for one in decision.regions]
    return bool(centres) and bool(_near(np.array(centres), xy).any())


def _part(these: Sequence[tuple[Decision, Region]]) -> float | None:
    """What regions carry of the differences of their matches."""
    total = sum(decision.difference for decision, _ in these)
    return sum(region.carried for _, region in these) / total if total > 0 else None


def on_object(these: Sequence[tuple[Decision, Region]], *, seed: int = 0) -> OnObject | None:
    """How much of some regions' area lies in the boxes of their queries, and would by chance.

    Args:
        these: matches, each with its region; those without a box are left out.
        seed: of the interval.

    Returns:
        None where no box is known.
    """
    found = []
    for decision, region in these:
        if decision.query.box_xyxy is not None:
            covered = decision.frame.box_coverage(decision.query.box_xyxy)
            block = sliding_window_view(covered, (region.rows, region.columns)).mean((2, 3))
            found.append((block[region.row, region.column], block.mean()))
    if not found:
        return None
    here, anywhere = np.array(found).T
    more = bootstrap(here - anywhere, level=0.99, seed=seed)
    return OnObject(float(here.mean()), float(anywhere.mean()), more)
