"""Hits: what a search found, and what the gallery keeps of each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import lance
import numpy as np
from jaxtyping import Int
from PIL import Image

from whyalike.contributions import Contributions
from whyalike.errors import ImageError
from whyalike.gallery.manifest import Manifest
from whyalike.gallery.query import Query
from whyalike.gallery.rows import Packing, decode
from whyalike.gallery.vectors import Vectors
from whyalike.images import read_image
from whyalike.preprocess import thumbnail


@dataclass(frozen=True, eq=False)
class Hit:
    """A photograph of the gallery that a search found.

    Args:
        rank: from 1.
        score: of the region, or of the whole where none was given, in units of cosine: the sum of
            the pair's region map over this photograph, and what the region has with its bias.
        path: of the file, as text to show.
        file: the same, to open.
        label: its class, where one is known.
        metadata: its other columns.
        whole: the similarity of the whole query and this photograph.
        query_bias: what of `whole` no cell of the query carries; regions that tile the query have
            scores that add up to `whole` - `query_bias`.
        id: of the row.
        query: what was searched for.
    """

    rank: int
    score: float
    path: str
    file: str
    label: str | None
    metadata: dict[str, Any]
    whole: float
    query_bias: float
    id: str
    query: Query = field(repr=False)
    row: dict[str, Any] = field(repr=False, default_factory=dict)
    address: int = field(repr=False, default=-1)
    version: int = field(repr=False, default=-1)
    ranked: Callable[[], int] | None = field(repr=False, default=None)

    @property
    def rank_without_region(self) -> int | None:
        """Its rank by `whole`; None after a search that did not look at all rows.

        The first that is asked for, of all hits of a search, multiplies every row once more.
        """
        return None if self.ranked is None else self.ranked()

    def picture(self) -> Image.Image | None:
        """The photograph, at most 1600 pixels long; None, and a warning, where it has changed."""
        return _picture_of(self.row)()


def read(
    table: lance.LanceDataset,
    vectors: Vectors,
    positions: Int[np.ndarray, " k"],
    rows: Sequence[dict[str, Any]],
    manifest: Manifest,
    packing: Packing,
) -> list[Contributions]:
    """What the cells of some rows give, read together; `rows` are their other columns."""
    if not len(positions):
        return []
    addresses = vectors.addresses(positions).tolist()
    blobs = table.read_blobs("maps", addresses=addresses, preserve_order=True)
    pictures = [_picture_of(row) for row in rows]
    maps = [one for _, one in blobs]
    return decode(rows, vectors.rows(positions), maps, manifest, packing, pictures)


COLUMNS = (
    "id", "path", "file", "bytes", "mtime_ns", "label", "length", "size_wh", "view_xyxy", "dims",
    "exponent", "taylor",
)  # fmt: skip
"""What is read of each hit, besides metadata."""


def take(
    table: lance.LanceDataset, vectors: Vectors, positions: np.ndarray, columns: list[str]
) -> list[dict[str, Any]]:
    """Some columns of some rows."""
    rows: list[dict[str, Any]] = table.take(
        vectors.offsets(positions).tolist(), columns=columns
    ).to_pylist()
    return rows


def _picture_of(row: dict[str, Any]) -> Callable[[], Image.Image | None]:
    """A function that reads the photograph of a row, if it still is the one that was indexed."""
    path, size, time = os.fsdecode(row["file"]), row["bytes"], row["mtime_ns"]
    expected = tuple(row["size_wh"])

    def read() -> Image.Image | None:
        try:
            status = os.stat(path)
            image = read_image(path)
        except (OSError, ImageError) as error:
            warnings.warn(f"{row['path']}: cannot be shown: {error}", stacklevel=2)
            return None
        if (status.st_size, status.st_mtime_ns) != (size, time) or image.size != expected:
            warnings.warn(f"{row['path']}: has changed since it was indexed", stacklevel=2)
            return None
        return thumbnail(image)

    return read
