"""How soon does the local web app answer, when the mouse comes to rest?"""

from __future__ import annotations

import http.client
import io
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import whyalike as wa
from benchmarks.search import synthetic
from benchmarks.tables import Table, UnavailableError, verdict
from whyalike.gallery import Gallery
from whyalike.gallery.manifest import describe

ROWS, D = 200_000, 512
MOVES, WARMUPS, HITS = 60, 5, 20
SIDE = 320

ABOUT = f"""\
`whyalike serve` in a process of its own, on a gallery of {ROWS:,} rows of {D} numbers, and a client
that asks over HTTP, on one connection, from the moment the region is known to that the answer is
read: {MOVES} boxes of one query, each another one, after {WARMUPS} to warm up. An answer has {HITS}
hits by the region with their ranks without it, and {HITS} by the whole photograph. All rows are
multiplied. Beside it, the bare product with the same rows in the client's process, and the first
page of the gallery: html, scripts, styles, and 60 photographs as JSON. The budget is for the
95th percentile. Checked: the hits are the first of a full sort."""


def model() -> wa.EmbeddingModel:
    """Of 7×7 cells, and embeddings of 512 numbers."""
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Conv2d(3, D, 8, stride=8), torch.nn.ReLU())
    return wa.EmbeddingModel(trunk.eval(), "mean", None, wa.Preprocess(size=56))


def run(rows: int = ROWS) -> Table:
    """Measure moves over one query."""
    try:
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UnavailableError("pip install 'whyalike[serve]'") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "large.lance")
        synthetic(path, rows, D, maps=False, manifest=describe(model(), "none"))
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        server = context.Process(target=_serve, args=(path, there), daemon=True)
        server.start()
        try:
            return _measure(Gallery.open(path, model()), http.client.HTTPConnection(
                "127.0.0.1", here.recv(), timeout=60))  # fmt: skip
        finally:
            server.terminate()
            server.join()


def _serve(path: Path, there: Connection) -> None:
    from whyalike.viewer.server.running import serve

    made = serve(lambda: Gallery.open(path), model, port=0)
    there.send(made.bound.getsockname()[1])
    made.run()


def _measure(gallery: Gallery, connection: http.client.HTTPConnection) -> Table:
    def ask(path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return json.loads(content) if "json" in response.getheader("content-type", "") else content

    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    query = ask("/api/uploads", buffer.getvalue(), "image/png")["query"]
    x = gallery.model.explain(pixels) if gallery.model else None
    assert x is not None
    matrix = [part.matrix for part in gallery._now.vectors.parts]
    times, bare, pages = [], [], []
    for move in range(WARMUPS + MOVES):
        left, top = np.random.default_rng(move).uniform(0, SIDE / 2, 2).round(1).tolist()
        box = (left, top, left + SIDE / 3, top + SIDE / 3)
        body = json.dumps({"query": query, "boxes": [box], "k": HITS}).encode()
        start = time.perf_counter()
        found = ask("/api/search", body)
        times.append(time.perf_counter() - start)
        u = gallery.ask(x, box).vector
        start = time.perf_counter()
        scores = torch.cat([torch.mv(part, u) for part in matrix])
        bare.append(time.perf_counter() - start)
        said = [hit["score"] for hit in found["hits"]]
        np.testing.assert_allclose(said, scores.topk(HITS).values, atol=1e-5)
        start = time.perf_counter()
        for name in ("/", "/static/serve.js", "/static/viewer.js", "/static/results.js",
                     "/static/viewer.css", "/api/gallery", "/api/photos?limit=60"):  # fmt: skip
            ask(name)
        pages.append(time.perf_counter() - start)
    cells = []
    for name, seconds, budget in (
        ("a region, answered", times, 100), ("one bare product", bare, None),
        ("the first page", pages, 1000),
    ):  # fmt: skip
        p50, p95 = 1000 * np.percentile(seconds[WARMUPS:], [50, 95])
        kept = "" if budget is None else verdict(p95, budget, " ms")
        cells.append([name, f"{p50:.1f}", f"{p95:.1f}", kept])
    return Table("Searching as the mouse moves", ABOUT, ["", "p50, ms", "p95, ms", "budget"], cells)
