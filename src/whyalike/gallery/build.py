"""Indexing: what is new or changed is read, embedded and committed, batch by batch.

The table says itself what has been done, so a run that was killed at any moment is gone on with by
the next one: rows are committed whole, and a file is done when its row is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import lance
import pyarrow as pa
import torch
from pyarrow import compute

from whyalike import decomposition
from whyalike.cut import noise
from whyalike.errors import GalleryError, ImageError
from whyalike.gallery import store as stores
from whyalike.gallery.codes import Codes
from whyalike.gallery.fragments import Commits, each_once
from whyalike.gallery.listing import Failed, Listed, Listing
from whyalike.gallery.manifest import Manifest, Maps
from whyalike.gallery.reading import batches
from whyalike.gallery.rows import Packing, Seen, encode
from whyalike.gallery.store import Store
from whyalike.model import EmbeddingModel
from whyalike.pooling import Pool

COMMIT_BYTES = 128 * 2**20
COMMIT_ROWS = 4096
COMMIT_SECONDS = 30.0
"""Rows are committed when one of these is reached: as much as a kill can lose. Of rows that lie in
fragments already, which take no memory, by the seconds alone."""


@dataclass(frozen=True)
class Settings:
    """How an indexing run goes about it.

    Args:
        batch_size: images in one forward pass.
        workers: threads that read files; None for as many as there are cores.
        strict: whether the first file that cannot be read stops it.
        prune: whether rows are removed whose file is gone.
        commit_rows: rows that are committed together, at the latest; on a cluster, files that a
            worker is given at a time, at most.
    """

    batch_size: int = 32
    workers: int | None = None
    strict: bool = False
    prune: bool = False
    commit_rows: int = COMMIT_ROWS

    def __post_init__(self) -> None:
        counts = (self.batch_size, 1 if self.workers is None else self.workers, self.commit_rows)
        if min(counts) < 1:
            raise GalleryError(
                f"batch_size, workers and commit_rows are 1 or more; came {self.batch_size}, "
                f"{self.workers} and {self.commit_rows}"
            )


@dataclass(frozen=True)
class Progress:
    """How far an indexing run is.

    Args:
        done: files that have been read, those that failed among them.
        total: files that this run is to read.
        failed: how many could not be read.
        seconds: since the run began to read.
        bytes_per_image: what a row takes on disk, about.
        maps: how contributions are kept.
    """

    done: int
    total: int
    failed: int
    seconds: float
    bytes_per_image: int
    maps: Maps

    @property
    def rate(self) -> float:
        """Files a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None before there is anything to go by."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class Report:
    """What an indexing run did.

    Args:
        added: rows of files that were not there before.
        replaced: rows of files that had changed.
        unchanged: files that were not read again.
        failed: files and folders that could not be read, as errors.parquet lists them.
        others: files of the folders that are no images by their endings.
        missing: rows below the sources whose file is gone.
        pruned: how many of those were removed.
        same_content: rows of this run whose file has the same bytes as another row's.
        seconds: of the run.
        bytes_per_image: what a row takes on disk, about.
    """

    added: int
    replaced: int
    unchanged: int
    failed: tuple[Failed, ...]
    others: int
    missing: int
    pruned: int
    same_content: int
    seconds: float
    bytes_per_image: int


@dataclass
class Known:
    """What the table says of its files, by id."""

    size: dict[str, tuple[int, int]] = field(default_factory=dict)
    file: dict[str, bytes] = field(default_factory=dict)
    rows: int = 0
    """More than there are ids where a driver was killed at a bad moment; see `each_once`."""

    @classmethod
    def of(cls, table: lance.LanceDataset) -> Known:
        """All files of a table."""
        known = cls()
        columns = ["id", "file", "bytes", "mtime_ns"]
        for batch in table.to_batches(columns=columns):
            ids, files, sizes, times = (batch.column(name).to_pylist() for name in columns)
            known.size.update(zip(ids, zip(sizes, times, strict=True), strict=True))
            known.file.update(zip(ids, files, strict=True))
            known.rows += len(ids)
        return known

    def has(self, listed: Listed) -> bool:
        """Whether a file is there as it is on disk; one that is gone is not."""
        kept = self.size.get(listed.id)
        if kept is None:
            return False
        try:
            status = os.stat(os.fsdecode(listed.file))
        except OSError:
            return False
        return kept == (status.st_size, status.st_mtime_ns)


def embed(model: EmbeddingModel, seen: Sequence[Seen], packing: Packing, maps: Maps,
          schema: pa.Schema) -> pa.RecordBatch:  # fmt: skip
    """The rows of a batch of images that were read: one forward pass of the network."""
    images = torch.stack([one.tensor for one in seen])
    found = model.embeddings(images) if maps == "none" else model.decomposed(images)
    return encode(seen, found, packing, schema)


class Done(NamedTuple):
    """What came of some files.

    Args:
        ids: of those that were read.
        failed: those that were not.
        rows: that are not in the table yet, as they are,
        fragments: or as a worker has written them.
    """

    ids: list[str]
    failed: list[Failed]
    rows: list[pa.RecordBatch]
    fragments: list[lance.FragmentMetadata]


Work = Callable[[Sequence[Listed]], Generator[Done, None, None]]
"""Who reads and embeds files: this process, or the workers of a cluster."""


def here(
    model: EmbeddingModel, packing: Packing, maps: Maps, schema: pa.Schema, settings: Settings,
    files: Sequence[Listed],
) -> Generator[Done, None, None]:  # fmt: skip
    """Files read by threads of this process, and embedded by it."""
    assert model.preprocess is not None
    workers = settings.workers or default_workers()
    for seen, bad in batches(files, model.preprocess, settings.batch_size, workers):
        if settings.strict and bad:  # which stops it; nothing of their batch is embedded
            seen = []
        rows = [embed(model, seen, packing, maps, schema)] if seen else []
        yield Done([one.listed.id for one in seen], bad, rows, [])


def index(
    store: Store,
    listing: Listing,
    table: lance.LanceDataset,
    manifest: Manifest,
    settings: Settings,
    work: Work,
    *,
    under: Callable[[bytes], bool],
    progress: Callable[[Progress], None] | None,
) -> Report:
    """Bring a table up to date with a listing.

    Args:
        store, table, manifest: of the gallery.
        listing: what is to be there.
        settings: how.
        work: who reads and embeds.
        under: whether a file is below the sources, so that its row may be pruned.
        progress: called with how far it is.

    Raises:
        ImageError: where it is `strict`, the first file that cannot be read.
        GalleryError: the table cannot be written; what was committed stays.
    """
    begun = time.monotonic()
    check_columns(listing, table.schema)
    known = Known.of(table)
    if known.rows > len(known.size):
        each_once(table)
        table = store.open()
        known = Known.of(table)
    todo = [one for one in listing.files if not known.has(one)]
    if settings.strict and listing.failed:
        raise ImageError(f"{listing.failed[0].path}: {listing.failed[0].reason}")
    commits = Commits(store, table, known.size)
    run = _Run(store, manifest, commits, len(todo), settings.commit_rows, progress)
    failed = list(listing.failed)
    try:
        with closing(work(todo)) as working:
            for done in working:
                if settings.strict and done.failed:
                    raise ImageError(f"{done.failed[0].path}: {done.failed[0].reason}")
                failed += done.failed
                run.add(done)
        run.commit()
    finally:
        # Also what a run that was stopped could not read; those that are read now are taken out.
        _list_failures(store, failed, run.done, listing)
    gone = missing(known, under)
    if settings.prune and gone:
        stores.delete(store.open(), gone)
    same = same_content(store.open(), run.done)
    return Report(
        added=len(run.done - known.size.keys()),
        replaced=len(run.done & known.size.keys()),
        unchanged=len(listing.files) - len(todo),
        failed=tuple(failed),
        others=listing.others,
        missing=len(gone),
        pruned=len(gone) if settings.prune else 0,
        same_content=same,
        seconds=time.monotonic() - begun,
        bytes_per_image=run.bytes_per_image,
    )


class _Run:
    """Rows that wait for the next commit, and what is told of them."""

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        commits: Commits,
        total: int,
        commit_rows: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.store = store
        self.commits = commits
        self.commit_rows = commit_rows
        self.bytes_per_image = bytes_per_image(manifest, store.packing(manifest))
        self.done: set[str] = set()
        self._progress = progress
        self._state = Progress(0, total, 0, 0.0, self.bytes_per_image, manifest.maps)
        self._rows: list[pa.RecordBatch] = []
        self._fragments: list[lance.FragmentMetadata] = []
        self._ids: list[str] = []
        self._begun = self._committed = time.monotonic()
        if progress is not None:
            progress(self._state)

    def add(self, done: Done) -> None:
        self._rows += done.rows
        self._fragments += done.fragments
        self._ids += done.ids
        size = sum(one.nbytes for one in self._rows)
        rows = sum(one.num_rows for one in self._rows)
        late = time.monotonic() - self._committed > COMMIT_SECONDS
        if size >= COMMIT_BYTES or rows >= self.commit_rows or late:
            self.commit()
        self._tell(len(done.ids), len(done.failed))

    def commit(self) -> None:
        if self._rows:
            stores.merge(self.store.open(), self._rows)
        if self._fragments:
            self.commits.add(self._fragments, self._ids)
        self.done |= set(self._ids)
        self._rows, self._fragments, self._ids = [], [], []
        self._committed = time.monotonic()

    def _tell(self, seen: int, failed: int) -> None:
        self._state = replace(
            self._state,
            done=self._state.done + seen + failed,
            failed=self._state.failed + failed,
            seconds=time.monotonic() - self._begun,
        )
        if self._progress is not None:
            self._progress(self._state)


def bytes_per_image(manifest: Manifest, packing: Packing) -> int:
    """What a row takes on disk, about: the embedding twice (once mapped), maps, and names."""
    h, w = manifest.grid_hw
    places = manifest.prefix + h * w
    maps = 0
    if manifest.maps == "full":
        dims = manifest.d if packing.basis is None else len(packing.basis)
        maps = 2 * places * dims
    elif packing.codes is not None:
        codes = len(packing.codes.centres)
        maps = 4 * manifest.d * (1 + manifest.prefix) + h * w * codes
    return 2 * 4 * manifest.d + maps + 250


def default_workers() -> int:
    """Threads that read: as many as there are cores, up to 16."""
    return max(1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4))


def check_columns(listing: Listing, schema: pa.Schema) -> None:
    """Refuse metadata that the table has no columns for.

    Raises:
        GalleryError: which column.
    """
    for one in listing.columns:
        if one.name not in schema.names or schema.field(one.name).type != one.type:
            here = schema.field(one.name).type if one.name in schema.names else "no such column"
            raise GalleryError(
                f"the table has a column {one.name!r} of {one.type}, the gallery {here}; leave it "
                f"out, or make another gallery"
            )


def choose_packing(model: EmbeddingModel, maps: Maps, sample: Sequence[Seen]) -> Packing:
    """How the contributions of a new gallery become bytes.

    Args:
        model: that makes them.
        maps: "none", "full" or "pq".
        sample: some of the images, for the centres of "pq".
    """
    if maps == "none":
        return Packing()
    if maps == "full":
        return Packing(basis=shared_basis(model))
    some = torch.stack([one.tensor for one in sample]).split(32)
    parts = [model.decomposed(images).values().detach().cpu().float() for images in some]
    v = torch.cat(parts).flatten(0, 1)
    few = torch.randperm(len(v), generator=torch.Generator().manual_seed(0))[:20_000]
    return Packing(codes=Codes.train(v[few]))


def shared_basis(model: EmbeddingModel) -> torch.Tensor | None:
    """Orthonormal rows that span every contribution, where the head makes few numbers many.

    A linear layer from k pooled numbers to d > k gives contributions of rank k at most, whatever
    the image. The rank is found on random maps, with gates in many states, and every row is held to
    the basis when it is packed.
    """
    assert model.preprocess is not None
    A, E, split = model.inspect(noise(1, torch.Size((3, *model.preprocess.size_hw))))
    d = E.shape[1]
    if split is None or model.surrogate.kind != "gates" or len(split.shape) != 1:
        return None
    if split.shape[0] >= d or not isinstance(split.pool, Pool):
        return None
    count = -(-2 * d // (A.shape[2] * A.shape[3]))
    maps = torch.randn(count, *A.shape[1:], generator=torch.Generator().manual_seed(0))
    v = decomposition.from_split(split, maps.to(A.device, A.dtype)).v.flatten(0, 1).cpu().double()
    _, sizes, rows = torch.linalg.svd(v, full_matrices=False)
    rank = int((sizes > 1e-6 * sizes[0]).sum())
    return rows[:rank].float().contiguous() if rank <= 0.9 * d else None


def missing(known: Known, under: Callable[[bytes], bool]) -> list[str]:
    """Ids of rows whose file is below the sources and is gone."""
    return [one for one, file in known.file.items() if under(file) and not os.path.lexists(file)]


def same_content(table: lance.LanceDataset, ids: set[str]) -> int:
    """How many of some rows have a file with the same bytes as an earlier row's or one another."""
    if not ids:
        return 0
    found = table.to_table(columns=["id", "content"])
    counts = found.group_by("content").aggregate([("id", "count")])
    shared = counts.filter(compute.greater(counts["id_count"], 1))["content"]
    among = compute.is_in(found["content"], value_set=shared.combine_chunks())
    return sum(one in ids for one in found.filter(among)["id"].to_pylist())


def _list_failures(
    store: Store, failed: Iterable[Failed], done: set[str], listing: Listing
) -> None:
    """errors.parquet as it is now: what failed, and what failed before and was not tried again."""
    before = store.failures()
    tried = {one.file for one in listing.files}
    now: dict[bytes, Failed] = {
        file: one for file, one in before.items() if file not in tried and os.path.lexists(file)
    }
    now |= {one.file: one for one in failed}
    if now != before or not before:
        store.write_failures(now.values())
