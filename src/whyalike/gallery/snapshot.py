"""Snapshot: one version of a gallery's table, what it lists, and what conditions hold of."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from whyalike.contributions import Contributions
from whyalike.errors import GalleryError
from whyalike.gallery.hits import COLUMNS, Hit, read, take
from whyalike.gallery.listing import RESERVED
from whyalike.gallery.manifest import Manifest
from whyalike.gallery.query import Query
from whyalike.gallery.rows import Packing
from whyalike.gallery.store import one_of, reading
from whyalike.gallery.vectors import Best, Vectors, map_vectors


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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One version of the table of a gallery.

    Args:
        root: where the gallery lies.
        table: at that version.
        folder: where its vectors are written, to be mapped from.
    """

    root: str
    table: lance.LanceDataset
    folder: Path

    @property
    def version(self) -> int:
        """Each change of the table makes another."""
        return int(self.table.version)

    @cached_property
    def metadata(self) -> tuple[str, ...]:
        """Names of the columns of metadata."""
        return tuple(n for n in self.table.schema.names if n not in (*RESERVED, "path", "label"))

    @cached_property
    def vectors(self) -> Vectors:
        """All embeddings, mapped from files."""
        with reading(self.root):
            return map_vectors(self.table, self.folder)

    def columns(self) -> dict[str, str]:
        """The columns that a condition may name, with their types in words."""
        schema = self.table.schema
        return {name: str(schema.field(name).type) for name in ("path", "label", *self.metadata)}

    def count(self, where: str | None = None) -> int:
        """How many rows there are, or of which a condition holds."""
        with self.condition(where):
            return int(self.table.count_rows(filter=where))

    def browse(self, where: str | None, **options: Any) -> list[Entry]:
        """Some rows, in the table's order; `options` are those of Lance: offset, limit."""
        with self.condition(where):
            found = self.table.to_table(
                columns=[*COLUMNS, *self.metadata], filter=where, with_row_address=True, **options
            )
        return [
            Entry(
                id=row["id"],
                path=row["path"],
                file=os.fsdecode(row["file"]),
                label=row["label"],
                metadata={name: row[name] for name in self.metadata},
                row=row,
                address=row.pop("_rowaddr"),
                version=self.version,
            )
            for row in found.to_pylist()
        ]

    def entry(self, id: str) -> Entry | None:
        """The photograph of an id; None where there is none."""
        with reading(self.root):
            found = self.browse(one_of([id]))
        return found[0] if found else None

    def ids(self, where: str) -> list[str]:
        """The ids of the rows of which a condition holds."""
        with self.condition(where):
            found: list[str] = self.table.to_table(columns=["id"], filter=where)["id"].to_pylist()
        return found

    def among(self, where: str | None) -> Bool[np.ndarray, " n"] | None:
        """Of which rows of `vectors` a condition holds; None where there is none."""
        if where is None:
            return None
        with self.condition(where):
            found = self.table.to_table(columns=[], filter=where, with_row_address=True)
        among = np.zeros(int(self.vectors.starts[-1]), bool)
        among[self.vectors.positions(found["_rowaddr"].to_numpy().astype(np.int64))] = True
        return among

    def take(self, positions: Int[np.ndarray, " k"]) -> list[dict[str, Any]]:
        """What is read of rows that a search finds, by their positions in `vectors`."""
        with reading(self.root):
            return take(self.table, self.vectors, positions, [*COLUMNS, *self.metadata])

    def hits(
        self,
        best: Best,
        asked: Query,
        rows: Sequence[dict[str, Any]],
        rank: Callable[[int], int] | None = None,
    ) -> list[Hit]:
        """The best rows of a search as hits.

        Args:
            best, asked: of the search.
            rows: what `take` read of each.
            rank: gives the rank by the whole query of a row, by its position.
        """
        if not len(best.positions):
            return []
        found = self.vectors.rows(best.positions)
        biases = found @ asked.bias
        whole = best.scores if asked.is_whole else (found @ asked.whole).numpy()
        addresses = self.vectors.addresses(best.positions)
        return [
            Hit(
                rank=i + 1,
                score=float(best.scores[i]),
                path=row["path"],
                file=os.fsdecode(row["file"]),
                label=row["label"],
                metadata={name: row[name] for name in self.metadata},
                whole=float(whole[i]),
                query_bias=float(biases[i]),
                id=row["id"],
                query=asked,
                row=row,
                address=int(addresses[i]),
                version=self.version,
                ranked=None if rank is None else partial(rank, int(best.positions[i])),
            )
            for i, row in enumerate(rows)
        ]

    def contributions(
        self,
        positions: Int[np.ndarray, " k"],
        rows: Sequence[dict[str, Any]],
        manifest: Manifest,
        packing: Packing,
    ) -> list[Contributions]:
        """What the cells of some rows give, of which `rows` are the other columns."""
        with reading(self.root):
            return read(self.table, self.vectors, positions, rows, manifest, packing)

    @contextmanager
    def condition(self, where: str | None) -> Iterator[None]:
        """What Lance says against a condition, as a GalleryError that names the columns."""
        try:
            yield
        except (ValueError, OSError, pa.ArrowException) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason = re.sub(r",? ?/\S+\.rs:\d+(:\d+)?", "", said)[:200]  # a place in Lance's source
            raise GalleryError(
                f"where={where!r} is no condition on the columns "
                f"{', '.join(self.columns())}: {reason}"
            ) from error
