"""LanceDB's index, for galleries that are too large to multiply every row; and what it misses."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta

import lance
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whyalike.errors import GalleryError
from whyalike.gallery import store as stores
from whyalike.gallery.store import Store
from whyalike.gallery.vectors import Best, Vectors

KEY = "whyalike.approximate"
"""Under this key of the table's configuration lies what was measured."""

MEASURED_K = 10
QUERIES = 50


@dataclass(frozen=True)
class Approximate:
    """How LanceDB's index searches, and what share of the true best ten it found when it was made.

    Args:
        nprobes: partitions that are looked through.
        refine: how many times as many rows as asked for are scored exactly.
        recall_whole: of searches by whole photographs of the gallery.
        recall_region: of searches by regions of them, whose vectors lie far from all rows; None
            where the gallery keeps no maps.
        rows: how many there were.
    """

    nprobes: int
    refine: int
    recall_whole: float
    recall_region: float | None
    rows: int

    def __str__(self) -> str:
        region = "" if self.recall_region is None else f", of regions {self.recall_region:.1%}"
        return (
            f"approximate: measured at recall@{MEASURED_K} of whole photographs "
            f"{self.recall_whole:.1%}{region}, on {self.rows:,} rows"
        )


def measured(table: lance.LanceDataset) -> Approximate | None:
    """What was measured when the index was made; None if there is no index."""
    kept = table.config().get(KEY)
    try:
        return None if kept is None else Approximate(**json.loads(kept))
    except (ValueError, TypeError) as error:
        raise GalleryError("what the gallery says of its index is damaged; make it anew") from error


def make(
    store: Store,
    vectors: Vectors,
    regions: Float[Tensor, "n d"] | None,
    *,
    nprobes: int,
    refine: int,
) -> Approximate:
    """Make LanceDB's index (IVF with RaBitQ codes, refined), and measure it against all rows.

    Args:
        store: of the gallery.
        vectors: its embeddings.
        regions: vectors of regions to search by.
        nprobes, refine: as they will be used.

    Raises:
        GalleryError: LanceDB cannot make one of so few rows, or of embeddings of that length.
    """
    from lancedb.index import IvfRq  # takes seconds, and most searches do without

    total = sum(len(part.matrix) for part in vectors.parts)
    d = vectors.parts[0].matrix.shape[1] if vectors.parts else 0
    if d % 8 or total < 256:
        raise GalleryError(
            f"LanceDB's index takes embeddings of a multiple of 8 numbers, and 256 rows or more; "
            f"the gallery has {total} rows of {d}; search every row"
        )
    with stores.writing(store.root):
        _table(store).create_index(
            "embedding",
            config=IvfRq(distance_type="dot", num_bits=1),
            wait_timeout=timedelta(hours=24),
        )
    picked = np.linspace(0, total - 1, QUERIES).astype(np.int64)
    draft = Approximate(nprobes, refine, 0.0, None, total)
    whole = _recall(store, vectors, vectors.rows(picked), draft)
    region = None if regions is None else _recall(store, vectors, regions, draft)
    found = Approximate(nprobes, refine, whole, region, total)
    with stores.writing(store.root):
        store.open().update_config({KEY: json.dumps(asdict(found))})
    return found


def spread(vectors: Vectors) -> Int[np.ndarray, " k"]:
    """Positions of rows to measure with, spread over those that have not been deleted."""
    live = np.concatenate(
        [start + (np.arange(len(p.matrix)) if p.live is None else np.flatnonzero(p.live))
         for p, start in zip(vectors.parts, vectors.starts, strict=False)]
    )  # fmt: skip
    return live[np.linspace(0, len(live) - 1, QUERIES).astype(np.int64)]


def search(
    store: Store, vectors: Vectors, u: Float[Tensor, " d"], k: int, where: str | None,
    settings: Approximate,
) -> Best:  # fmt: skip
    """The best rows that the index finds, with exact scores."""
    asked = (
        _table(store)
        .search(u.numpy(), vector_column_name="embedding")
        .distance_type("dot")
        .nprobes(settings.nprobes)
        .refine_factor(settings.refine)
    )
    if where is not None:
        asked = asked.where(where, prefilter=True)
    found = asked.with_row_id(True).limit(k).select(["id", "_distance"]).to_arrow()
    positions = vectors.positions(found["_rowid"].to_numpy().astype(np.int64))
    if not len(positions):
        return Best(positions, np.zeros(0, np.float32))
    scores = torch.mv(vectors.rows(positions), u).numpy()
    order = np.lexsort((positions, -scores))
    return Best(positions[order], scores[order])


def _recall(
    store: Store, vectors: Vectors, queries: Float[Tensor, "n d"], settings: Approximate
) -> float:
    shares = []
    for u in queries:
        true = set(vectors.best(u, MEASURED_K).positions.tolist())
        found = search(store, vectors, u, MEASURED_K, None, settings)
        shares.append(len(true & set(found.positions.tolist())) / len(true))
    return float(np.mean(shares))


def _table(store: Store):  # type: ignore[no-untyped-def]  # lancedb's own type
    import lancedb

    database = lancedb.connect(store.root, storage_options=store.options)
    return database.open_table(stores.TABLE.removesuffix(".lance"))
