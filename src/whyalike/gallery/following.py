"""Following: searches of one query that follow one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from whyalike.contributions import Contributions
from whyalike.gallery.hits import Hit
from whyalike.gallery.query import Query, ask
from whyalike.gallery.snapshot import Snapshot
from whyalike.gallery.vectors import Best

ROWS = 2000
"""Rows of hits that are kept, while one query is searched by."""


@dataclass(frozen=True, eq=False)
class Following:
    """Searches by one part after another of one query: what all of them need is computed once.

    A search multiplies every row once. Ranks without the region multiply every row by the whole
    query as well, once for all searches, when the first of them is asked for.

    Args:
        x: of the query.
        snapshot: of the gallery.
        among: which rows may be found; None for all.
    """

    x: Contributions
    snapshot: Snapshot
    among: Bool[np.ndarray, " n"] | None = None
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)
    _by_whole: dict[int, list[Hit]] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> int:
        """Of the gallery."""
        return self.snapshot.version

    @property
    def nbytes(self) -> int:
        """Of what it keeps, about: two numbers a photograph, and which of them may be found."""
        return 9 * int(self.snapshot.vectors.starts[-1])

    @cached_property
    def _whole(self) -> Float[np.ndarray, " n"]:
        return self.snapshot.vectors.products(ask(self.x).vector, self.among)

    @cached_property
    def _in_order(self) -> Float[np.ndarray, " n"]:
        return np.sort(self._whole)

    def by_whole(self, k: int) -> list[Hit]:
        """The photographs that are most alike to the whole query."""
        if k not in self._by_whole:
            best = self.snapshot.vectors.top(self._whole, k)
            ranks = {one: i + 1 for i, one in enumerate(best.positions.tolist())}
            self._by_whole[k] = self._hits(best, ask(self.x), ranks.__getitem__)
        return list(self._by_whole[k])

    def search(self, asked: Query, k: int) -> list[Hit]:
        """The photographs that score highest with a part of the query.

        Args:
            asked: of this query.
            k: how many hits.
        """
        if asked.is_whole:
            return self.by_whole(k)
        return self._hits(
            self.snapshot.vectors.best(asked.vector, k, self.among), asked, self._rank
        )

    def _rank(self, position: int) -> int:
        """The rank by the whole query of a row."""
        least = np.searchsorted(self._in_order, self._whole[position], side="right")
        return 1 + len(self._whole) - int(least)

    def _hits(self, best: Best, asked: Query, rank: Callable[[int], int]) -> list[Hit]:
        """As a region moves, most hits are those of the step before: their rows are kept."""
        at = best.positions.tolist()
        found = {one: row for one in at if (row := self._rows.get(one)) is not None}
        new = [one for one in at if one not in found]
        taken = self.snapshot.take(np.array(new, np.int64))
        found.update(zip(new, taken, strict=True))
        if len(self._rows) > ROWS:
            self._rows.clear()
        self._rows.update(found)  # others may search at the same time: what is found here is ours
        rows = [found[one] for one in at]
        return self.snapshot.hits(best, asked, rows, rank)
