"""Which kinds of region answer which, over many pairs of two views.

What a region i of a query and a region j of a reference carry together is v_i·v_j / (|E^q||E^r|).
In each pair of the same, the cells that carry most together are taken; of these, each view's v are
clustered by their direction, into *kinds*: that is all of a cell that any score depends on, but for
how strong it is. (Features at the cut would tell apart what the head does not.)

Every cell of every pair is then of the kind whose centre is nearest, and as v are summed by kinds,

    S  =  Σ_ab u_a·w_b / (|E^q||E^r|),    u_a = Σ v over the query's cells of kind a,

with "no cell" (biases, prefix tokens) as one more kind of each view: the table adds up to the mean
score, with nothing left over. What the same kinds would carry if references were handed out by lot
is known without forming those pairs, (Σ_p u_a · Σ_p w_b − Σ_p u_a·w_b) / (n (n − 1)).
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whyalike.apps.kinds import by_chance, clusters, directions, in_order, nearest, strongest
from whyalike.contributions import Contributions
from whyalike.data import Dataset
from whyalike.errors import DataError, ImageError
from whyalike.evaluate.photographs import Tell, say
from whyalike.geometry import XYXY
from whyalike.images import printable
from whyalike.model import EmbeddingModel
from whyalike.pair import Pair

KINDS, EACH = 8, 8
SURE = 0.001
"""As p can be: no draw is as full. Of 64 combinations, that leaves one in 16 to chance."""
MOST_KINDS = len(string.ascii_uppercase)
BATCH = 8
KEPT = 1 << 28
"""Bytes of v that are clustered at once; of more pairs, some, evenly spread, teach the kinds."""


class Link(NamedTuple):
    """One of the strongest matches of a pair.

    pair: its number among those that were read.
    query_xyxy, reference_xyxy: the two cells, in pixels of the photographs.
    value: what they carry together, in units of cosine.
    query_kind, reference_kind: numbers of their kinds.
    """

    pair: int
    query_xyxy: XYXY
    reference_xyxy: XYXY
    value: float
    query_kind: int
    reference_kind: int


@dataclass(frozen=True, eq=False)
class Patterns:
    """Kinds of region of two views, and what they carry together.

    Args:
        data: the data set's name.
        models: the two networks in words.
        kinds: of the query and of the reference, at most so many.
        each: strongest matches of a pair, at most so many.
        seed: of the clusters.
        pairs: files of query and reference, of each pair that was read.
        carried: the mean over pairs of what a kind of the query carries with one of the reference,
            in units of cosine; last row and column: no cell. It adds up to the mean score.
        by_lot: the same, over each query with the references of all other pairs; NaN for one pair.
        areas: of the query's cells and of the reference's, the share that is of each kind.
        links: the strongest matches.
        p: how often two kinds hold as much of these if each pair's reference is another pair's by
            lot (`whyalike.apps.kinds.by_chance`).
        left_out: photographs that could not be read, and why.
    """

    data: str
    models: tuple[str, str]
    kinds: int
    each: int
    seed: int
    pairs: tuple[tuple[Path, Path], ...]
    carried: Float[np.ndarray, "a b"]
    by_lot: Float[np.ndarray, "a b"]
    areas: tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]
    links: tuple[Link, ...]
    p: Float[np.ndarray, "a b"]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def score(self) -> float:
        """The mean similarity."""
        return float(self.carried.sum())

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Of the query's kinds, letters, and of the reference's, numbers."""
        a, b = (len(of) for of in self.areas)
        return list(string.ascii_uppercase[:a]), [str(at + 1) for at in range(b)]

    @property
    def held(self) -> Float[np.ndarray, "a b"]:
        """The share of the strongest matches, by what they carry, that two kinds have; sum 1."""
        found = np.zeros([len(of) for of in self.areas])
        for link in self.links:
            found[link.query_kind, link.reference_kind] += link.value
        return found / found.sum()

    @property
    def lift(self) -> Float[np.ndarray, "a b"]:
        """`held`, over what it would be if either kind met the other's kinds as they are frequent.

        1 is chance; NaN for a kind that has no strongest match.
        """
        held = self.held
        expected = held.sum(1, keepdims=True) * held.sum(0, keepdims=True)
        return np.divide(held, expected, out=np.full(held.shape, np.nan), where=expected > 0)

    def of(self, a: int, b: int) -> list[Link]:
        """The strongest matches of two kinds, the strongest first."""
        found = [one for one in self.links if (one.query_kind, one.reference_kind) == (a, b)]
        return sorted(found, key=lambda one: -one.value)

    def strong(self, least: float = 0.01, surely: bool = False) -> list[tuple[int, int]]:
        """Kinds that meet more often than they are frequent, those first that hold most.

        Args:
            least: leave out what holds less than so much of the strongest matches.
            surely: leave out what is not told from chance: of 999 draws, one is as full.
        """
        held, lift = self.held, self.lift
        told = (self.p <= SURE + 1e-9) | (not surely)
        rows, columns = np.nonzero((held >= least) & (lift > 1) & told)
        order = np.argsort(-held[rows, columns], kind="stable")
        return [(int(rows[at]), int(columns[at])) for at in order]


def find_patterns(
    model: EmbeddingModel,
    reference_model: EmbeddingModel,
    data: Dataset,
    *,
    kinds: int = KINDS,
    each: int = EACH,
    limit: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Patterns:
    """Which kinds of region of one view answer which of the other.

    >>> find_patterns(ground, aerial, read("cvusa:PATH")).strong()[0]  # doctest: +SKIP
    (0, 0)

    Every photograph is explained twice, and nothing is kept of it but a few numbers.

    Args:
        model, reference_model: the networks of query and reference, of one embedding space; they
            may be of unlike sizes and layers, and one.
        data: with pairs of two views.
        kinds: at most so many of each view, 26 at most.
        each: strongest matches of a pair, at most; each of its cells is in one of them at most.
        limit: at most so many pairs, evenly spread.
        seed: of the clusters; equal seeds give equal patterns.
        tell: called with what is done, of how much.

    Raises:
        DataError: there are no pairs, none that can be read, or none with a match.
        ValueError: a number is out of its range.
    """
    if not (1 <= kinds <= MOST_KINDS and each >= 1):
        raise ValueError(f"kinds are 1 to {MOST_KINDS}, each is 1 or more; came {kinds}, {each}")
    files = [(query.path, reference.path) for query, reference, _ in data.across()]
    if not files:
        raise DataError(
            f"{data.name}: has no pairs that show the same; give cvusa:PATH and the like, or a "
            f"table with columns `query` and `reference`"
        )
    if limit is not None and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    reader = _Reader(model, reference_model, files, tell)
    centres = _learned(reader, kinds, each, seed)
    return _counted(reader, data.name, centres, kinds, each, seed)


class _Reader:
    """Pairs of a list, explained in batches; what cannot be read is told once."""

    def __init__(
        self,
        model: EmbeddingModel,
        reference_model: EmbeddingModel,
        files: Sequence[tuple[Path, Path]],
        tell: Tell | None,
    ) -> None:
        self.models = model, reference_model
        self.files = files
        self.tell = tell
        self.left_out: dict[str, str] = {}

    def run(
        self, what: str, step: int = 1, batch: int = BATCH
    ) -> Iterator[tuple[tuple[Path, Path], Pair]]:
        """Each pair that can be read, or each `step`-th, with all v at hand."""
        files = self.files[::step]
        for start in range(0, len(files), batch):
            some = files[start : start + batch]
            sides = [
                model.explain([str(two[side]) for two in some], strict=False)
                for side, model in enumerate(self.models)
            ]
            for two, query, reference in zip(some, *sides, strict=True):
                bad = [one for one in (query, reference) if isinstance(one, ImageError)]
                if bad:
                    self.left_out[printable(str(two[0]))] = str(bad[0])
                    continue
                yield two, Pair(query, reference.to(query.embedding.device)).at_hand()
            say(self.tell, what, min(start + batch, len(files)), len(files))


def _learned(
    reader: _Reader, kinds: int, each: int, seed: int
) -> tuple[Float[np.ndarray, "a d"], Float[np.ndarray, "b d"]]:
    """Centres of the kinds of both views, in the order of what answers what."""
    what = "looking for kinds"
    first = next(reader.run(what, batch=1), None)  # for how long embeddings are
    if first is None:
        raise DataError(f"no pair can be read, first: {next(iter(reader.left_out.values()))}")
    room = max(1, KEPT // (8 * each * len(first[1].query.embedding)))
    values: list[float] = []
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _, pair in reader.run(what, step=-(-len(reader.files) // room)):
        found = strongest(pair, each)
        values += [one.value for one in found]
        if found:
            cells = [pair.query.values[one.query] for one in found]
            sides[0].append(directions(torch.stack(cells)))
            cells = [pair.reference.values[one.reference] for one in found]
            sides[1].append(directions(torch.stack(cells)))
    if not values:
        raise DataError("no two cells of any pair carry anything for the match")
    centres, kind = zip(
        *(clusters(torch.cat(side).numpy(), kinds, seed) for side in sides), strict=True
    )
    held = np.zeros([len(one) for one in centres])
    np.add.at(held, kind, values)
    orders = in_order(held)
    return centres[0][orders[0]], centres[1][orders[1]]


def _by_kind(
    c: Contributions, centres: Float[np.ndarray, "k d"]
) -> tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "k+1 d"]]:
    """The kind of each cell, and Σ v of each kind; last what no cell gives; over |E|."""
    values = c.values.detach().flatten(0, 1)
    kind = nearest(values, centres)
    here = (kind[None] == np.arange(len(centres))[:, None]).astype(np.float64)
    parts = [here @ values.cpu().double().numpy(), c.rest.detach().cpu().double().numpy()[None]]
    return kind.reshape(c.frame.grid_hw), np.vstack(parts) / c.length


def _links(pair: Pair, number: int, kinds: tuple[np.ndarray, np.ndarray], each: int) -> list[Link]:
    """The strongest matches of a pair, by the kinds of its cells."""
    return [
        Link(
            number,
            pair.query.frame.cell_xyxy(*one.query),
            pair.reference.frame.cell_xyxy(*one.reference),
            one.value,
            int(kinds[0][one.query]),
            int(kinds[1][one.reference]),
        )
        for one in strongest(pair, each)
    ]


def _counted(
    reader: _Reader,
    name: str,
    centres: tuple[np.ndarray, np.ndarray],
    kinds: int,
    each: int,
    seed: int,
) -> Patterns:
    """All cells of all pairs by their kinds."""
    carried = np.zeros([len(one) + 1 for one in centres])
    sums = [np.zeros((len(one) + 1, one.shape[1])) for one in centres]
    areas = [np.zeros(len(one)) for one in centres]
    pairs: list[tuple[Path, Path]] = []
    links: list[Link] = []
    for files, pair in reader.run("counting by kind"):
        of, parts = [], []
        for c, one, total, area in zip(
            (pair.query, pair.reference), centres, sums, areas, strict=True
        ):
            kind, part = _by_kind(c, one)
            total += part
            area += [(kind == at).mean() for at in range(len(area))]
            of.append(kind)
            parts.append(part)
        carried += parts[0] @ parts[1].T
        links += _links(pair, len(pairs), (of[0], of[1]), each)
        pairs.append(files)
    n, shape = len(pairs), (len(centres[0]), len(centres[1]))
    of_links = tuple(np.array([one[at] for one in links]) for at in (0, 4, 5, 3))
    by_lot = np.full(carried.shape, np.nan)
    if n > 1:
        by_lot = (sums[0] @ sums[1].T - carried) / (n * (n - 1))
    return Patterns(
        data=name,
        models=(reader.models[0].description, reader.models[1].description),
        kinds=kinds,
        each=each,
        seed=seed,
        pairs=tuple(pairs),
        carried=carried / n,
        by_lot=by_lot,
        areas=(areas[0] / n, areas[1] / n),
        links=tuple(links),
        p=by_chance(of_links[0], (of_links[1], of_links[2]), of_links[3], shape, seed),
        left_out=tuple(reader.left_out.items()),
    )
