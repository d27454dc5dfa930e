"""How long does the page take to follow the pointer?"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Browser, sync_playwright

from benchmarks.tables import Table, UnavailableError, verdict
from whyalike import Contributions, Pair
from whyalike.geometry import Frame
from whyalike.viewer.export import viewer_data

MOVES = 200
WARMUPS = 50
# Cells on each side of the grid, dimensions, and the budget in ms if there is one. What is smaller
# goes into the page: the matrix of all pairs of cells, or its two factors.
CASES = [
    *((7, 64, 4), (7, 512, 4)),
    *((14, 64, None), (14, 512, None)),
    *((37, 64, 16), (37, 512, 16), (37, 768, 16)),
]

ABOUT = f"""\
A saved page in headless chromium, without a graphics card, {MOVES} pointer moves over different
points of either photograph, after {WARMUPS} to warm up. Timed in the page, by its own clock (in
steps of 0.1 ms): from the dispatch of the pointer event, through the viewer's handler and all that
it puts off to the next animation frame (the point map from the links of the cells, both canvases,
marks, words), to the end of style and layout, which are forced. `requestAnimationFrame` only
collects here, so that the wait for the next frame is not counted; neither is the browser's own
painting afterwards: the canvases have 119 to 185 pixels a side, whatever the grid. Between two
moves a true frame goes by. The budgets are for the 95th percentile, over the query: 4 ms at 49×49
cells and 16 ms at 1369×1369. Checked: each move draws once, and the strongest cell that the page
marks is the strongest of `point_map`."""

COLLECT = """
window.trueFrame = window.requestAnimationFrame.bind(window);
window.waiting = [];
window.requestAnimationFrame = (callback) => window.waiting.push(callback);
"""

MOVE = """
async ([side, moves]) => {
  const canvas = document.querySelectorAll("canvas.wa-map")[side];
  const flush = () => {
    const callbacks = waiting.splice(0);
    for (const callback of callbacks) callback(performance.now());
    return callbacks.length;
  };
  const layout = () => document.documentElement.getBoundingClientRect();
  const nextFrame = () => new Promise((done) => trueFrame(() => setTimeout(done)));
  const times = [];
  for (const [x, y] of moves) {
    flush();
    await nextFrame();
    flush();
    const box = canvas.getBoundingClientRect();
    const event = new PointerEvent("pointermove", {
      bubbles: true, isPrimary: true, pointerType: "mouse",
      clientX: box.x + x * box.width, clientY: box.y + y * box.height,
    });
    const start = performance.now();
    canvas.dispatchEvent(event);
    const drawn = flush();
    layout();
    times.push(performance.now() - start);
    if (drawn !== 1) throw new Error(`a move drew ${drawn} times`);
  }
  const other = document.querySelectorAll("canvas.wa-map")[1 - side];
  const place = other.getBoundingClientRect();
  const dot = document.querySelector("svg circle.wa-dot").getBoundingClientRect();
  const { data } = other.getContext("2d").getImageData(0, 0, other.width, other.height);
  return {
    times,
    painted: data.some((byte) => byte > 0),
    strongest: [
      (dot.x + dot.width / 2 - place.x) / place.width,
      (dot.y + dot.height / 2 - place.y) / place.height,
    ],
  };
}
"""

CHROMIUM_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def run() -> Table:
    """Time every grid and every encoding of the links."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise UnavailableError("chromium is not installed")
    rows = []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        for side, d, budget in CASES:
            pair = random_pair(side, d)
            file = Path(folder) / f"{side}-{d}.html"
            pair.save(file)
            over_query, over_reference = hover(browser, file, pair)
            p95 = float(np.percentile(over_query, 95))
            rows.append(
                [
                    f"{side**2}×{side**2}, d = {d}",
                    viewer_data(pair)["links"]["encoding"],
                    *(_median_and_95th(over_query), _median_and_95th(over_reference)),
                    "" if budget is None else verdict(p95, budget, " ms"),
                ]
            )
        browser.close()
    columns = ["cells", "links", "over the query, ms", "over the reference, ms", "budget"]
    return Table("Hovering: median and 95th percentile", ABOUT, columns, rows)


def random_pair(side: int, d: int) -> Pair:
    """Two images of side×side cells whose vectors have something in common and much that is not."""
    generator = torch.Generator().manual_seed(side * d)
    common = torch.randn(d, generator=generator)
    return Pair(*(_random_contributions(side, common, generator) for _ in range(2)))


def _random_contributions(side: int, common: torch.Tensor, generator: Any) -> Contributions:
    values = 0.1 * common + torch.randn(side, side, len(common), generator=generator)
    bias = torch.randn(len(common), generator=generator)
    frame = Frame(size_wh=(640, 480), view_xyxy=(0, 0, 640, 480), grid_hw=(side, side))
    return Contributions(values, bias, values.sum((0, 1)) + bias, frame)


def hover(browser: Browser, file: Path, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each move over the query, and over the reference."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(COLLECT)
    page.goto(file.as_uri())
    times = []
    for side in (0, 1):
        moves = np.random.default_rng(side).uniform(0.02, 0.98, (MOVES, 2))
        # The first moves over a photograph are not counted: the browser still compiles the page.
        page.evaluate(MOVE, [side, moves[:WARMUPS].tolist()])
        found = page.evaluate(MOVE, [side, moves.tolist()])
        check(found, pair, side, moves[-1])
        times.append(np.array(found["times"]))
    page.close()
    return times[0], times[1]


def check(found: dict[str, Any], pair: Pair, side: int, last: np.ndarray) -> None:
    """The last move's map is drawn, and its strongest cell is marked where `point_map` has it."""
    assert found["painted"]
    w, h = pair.query.frame.size_wh
    point = {("query_xy", "reference_xy")[side]: (float(last[0]) * w, float(last[1]) * h)}
    strengths = pair.point_map(**point).abs()
    rows, columns = strengths.shape
    x, y = found["strongest"]
    marked = strengths[int(y * rows), int(x * columns)]
    assert marked > 0.99 * strengths.max(), (point, marked, strengths.max())


def _median_and_95th(times: np.ndarray) -> str:
    return f"{np.median(times):.1f}, {np.percentile(times, 95):.1f}"
