"""The rates that benchmarks/scale.py computes from: core-seconds and bytes, measured here."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import lance
import numpy as np
import pyarrow as pa
import torch

import whyalike as wa
from benchmarks.indexing import photographs
from benchmarks.search import contributions, rows_of
from whyalike.gallery import Gallery, Manifest, list_images
from whyalike.gallery.build import Known, bytes_per_image
from whyalike.gallery.fragments import Commits, write
from whyalike.gallery.listing import Failed, Listed
from whyalike.gallery.manifest import Maps, describe
from whyalike.gallery.reading import see
from whyalike.gallery.rows import Packing, schema
from whyalike.gallery.store import TABLE, Store
from whyalike.gallery.vectors import Vectors, map_vectors


@dataclass(frozen=True)
class Rates:
    """What was measured: seconds of a core, and bytes.

    Args:
        read: seconds to read, hash and prepare a photograph.
        network: seconds of the network's forward pass, of one.
        indexed: seconds of all that indexing does, of one, by how maps are kept.
        row: bytes of a row, as the code tells them beforehand.
        on_disk: bytes of a row in the table's files.
        d: numbers of an embedding.
        scan: bytes that an exact search goes through in a second of a core, in memory.
        disk: bytes a second that come from this disk, by the clock.
        ann: bytes of a row in LanceDB's index, and seconds of a search of it.
        part: seconds to map one more fragment, and to search it beside its bytes.
        opened: seconds to open a table, of each fragment.
        commit: seconds of a commit, of each fragment that is there.
        manifest: bytes of a commit, of each fragment that is there.
        ids: seconds to read the ids that are there, of each fragment.
        listed: seconds to list a file, and bytes that the driver keeps of it.
        known: bytes that the driver keeps of a row that is there, and seconds to look at its file.
        done: bytes that it keeps of a row of this run.
        failed: bytes that the driver keeps of a file that cannot be read.
    """

    read: float
    network: float
    indexed: dict[str, float]
    row: dict[str, int]
    on_disk: dict[str, float]
    d: int
    scan: float
    disk: float
    ann: tuple[float, float]
    part: tuple[float, float]
    opened: float
    commit: float
    manifest: float
    ids: float
    listed: tuple[float, float]
    known: tuple[float, float]
    done: float
    failed: float


def cost(task: Callable[[], Any], rounds: int = 3) -> float:
    """Seconds of a core, the least of some rounds: others' work can only add to it."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        task()
        found.append(time.process_time() - start)
    return min(found)


def kept(task: Callable[[], Any]) -> float:
    """Bytes that Python keeps of what a task returns."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    result = task()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return float(after - before)


def measure(folder: Path) -> Rates:
    """All rates, on one thread of torch."""
    torch.set_num_threads(1)
    return Rates(**_images(folder), **_scans(folder), **_fragments(folder), **_driver(folder))


def _images(folder: Path, count: int = 96) -> dict[str, Any]:
    model = wa.load()
    assert model.preprocess is not None
    preprocess = model.preprocess
    paths = photographs(folder / "photos", count)
    listed = [Listed(os.fsencode(path)) for path in paths]
    seen = [see(one, preprocess) for one in listed[:32]]
    images = torch.stack([one.tensor for one in seen])
    with torch.no_grad():
        network = cost(lambda: model(images)) / 32
    indexed, row, on_disk = {}, {}, {}
    for maps in get_args(Maps):
        place = folder / f"{maps}.lance"
        gallery = Gallery.build(model, paths[:32], place, maps=maps, workers=1)
        before = _size(place / TABLE)
        seconds = cost(lambda g=gallery: g.add(paths[32:], workers=1), 1)
        indexed[maps] = seconds / (count - 32)
        on_disk[maps] = (_size(place / TABLE) - before) / (count - 32)
        row[maps] = bytes_per_image(gallery.manifest, gallery._packing)
    return {
        "read": cost(lambda: [see(one, preprocess) for one in listed]) / count,
        "network": network,
        "indexed": indexed,
        "row": row,
        "on_disk": on_disk,
        "d": describe(model, "none").d,
    }


def _scans(folder: Path, d: int = 1280, rows: int = 200_000) -> dict[str, Any]:
    path = folder / "matrix.f32"
    with path.open("wb") as file:
        for seed in range(10):
            part = np.random.default_rng(seed).standard_normal((rows // 10, d), np.float32)
            file.write((part / np.linalg.norm(part, axis=1, keepdims=True)).data)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        block = bytearray(2**24)
        while file.readinto(block):
            pass
    disk = 4 * d * rows / (time.perf_counter() - start)
    u = torch.randn(d)
    matrix = torch.from_file(str(path), shared=False, size=rows * d).view(rows, d)
    scan = 4 * d * rows / cost(lambda: torch.mv(matrix, u))
    return {"scan": scan, "disk": disk, "ann": _approximate(folder)}


def _approximate(folder: Path, rows: int = 100_000, d: int = 512) -> tuple[float, float]:
    """Bytes a row beside 1 bit a number, and seconds of a search."""
    gallery = _empty(folder / "ann.lance", d)
    store = gallery._store
    batch = rows_of(0, torch.randn(rows, d), [None] * rows, schema(d, pa.schema([])))
    Commits(store, store.open(), ()).add(
        write([batch], store, batch.schema), batch["id"].to_pylist()
    )
    gallery.refresh()
    gallery.make_approximate()
    size = _size(Path(store.root, TABLE, "_indices")) / rows - d / 8
    x = contributions(d)
    seconds = cost(lambda: [gallery.search(x, k=20, exact=False) for _ in range(20)]) / 20
    return size, seconds


def _fragments(folder: Path, few: int = 1000, many: int = 8000, d: int = 64) -> dict[str, Any]:
    """What each fragment adds, from tables of few and of many, which share one file of rows."""
    gallery = _empty(folder / "fragments.lance", d)
    store = gallery._store
    batch = rows_of(0, torch.randn(4, d), [None] * 4, schema(d, pa.schema([])))
    one = write([batch], store, batch.schema)
    found = []
    there = 0
    for count in (few, many):
        _append(store, one * (count - there))
        there = count
        table = store.open()
        vectors: list[Vectors] = []
        mapped = cost(lambda t=table, v=vectors: v.append(map_vectors(t, folder / "vectors")), 1)
        searched = cost(lambda v=vectors: v[0].best(torch.randn(d), 20))
        opened = cost(lambda: store.open().get_fragments())
        ids = cost(lambda t=table: t.to_table(columns=["id"]), 1)
        commits = Commits(store, table, ())
        commit = cost(lambda c=commits: c.add(one, ["new"]))
        there += 3
        versions = Path(store.root, TABLE, "_versions")
        size = max(file.stat().st_size for file in versions.iterdir())
        found.append(np.array([mapped, searched, opened, ids, commit, size]))
    mapped, searched, opened, ids, commit, size = (found[1] - found[0]) / (many - few)
    return {
        "part": (mapped, searched),
        "opened": opened,
        "ids": ids,
        "commit": commit,
        "manifest": size,
    }


def _driver(folder: Path, count: int = 50_000, d: int = 8) -> dict[str, Any]:
    """What the one process keeps that plans and commits."""
    for place in range(50):
        (folder / "many" / f"{place:03}").mkdir(parents=True)
        for number in range(count // 50):
            (folder / "many" / f"{place:03}" / f"{number:08}.jpg").touch()
    listed = cost(lambda: list_images(folder / "many"))
    files = list_images(folder / "many").files
    gallery = _empty(folder / "known.lance", d)
    store = gallery._store
    batch = rows_of(0, torch.randn(count, d), [None] * count, schema(d, pa.schema([])))
    ids = pa.array([one.id for one in files])
    sizes = pa.array([one.file for one in files], pa.binary())
    for name, column in (("id", ids), ("file", sizes)):
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, batch.schema.field(name), column)
    Commits(store, store.open(), ()).add(write([batch], store, batch.schema), ids.to_pylist())
    table = store.open()
    known = Known.of(table)
    looked = cost(lambda: [known.has(one) for one in files])
    reason = "damaged or cut short, by a reason of some words"
    failed = kept(lambda: [Failed(one.file, f"{one.file!r}: {reason}") for one in files])
    return {
        "listed": (listed / count, kept(lambda: list_images(folder / "many")) / count),
        "known": (kept(lambda: Known.of(table)) / count, looked / count),
        "done": kept(lambda: {one.id for one in files}) / count,
        "failed": failed / count,
    }


def _empty(path: Path, d: int) -> Gallery:
    manifest = Manifest("none", "synthetic", "", "", "", d, (7, 7), 0, "none")
    Store(str(path)).create(manifest, Packing(), pa.schema([]))
    return Gallery.open(path)


def _append(store: Store, some: list[lance.FragmentMetadata]) -> None:
    append = lance.LanceOperation.Append(some)
    lance.LanceDataset.commit(store.at(TABLE), append, read_version=store.open().version)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
