"""What a gallery lists, page by page, and searches of one query that follow one another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import lance
import numpy as np
from jaxtyping import Bool, Float

from whyalike.contributions import Contributions
from whyalike.gallery.hits import COLUMNS, Hit, hits_of, take
from whyalike.gallery.query import Query, ask
from whyalike.gallery.vectors import Best, Vectors

ROWS = 2000
"""Rows of hits that are kept, while one query is searched by."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A photograph as the gallery lists it.

    Args:
        id: of the row.
        path: of the file, as text to show.
        file: the same, to open.
        label: its class, where one is known.
        metadata: its other columns.
    """

    id: str
    path: str
    file: str
    label: str | None
    metadata: dict[str, Any]
    row: dict[str, Any] = field(repr=False)
    address: int = field(repr=False)
    version: int = field(repr=False)

    @classmethod
    def of(cls, hit: Hit) -> Entry:
        """What a hit is of."""
        return cls(
            hit.id, hit.path, hit.file, hit.label, hit.metadata, hit.row, hit.address, hit.version
        )


def entries(
    table: lance.LanceDataset, metadata: Sequence[str], where: str | None, **options: Any
) -> list[Entry]:
    """Some rows of a table, in its order; `options` are those of Lance: offset, limit."""
    columns = [*COLUMNS, *metadata]
    found = table.to_table(columns=columns, filter=where, with_row_address=True, **options)
    return [
        Entry(
            id=row["id"],
            path=row["path"],
            file=os.fsdecode(row["file"]),
            label=row["label"],
            metadata={name: row[name] for name in metadata},
            row=row,
            address=row.pop("_rowaddr"),
            version=table.version,
        )
        for row in found.to_pylist()
    ]


@dataclass(frozen=True, eq=False)
class Following:
    """Searches by one part after another of one query: what all of them need is computed once.

    A search multiplies every row once. Ranks without the region multiply every row by the whole
    query as well, once for all searches, when the first of them is asked for.

    Args:
        x: of the query.
        table, vectors: of one version of the gallery.
        metadata: names of its columns of metadata.
        among: which rows may be found; None for all.
    """

    x: Contributions
    table: lance.LanceDataset
    vectors: Vectors
    metadata: tuple[str, ...]
    among: Bool[np.ndarray, " n"] | None = None
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)
    _by_whole: dict[int, list[Hit]] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> int:
        """Of the gallery."""
        return int(self.table.version)

    @property
    def nbytes(self) -> int:
        """Of what it keeps, about: two numbers a photograph, and which of them may be found."""
        return 9 * int(self.vectors.starts[-1])

    @cached_property
    def _whole(self) -> Float[np.ndarray, " n"]:
        return self.vectors.products(ask(self.x).vector, self.among)

    @cached_property
    def _in_order(self) -> Float[np.ndarray, " n"]:
        return np.sort(self._whole)

    def by_whole(self, k: int) -> list[Hit]:
        """The photographs that are most alike to the whole query."""
        if k not in self._by_whole:
            best = self.vectors.top(self._whole, k)
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
        return self._hits(self.vectors.best(asked.vector, k, self.among), asked, self._rank)

    def _rank(self, position: int) -> int:
        """The rank by the whole query of a row."""
        least = np.searchsorted(self._in_order, self._whole[position], side="right")
        return 1 + len(self._whole) - int(least)

    def _hits(self, best: Best, asked: Query, rank: Callable[[int], int]) -> list[Hit]:
        """As a region moves, most hits are those of the step before: their rows are kept."""
        at = best.positions.tolist()
        found = {one: row for one in at if (row := self._rows.get(one)) is not None}
        new = [one for one in at if one not in found]
        columns = [*COLUMNS, *self.metadata]
        taken = take(self.table, self.vectors, np.array(new, np.int64), columns)
        found.update(zip(new, taken, strict=True))
        if len(self._rows) > ROWS:
            self._rows.clear()
        self._rows.update(found)  # others may search at the same time: what is found here is ours
        rows = [found[one] for one in at]
        return hits_of(self.table, self.vectors, best, asked, self.metadata, rows, rank)
