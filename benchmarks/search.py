"""What do a search by region and its explanation cost, in a gallery of a million?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

import whyalike as wa
from benchmarks.tables import Table, verdict
from benchmarks.timing import Spread, alternate, milliseconds, ratio
from whyalike.gallery import Gallery, Manifest
from whyalike.gallery.fragments import Commits, write
from whyalike.gallery.rows import Packing, pack, schema
from whyalike.gallery.store import Store
from whyalike.geometry import Frame

ROWS, D, FRAGMENTS = 1_000_000, 512, 10
"""Of the gallery that is searched."""

GRID, D_MAPS, RANKING = (7, 7), 1280, 100
"""Of the gallery that is explained: as the default network has them."""

ABOUT = f"""\
A gallery of {ROWS:,} rows of {D} numbers in a Lance table, searched exactly for 20 hits. The base
is one bare matrix-vector product over the same mapped bytes (2 GB). A search reads the columns of
its hits. Their ranks without the region take a second product, which is made when the first of them
is asked for. Before they are timed, hits are checked to be those of a full sort.
Memory is what the process holds beyond mapped files."""

ABOUT_PAIRS = f"""\
The pairs of a query and {RANKING} hits from what the gallery keeps ({GRID[0]}×{GRID[1]} cells of
{D_MAPS} numbers in float16, 125 kB an image), reading included; no network runs. Then the same with
both overall maps of each. Before it is timed, each pair is checked to have its hit's score."""


def run(rows: int = ROWS) -> list[Table]:
    """Search a million rows, and explain a ranking of a hundred."""
    with tempfile.TemporaryDirectory() as folder:
        return [_search(Path(folder, "large.lance"), rows), _explain(Path(folder, "maps.lance"))]


def _search(path: Path, rows: int) -> Table:
    gallery = synthetic(path, rows, D, maps=False)
    x = contributions(D)
    box = (10.0, 10.0, 40.0, 40.0)
    vectors = gallery._now.vectors
    u = gallery.ask(x, box).vector

    def bare() -> None:
        for part in vectors.parts:
            torch.mv(part.matrix, u)

    every = torch.cat([torch.mv(part.matrix, u) for part in vectors.parts])
    best = every.topk(20)
    found = gallery.search(x, region=box)
    np.testing.assert_allclose([hit.score for hit in found], best.values, atol=1e-6)
    assert vectors.positions(np.array([h.address for h in found])).tolist() == best.indices.tolist()
    before = _anonymous()
    base, whole, region, ranked = alternate(
        bare,
        lambda: gallery.search(x),
        lambda: gallery.search(x, region=box),
        lambda: [hit.rank_without_region for hit in gallery.search(x, region=box)],
        rounds=7,
        warmups=1,
    )
    grown = _anonymous() - before
    cells = [
        ["one bare product", milliseconds(base), "1", ""],
        *(
            [name, milliseconds(seconds), str(ratio(seconds, base)), kept]
            for name, seconds, kept in (
                ("whole photograph", whole, verdict(ratio(whole, base).median, 1.3)),
                ("region", region, verdict(ratio(region, base).median, 1.3)),
                ("region, and its hits' ranks without it, asked for", ranked, ""),
            )
        ),
        ["memory held after these, MB", f"{grown / 2**20:.0f}", "", ""],
    ]
    return Table("Search of a million", ABOUT, ["search", "ms", "ratio", "budget"], cells)


def _explain(path: Path) -> Table:
    gallery = synthetic(path, 2000, D_MAPS, maps=True)
    x = contributions(D_MAPS)
    hits = gallery.search(x, k=RANKING)

    def explain() -> list[wa.Pair]:
        return gallery.explain_ranking(hits)

    def explain_and_map() -> None:
        for pair in explain():
            pair.overall_map("query"), pair.overall_map("reference")

    for pair, hit in zip(explain(), hits, strict=True):
        assert abs(pair.similarity - hit.score) < 1e-5
    pairs, maps = (
        Spread.of(1000 * seconds / RANKING)
        for seconds in alternate(explain, explain_and_map, rounds=15)
    )
    cells = [
        ["a pair, ms", str(pairs), verdict(pairs.median, 0.3, " ms")],
        ["a pair and its overall maps, ms", str(maps), ""],
    ]
    return Table("A ranking from the index", ABOUT_PAIRS, ["cost of", "ms", "budget"], cells)


def synthetic(
    path: Path, rows: int, d: int, *, maps: bool, manifest: Manifest | None = None
) -> Gallery:
    """A gallery of random unit vectors, and of contributions whose sums they are."""
    kept = "full" if maps else "none"
    manifest = manifest or Manifest("none", "synthetic", "", "", "", d, GRID, 0, kept)
    store = Store(str(path))
    store.create(manifest, Packing(), pa.schema([]))
    random = torch.Generator().manual_seed(0)
    commits = Commits(store, store.open(), ())
    for start in range(0, rows, rows // FRAGMENTS):
        count = min(rows // FRAGMENTS, rows - start)
        cells = GRID[0] * GRID[1]
        packed = [None] * count
        if maps:
            v = torch.randn(count, cells, d, generator=random)
            E = v.sum(1)
            packed = [pack(one, Packing(), 0) for one in v]
        else:
            E = torch.randn(count, d, generator=random)
        batch = rows_of(start, E, packed, schema(d, pa.schema([])))
        commits.add(write([batch], store, batch.schema), batch["id"].to_pylist())
    return Gallery.open(path)


def rows_of(start: int, E: torch.Tensor, packed: list, into: pa.Schema) -> pa.RecordBatch:
    """Rows of a gallery with some embeddings, and maps that are packed or None."""
    count, d = E.shape
    lengths = E.norm(dim=1)
    unit = (E / lengths[:, None]).numpy()
    names = [f"{start + row:032x}" for row in range(count)]
    columns = {
        "id": names,
        "path": names,
        "file": [name.encode() for name in names],
        "embedding": pa.FixedSizeListArray.from_arrays(unit.ravel(), d),
        "length": lengths.double().numpy(),
        "size_wh": [(50, 50)] * count,
        "view_xyxy": [(0.0, 0.0, 50.0, 50.0)] * count,
        **{
            name: [None if one is None else getattr(one, name) for one in packed]
            for name in ("dims", "exponent", "maps")
        },
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, one.type)
        for one in into
        for column in [columns.get(one.name, [None] * count)]
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=into)


def contributions(d: int) -> wa.Contributions:
    """A random query."""
    v = torch.randn(*GRID, d, generator=torch.Generator().manual_seed(1))
    return wa.Contributions(v, torch.zeros(d), v.sum((0, 1)), Frame((50, 50), (0, 0, 50, 50), GRID))


def _anonymous() -> int:
    """Bytes that the process holds itself, mapped files left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0
