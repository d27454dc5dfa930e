"""The interactive page, in a real browser, on contributions whose answers are planted."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page
from torch import Tensor

import whyalike as wa
from pages import Open, settle
from whyalike.affinity import Affinity
from whyalike.data.samples import demo_pair
from whyalike.geometry import Frame
from whyalike.viewer.export import base64_of, page, viewer_data

STATIC = files("whyalike.viewer") / "static"
# The query's cells are 40 pixels large and begin at x = 50: the network saw a centre crop.
QUERY = Frame(size_wh=(300, 120), view_xyxy=(50, 0, 250, 120), grid_hw=(3, 5))
REFERENCE = Frame(size_wh=(240, 160), view_xyxy=(0, 0, 240, 160), grid_hw=(4, 6))
PLANTED = {"query": (1, 3), "reference": (2, 4)}  # these two cells meet …
AGAINST = {"query": (1, 1), "reference": (0, 1)}  # … and these two speak against it
FRAMES = {"query": QUERY, "reference": REFERENCE}


class Terms(NamedTuple):
    """As of a Pair."""

    pairs: float
    query_bias: float
    reference_bias: float
    bias_bias: float


class Match(NamedTuple):
    """As of a Pair."""

    query_xyxy: tuple[float, ...]
    reference_xyxy: tuple[float, ...]
    value: float
    share: float


@dataclass
class FakeImage:
    """As Contributions, as far as the viewer looks."""

    values: Tensor
    bias: Tensor
    frame: Frame
    name: str
    picture: Image.Image | None
    affinity: Affinity | None = None

    @property
    def embedding(self) -> Tensor:
        """Σv + b."""
        return self.values.sum((0, 1)) + self.bias


@dataclass
class FakePair:
    """A pair in float64, slow and obvious."""

    query: FakeImage
    reference: FakeImage
    model: str = "a model of the tests"

    @property
    def norms(self) -> float:
        """|E^q||E^r|."""
        return float(self.query.embedding.norm() * self.reference.embedding.norm())

    @property
    def similarity(self) -> float:
        """Cosine."""
        return float(self.query.embedding @ self.reference.embedding) / self.norms

    @property
    def terms(self) -> Terms:
        """Eq. 5."""
        vq, vr = self.query.values.sum((0, 1)), self.reference.values.sum((0, 1))
        bq, br = self.query.bias, self.reference.bias
        return Terms(
            *[float(a @ b) / self.norms for a, b in ((vq, vr), (bq, vr), (vq, br), (bq, br))]
        )

    def overall_map(self, side: str, bias: bool = False) -> Tensor:
        """v·Σv of the other image, or v·E."""
        one, other = self.query, self.reference
        if side == "reference":
            one, other = other, one
        u = other.embedding if bias else other.values.sum((0, 1))
        return one.values @ u / self.norms

    def matrix(self) -> Tensor:
        """(hq, wq, hr, wr)."""
        return torch.einsum("ijd,xyd->ijxy", self.query.values, self.reference.values) / self.norms

    def matches(self, k: int = 10) -> list[Match]:
        """The two planted links."""
        matrix = self.matrix()
        return [
            Match(
                QUERY.cell_xyxy(*cells["query"]),
                REFERENCE.cell_xyxy(*cells["reference"]),
                float(matrix[(*cells["query"], *cells["reference"])]),
                float(matrix[(*cells["query"], *cells["reference"])]) / self.similarity,
            )
            for cells in (PLANTED, AGAINST)
        ]


def make_pair(names: tuple[str, str] = ("q.jpg", "r.jpg"), dimensions: int = 64) -> FakePair:
    """Each cell has an axis of its own, but the planted ones share theirs."""
    images = []
    for side, (axes, frame) in {"query": (0, QUERY), "reference": (16, REFERENCE)}.items():
        h, w = frame.grid_hw
        values = torch.zeros(h * w, dimensions, dtype=torch.float64)
        values[torch.arange(h * w), axes + torch.arange(h * w)] = 0.3
        values = values.reshape(h, w, dimensions)
        values[PLANTED[side]], values[AGAINST[side]] = 0, 0
        values[(*PLANTED[side], -1)] = 2
        values[(*AGAINST[side], -2)] = 1 if side == "query" else -1
        bias = torch.zeros(dimensions, dtype=torch.float64)
        bias[-3:] = torch.tensor([0.4, 0.1, -0.2])
        picture = Image.new("RGB", frame.size_wh, (90, 110, 100))
        images.append(FakeImage(values, bias, frame, names[len(images)], picture))
    return FakePair(*images)


@pytest.fixture(scope="module")
def pair() -> FakePair:
    """The planted pair."""
    return make_pair()


@pytest.fixture(scope="module")
def data(pair: FakePair) -> dict[str, Any]:
    """What the viewer shows of it."""
    return viewer_data(pair)


@pytest.fixture
def tab(open_page: Open, data: dict[str, Any]) -> Page:
    """The exported page of the planted pair."""
    return open_page(page(data))


def host(data: dict[str, Any], body: str = '<div id="a"></div>') -> str:
    """A page of somebody else's, with `mount` and `data` at hand."""
    module = (STATIC / "viewer.js").read_text(encoding="utf-8")
    css = (STATIC / "viewer.css").read_text(encoding="utf-8")
    text = json.dumps(data).replace("<", "\\u003c")
    share = f"Object.assign(window, {{ mount, data: {text} }});"
    return (
        f"<!doctype html><html lang=en><title>host</title><style>{css}</style>{body}"
        f'<script type="module">{module}\n{share}</script>'
    )


def canvas(tab: Page, side: str) -> Locator:
    """The map over one photograph."""
    return tab.locator("canvas.wa-map").nth(["query", "reference"].index(side))


def position(tab: Page, side: str, row: float, column: float) -> tuple[float, float]:
    """A place in cells, (0.5, 0.5) being the first one's centre, in pixels of the window."""
    box = canvas(tab, side).bounding_box()
    assert box is not None
    h, w = FRAMES[side].grid_hw
    return box["x"] + column / w * box["width"], box["y"] + row / h * box["height"]


def hover(tab: Page, side: str, cell: tuple[int, int], offset: float = 0.0) -> None:
    """Moves the mouse to a cell's centre, or beside it by a share of a cell."""
    tab.mouse.move(*position(tab, side, cell[0] + 0.5, cell[1] + 0.5 + offset))
    settle(tab)


def drag(tab: Page, side: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws a region with the mouse, between two places in cells."""
    tab.mouse.move(*position(tab, side, *start))
    tab.mouse.down()
    tab.mouse.move(*position(tab, side, *end), steps=4)
    tab.mouse.up()
    settle(tab)


def colour(tab: Page, side: str, cell: tuple[int, int]) -> tuple[int, int, int, int]:
    """Red, green, blue, alpha that the map has at a cell's centre."""
    script = """(canvas, [y, x]) => [...canvas.getContext("2d")
        .getImageData(Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data]"""
    h, w = FRAMES[side].grid_hw
    rgba = canvas(tab, side).evaluate(script, [(cell[0] + 0.5) / h, (cell[1] + 0.5) / w])
    return tuple(rgba)


def coloured(tab: Page, side: str) -> set[tuple[int, int]]:
    """The cells of a map that are not transparent at their centres."""
    h, w = FRAMES[side].grid_hw
    return {(i, j) for i in range(h) for j in range(w) if colour(tab, side, (i, j))[3] > 0}


def is_warm(rgba: tuple[int, int, int, int]) -> bool:
    """Evidence for the match."""
    return rgba[3] > 20 and rgba[0] > rgba[2] + 60


def is_blue(rgba: tuple[int, int, int, int]) -> bool:
    """Evidence against it."""
    return rgba[3] > 20 and rgba[2] > rgba[0] + 60


def readout(tab: Page) -> str:
    """The sentence under the photographs."""
    return tab.locator(".wa-readout").inner_text()


def number(text: str) -> float:
    """The first number of a sentence, with its sign; it may be written ×10⁻⁶."""
    found = re.search(r"([+−]?\d+\.\d+)(?:×10⁻([⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", text)
    assert found, text
    power = (found[2] or "⁰").translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
    return float(found[1].replace("−", "-")) * 10.0 ** -int(power)


def choose(tab: Page, label: str) -> None:
    """Sets a radio button or a check box, by its label."""
    tab.get_by_label(label, exact=True).check()
    settle(tab)


def drawn(tab: Page) -> int:
    """How many marks lie on the photographs."""
    return tab.locator(".wa-overlay > *").count()


# ── The data and the file ────────────────────────────────────────────────────────────────────


def decoded(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).astype(np.float64)


@pytest.mark.parametrize("dimensions", [64, 8])
def test_data_hold_the_pair(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pair = make_pair()
    for image in (pair.query, pair.reference):
        h, w = image.frame.grid_hw
        image.values = torch.randn(h, w, dimensions, dtype=torch.float64, generator=generator)
        image.bias = torch.randn(dimensions, dtype=torch.float64, generator=generator)
    data = viewer_data(pair)  # type: ignore[arg-type]
    links, matrix = data["links"], pair.matrix().reshape(15, 24).numpy()
    if dimensions == 8:  # (15 + 24) · 8 numbers are fewer than 15 · 24
        assert links["encoding"] == "factors"
        query = decoded(links["query"], "<f2").reshape(15, 8)
        stored = query @ decoded(links["reference"], "<f2").reshape(24, 8).T
    else:
        assert links["encoding"] == "matrix"
        stored = decoded(links["matrix"], "<f2").reshape(15, 24)
    assert np.abs(links["scale"] * stored - matrix).max() < 2e-3 * np.abs(matrix).max()
    assert links["peak"] == pytest.approx(np.abs(matrix).max())
    assert sum(data["terms"].values()) == pytest.approx(data["similarity"])
    for side in FRAMES:
        for key, bias in {"overall": False, "overall_bias": True}.items():
            expected = pair.overall_map(side, bias=bias).flatten().numpy()
            assert decoded(data[side][key], "<f4") == pytest.approx(expected, rel=1e-6)
    assert data["query"]["view_xyxy"] == [50, 0, 250, 120]


@pytest.mark.parametrize("size", [1e-9, 0.0, 1e9])
def test_half_precision_neither_under_nor_overflows(size: float) -> None:
    pair = make_pair()
    pair.query.values *= size
    pair.query.bias += 1  # so that |E| stays finite when all else vanishes
    stored = decoded(viewer_data(pair)["links"]["matrix"], "<f2")  # type: ignore[arg-type]
    assert np.isfinite(stored).all()
    assert (np.abs(stored).max() > 1000) == (size > 0)


def test_pictures_are_bounded_and_a_missing_one_is_grey() -> None:
    pair = make_pair()
    pair.query.picture = Image.new("RGB", (1600, 640))
    pair.reference.picture = None
    data = viewer_data(pair)  # type: ignore[arg-type]
    assert len(data["query"]["src"]) < 100_000
    for side, size in {"query": (1280, 512), "reference": (240, 160)}.items():
        header, text = data[side]["src"].split(",")
        assert header == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            assert picture.size == size


def test_page_stands_alone(data: dict[str, Any]) -> None:
    text = page(data)
    policy = html.unescape(re.findall(r'Security-Policy" content="([^"]+)"', text)[0])
    for tag in ("style", 'script type="module"'):
        block = text.split(f"<{tag}>")[1].split(f"</{tag.split()[0]}>")[0]
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    remote = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text.split("<script type")[0]))
    assert remote == set()
    assert re.findall(r"<(?:link|iframe|base)\b|\bimport\(|\bfetch\(|url\(", text) == []


# ── In the browser ───────────────────────────────────────────────────────────────────────────


@pytest.mark.browser
@pytest.mark.parametrize("side", ["query", "reference"])
def test_hover_lights_the_planted_cell_of_the_other_image(tab: Page, side: str) -> None:
    other = "reference" if side == "query" else "query"
    hover(tab, side, PLANTED[side])
    assert coloured(tab, other) == {PLANTED[other]}
    assert is_warm(colour(tab, other, PLANTED[other]))
    assert coloured(tab, side) == set()
    hover(tab, side, AGAINST[side])
    assert coloured(tab, other) == {AGAINST[other]}
    assert is_blue(colour(tab, other, AGAINST[other]))
    hover(tab, side, (0, 0))  # meets nothing
    assert coloured(tab, other) == set()
    assert readout(tab).endswith(").")
    tab.mouse.move(5, 5)
    settle(tab)
    assert coloured(tab, side) == {PLANTED[side], AGAINST[side]}  # at rest, the overall maps


@pytest.mark.browser
@pytest.mark.parametrize("encoding", ["matrix", "factors"])
@pytest.mark.parametrize("side", ["query", "reference"])
def test_like_cells_share_what_a_point_meets(open_page: Open, side: str, encoding: str) -> None:
    other = "reference" if side == "query" else "query"
    pair = make_pair()
    image: FakeImage = getattr(pair, other)
    h, w = image.frame.grid_hw
    features = torch.eye(h * w).view(1, h * w, h, w)
    row, column = PLANTED[other]
    twin = (row, column + 1)
    features[0, :, row, column + 1] = features[0, :, row, column]
    image.affinity = Affinity([features], (h, w), 2.0)
    data = viewer_data(pair)  # type: ignore[arg-type]
    whole = float(pair.matrix()[(*PLANTED["query"], *PLANTED["reference"])])
    assert data["links"]["peak"] == pytest.approx(whole)  # over the side that is not shared
    if encoding == "factors":
        data["links"] = {"encoding": "factors", "rank": 64, "scale": 1.0, "peak": whole}
        for name in ("query", "reference"):
            v = getattr(pair, name).values.flatten(0, 1) / pair.norms**0.5
            data["links"][name] = base64_of(v.numpy(), "<f2")
    tab = open_page(page(data))
    hover(tab, side, PLANTED[side])
    assert coloured(tab, other) == {PLANTED[other], twin}
    assert colour(tab, other, PLANTED[other]) == colour(tab, other, twin)


@pytest.mark.browser
def test_between_cells_the_map_is_interpolated(open_page: Open, data: dict[str, Any]) -> None:
    tab = open_page(page(data))
    h, w = QUERY.grid_hw
    hover(tab, "query", PLANTED["query"], offset=0.25)
    beside = number(readout(tab))
    hover(tab, "query", PLANTED["query"])
    centre = number(readout(tab))
    overall = decoded(data["query"]["overall"], "<f4").reshape(h, w)
    i, j = PLANTED["query"]
    assert centre == pytest.approx(overall[i, j], rel=5e-3)
    # The window's pixels are whole, so the place is only near a quarter of a cell.
    assert beside == pytest.approx(0.75 * overall[i, j] + 0.25 * overall[i, j + 1], rel=2e-2)


@pytest.mark.browser
def test_numbers_follow_the_geometry_of_the_library(
    open_page: Open, data: dict[str, Any], pair: FakePair
) -> None:
    tab = open_page(host(data))
    tab.evaluate("window.viewer = mount(document.querySelector('#a'), data)")
    overall = pair.overall_map("reference").numpy()
    biased = pair.overall_map("reference", bias=True).numpy()
    marks: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"xy": xy}, REFERENCE.point_weights(xy)) for xy in [(171, 93), (180, 100), (159, 61)]
    ]
    boxes = [(3, 5, 100, 90), (150, 70, 190, 118), (-9, -9, 500, 500)]
    marks += [({"xyxy": xyxy}, REFERENCE.box_coverage(xyxy)) for xyxy in boxes]
    for mark, weights in marks:
        for bias, values in {False: overall, True: biased}.items():
            state = {"mark": {"side": "reference", **mark}, "bias": bias, "pinned": True}
            tab.evaluate("state => viewer.setState(state)", state)
            settle(tab)
            assert number(readout(tab)) == pytest.approx((weights * values).sum(), rel=5e-3)


@pytest.mark.browser
def test_the_three_colour_scales(tab: Page, pair: FakePair) -> None:
    def ends() -> list[float]:
        texts = tab.locator(".wa-scale:not(.wa-off) > span:not(.wa-unit)").all_inner_texts()
        return [number(text) for text in texts]

    def rounded_up(value: float) -> float:
        steps = [m * 10.0**e for e in range(-9, 9) for m in (1, 2, 5)]
        return min(step for step in steps if step >= value)

    maps = [pair.overall_map(side, bias) for side in FRAMES for bias in (False, True)]
    of_pair = rounded_up(max(float(m.abs().max()) for m in maps))
    assert ends() == pytest.approx([-of_pair, of_pair] * 2, rel=5e-3)
    hover(tab, "query", PLANTED["query"])
    at_a_point = rounded_up(float(pair.matrix().abs().max()))
    assert ends() == pytest.approx([-at_a_point, at_a_point], rel=5e-3)
    hover(tab, "query", (0, 0))  # a place that carries little has the same scale
    assert ends() == pytest.approx([-at_a_point, at_a_point], rel=5e-3)

    # The fixed scale knows the grids only.
    nq, nr = 15, 24
    choose(tab, "Fixed")
    hover(tab, "query", PLANTED["query"])
    at_a_point = 4 / nr * 4 / nq
    assert ends() == pytest.approx([-at_a_point, at_a_point], rel=5e-3)
    choose(tab, "Overall")
    assert ends() == pytest.approx([-4 / nq, 4 / nq, -4 / nr, 4 / nr], rel=5e-3)
    choose(tab, "Fit")
    tab.get_by_text("colours do not compare").wait_for()
    strongest = [float(pair.overall_map(side).abs().max()) for side in FRAMES]
    expected = [sign * value for value in strongest for sign in (-1, 1)]
    assert ends() == pytest.approx(expected, rel=5e-3)


@pytest.mark.browser
def test_a_drag_draws_a_region_and_its_map(tab: Page, pair: FakePair) -> None:
    drag(tab, "query", (0.0, 0.0), (2.0, 3.0))
    assert coloured(tab, "reference") == {AGAINST["reference"]}
    drag(tab, "query", (2.9, 4.9), (0.1, 0.1))  # backwards
    assert coloured(tab, "reference") == {AGAINST["reference"], PLANTED["reference"]}
    whole = QUERY.box_coverage((54, 4, 246, 116)) * pair.overall_map("query").numpy()
    assert number(readout(tab)) == pytest.approx(whole.sum(), rel=3e-2)
    assert "This region of the query carries" in readout(tab)
    tab.mouse.move(5, 5)
    settle(tab)
    assert coloured(tab, "reference") == {AGAINST["reference"], PLANTED["reference"]}
    tab.get_by_role("button", name="Clear").click()
    settle(tab)
    assert "Point at either photograph" in readout(tab)


@pytest.mark.browser
def test_a_click_pins_and_a_second_lets_go(tab: Page) -> None:
    hover(tab, "query", PLANTED["query"])
    tab.mouse.down()
    tab.mouse.up()
    hover(tab, "query", (0, 0))
    assert coloured(tab, "reference") == {PLANTED["reference"]}
    hover(tab, "query", PLANTED["query"])
    tab.mouse.down()
    tab.mouse.up()
    hover(tab, "query", (0, 0))
    assert coloured(tab, "reference") == set()


@pytest.mark.browser
def test_views_signs_biases_and_the_heat_map(tab: Page, data: dict[str, Any]) -> None:
    choose(tab, "Overall")
    assert is_warm(colour(tab, "query", PLANTED["query"]))
    assert is_blue(colour(tab, "query", AGAINST["query"]))
    choose(tab, "For")
    assert coloured(tab, "query") == {PLANTED["query"]}
    choose(tab, "Against")
    assert coloured(tab, "query") == {AGAINST["query"]}
    choose(tab, "Both")
    hover(tab, "query", PLANTED["query"])
    at = PLANTED["query"][0] * 5 + PLANTED["query"][1]
    for label, key in {"without": "overall", "with": "overall_bias"}.items():
        if label == "with":
            choose(tab, "With biases")
            hover(tab, "query", PLANTED["query"])
        expected = decoded(data["query"][key], "<f4")[at]
        assert number(readout(tab)) == pytest.approx(expected, rel=5e-3)
    strong = colour(tab, "query", PLANTED["query"])[3]
    tab.get_by_label("Opacity").fill("0.3")
    settle(tab)
    assert 0 < colour(tab, "query", PLANTED["query"])[3] < strong / 2
    tab.get_by_label("Show", exact=True).uncheck()
    settle(tab)
    assert coloured(tab, "query") == set()


@pytest.mark.browser
def test_matches_are_joined_and_say_their_share(tab: Page, data: dict[str, Any]) -> None:
    assert not tab.locator(".wa-matches").is_visible()
    choose(tab, "Matches")
    assert tab.locator(".wa-overlay line:not(.wa-casing)").count() == 2
    shares = tab.locator(".wa-label text").all_text_contents()
    expected = [f"{100 * match['share']:.0f} %".replace("-", "−") for match in data["matches"]]
    assert sorted(shares) == sorted(expected)
    buttons = tab.locator(".wa-matches button")
    assert [number(text) for text in buttons.locator("span").all_inner_texts()] == pytest.approx(
        [match["value"] for match in data["matches"]], rel=5e-3
    )
    buttons.nth(1).click()
    settle(tab)
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    assert number(readout(tab)) == pytest.approx(data["matches"][1]["value"], rel=5e-3)
    choose(tab, "Against")
    assert tab.locator(".wa-overlay line:not(.wa-casing)").count() == 1
    tab.mouse.click(*position(tab, "query", AGAINST["query"][0] + 0.5, AGAINST["query"][1] + 0.5))
    settle(tab)
    assert buttons.nth(1).get_attribute("aria-pressed") == "false"  # the same one again


@pytest.mark.browser
def test_the_ledger_adds_up(tab: Page, data: dict[str, Any]) -> None:
    rows = tab.locator(".wa-ledger .wa-number").all_inner_texts()
    numbers = [float(text.replace("−", "-")) for text in rows]
    assert numbers == pytest.approx([*data["terms"].values(), data["similarity"]], abs=5e-7)
    assert sum(numbers[:4]) == pytest.approx(numbers[4], abs=3e-6)
    bars = [box for box in (bar.bounding_box() for bar in tab.locator(".wa-bar").all()) if box]
    for value, bar in zip(numbers, bars, strict=True):  # all to one scale
        ratio = bars[4]["width"] / abs(numbers[4])
        assert bar["width"] == pytest.approx(max(1, ratio * abs(value)), abs=1.5)


@pytest.mark.browser
def test_a_pair_of_photographs_as_it_is_saved(browser: Browser, tmp_path: Path) -> None:
    """The whole way: the default network, two photographs, pair.save, the page's ledger."""
    pair = wa.explain_pair(wa.load(), *demo_pair())
    pair.save(tmp_path / "pair.html")
    tab = browser.new_page()
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((tmp_path / "pair.html").as_uri())
    settle(tab)
    rows = tab.locator(".wa-ledger .wa-number").all_inner_texts()
    numbers = [float(text.replace("−", "-")) for text in rows]
    assert numbers == pytest.approx([*pair.terms, pair.similarity], abs=6e-7)
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    tab.close()


@pytest.mark.browser
def test_a_large_negative_term_stays_in_the_ledger(open_page: Open, data: dict[str, Any]) -> None:
    terms = {"pairs": 2.0, "query_bias": -3.5, "reference_bias": 0.25, "bias_bias": 1.0}
    tab = open_page(page({**data, "terms": terms, "similarity": -0.25}), width=375)
    track = tab.locator(".wa-track").first.bounding_box()
    assert track is not None
    for bar in tab.locator(".wa-bar").all():
        box = bar.bounding_box()
        assert box is not None
        assert box["x"] >= track["x"] - 0.5
        assert box["x"] + box["width"] <= track["x"] + track["width"] + 1.5


@pytest.mark.browser
def test_keys_do_all_that_the_mouse_does(tab: Page) -> None:
    query = canvas(tab, "query")
    query.focus()
    for key in ("ArrowRight", "ArrowRight"):  # to the centre, (1, 2), then to the planted cell
        tab.keyboard.press(key)
    settle(tab)
    assert coloured(tab, "reference") == {PLANTED["reference"]}
    tab.keyboard.press("Enter")
    hover(tab, "query", (0, 0))
    assert coloured(tab, "reference") == {PLANTED["reference"]}
    for _ in range(2):  # grow over (1, 1), which speaks against
        tab.keyboard.press("Shift+ArrowLeft")
    settle(tab)
    assert coloured(tab, "reference") == {PLANTED["reference"], AGAINST["reference"]}
    assert "region" in readout(tab)
    tab.keyboard.press("Shift+ArrowRight")
    settle(tab)
    assert coloured(tab, "reference") == {PLANTED["reference"]}
    tab.keyboard.press("Escape")
    settle(tab)
    assert drawn(tab) == 0
    for key, label in {
        "o": "Overall",
        "m": "Matches",
        "p": "Point or region",
        "f": "Fixed",
    }.items():
        tab.keyboard.press(key)
        settle(tab)
        assert tab.get_by_label(label, exact=True).is_checked()
    for key, label in {"b": "With biases", "h": "Show"}.items():
        box = tab.get_by_label(label, exact=True)
        before = box.is_checked()
        tab.keyboard.press(key)
        settle(tab)
        assert box.is_checked() != before
    for label in ("For", "Against", "Both"):
        tab.keyboard.press("s")
        settle(tab)
        assert tab.get_by_label(label, exact=True).is_checked()
    tab.keyboard.press("m")
    tab.keyboard.press("ArrowDown")
    settle(tab)
    assert tab.locator(".wa-matches button[aria-pressed=true]").count() == 1


@pytest.mark.browser
def test_keys_of_others_are_left_alone(open_page: Open, data: dict[str, Any]) -> None:
    tab = open_page(host(data, '<input id="other"><div id="a"></div>'))
    tab.evaluate("window.viewer = mount(document.querySelector('#a'), data)")
    settle(tab)
    tab.locator("#other").focus()
    tab.keyboard.type("mob")
    assert tab.locator("#other").input_value() == "mob"
    canvas(tab, "query").focus()
    tab.keyboard.press("Control+m")
    assert tab.evaluate("viewer.state.view") == "point"


@pytest.mark.browser
def test_ears_hear_where_it_is(tab: Page) -> None:
    canvas(tab, "query").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    spoken = tab.locator("[aria-live=polite]")
    spoken.filter(has_text="row 2 of 3, column 4 of 5").wait_for(state="attached")
    assert "at row 3 of 4, column 5 of 6." in (spoken.text_content() or "")
    label = canvas(tab, "query").get_attribute("aria-label") or ""
    assert "q.jpg" in label


@pytest.mark.browser
def test_touch_taps_and_draws(open_page: Open, data: dict[str, Any]) -> None:
    tab = open_page(page(data), width=375, height=812, has_touch=True, is_mobile=True)
    i, j = PLANTED["query"]
    tab.touchscreen.tap(*position(tab, "query", i + 0.5, j + 0.5))
    settle(tab)
    assert coloured(tab, "reference") == {PLANTED["reference"]}
    tab.get_by_role("button", name="Clear").tap()
    settle(tab)
    assert drawn(tab) == 0
    touch = tab.context.new_cdp_session(tab)
    scrolled = tab.evaluate("scrollY")
    corners = [position(tab, "query", *place) for place in ((0.1, 0.1), (1.2, 2.0), (2.9, 4.9))]
    for kind, (x, y) in zip(("touchStart", "touchMove", "touchMove"), corners, strict=True):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(tab)
    assert "region" in readout(tab)
    assert coloured(tab, "reference") == {PLANTED["reference"], AGAINST["reference"]}
    assert tab.evaluate("scrollY") == scrolled
    # Between the pictures and in the margins there is room for a finger to scroll.
    pictures = [canvas(tab, side).bounding_box() for side in FRAMES]
    assert sum(box["height"] for box in pictures if box) < 0.7 * 812


HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>&amp;\u2028'\".jpg"


@pytest.mark.browser
def test_names_of_strangers_are_text(open_page: Open) -> None:
    pair = make_pair((HOSTILE, "</title><svg onload=alert(3)>"))
    pair.model = "<b>model</b>"
    tab = open_page(page(viewer_data(pair)))  # type: ignore[arg-type]
    names = tab.locator(".wa-name span").all_text_contents()
    assert names == [HOSTILE, "</title><svg onload=alert(3)>"]
    assert tab.locator("img").count() == 2
    assert tab.locator("script").count() == 2
    assert HOSTILE.split("\u2028")[0] in tab.title()
    hover(tab, "query", PLANTED["query"])
    assert coloured(tab, "reference") == {PLANTED["reference"]}


@pytest.mark.browser
def test_a_name_that_is_no_text_is_shown_all_the_same(open_page: Open) -> None:
    pair = make_pair(("caf\udce9.jpg", "b.jpg"))
    tab = open_page(page(viewer_data(pair)))  # type: ignore[arg-type]
    assert (tab.locator(".wa-name span").first.text_content() or "").startswith("caf")


@pytest.mark.browser
@pytest.mark.parametrize("size", [(240, 160), (64, 128), (1232, 224)])
@pytest.mark.parametrize("width", [375, 720, 1600])
def test_fits_every_width(
    open_page: Open, data: dict[str, Any], size: tuple[int, int], width: int
) -> None:
    shape = {"size_wh": size, "view_xyxy": [0, 0, *size], "name": "a_long_name_" * 8 + ".jpg"}
    both = {side: {**data[side], **shape} for side in FRAMES}
    tab = open_page(page({**data, **both}), width=width)
    for view in ("Overall", "Point or region", "Matches"):
        choose(tab, view)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [canvas(tab, side).bounding_box() for side in FRAMES]
    for box in boxes:
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.03)
        assert box["x"] + box["width"] <= width


@pytest.mark.browser
def test_a_narrow_place_on_a_wide_page(open_page: Open, data: dict[str, Any]) -> None:
    tab = open_page(host(data, '<div id="a" style="width: 360px"></div>'), width=1400)
    tab.evaluate("window.viewer = mount(document.querySelector('#a'), data)")
    settle(tab)
    query, reference = (canvas(tab, side).bounding_box() for side in FRAMES)
    assert query is not None
    assert reference is not None
    assert reference["y"] > query["y"] + query["height"]
    assert tab.evaluate("document.querySelector('#a').scrollWidth") <= 360


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1600])
def test_axe_finds_nothing(open_page: Open, data: dict[str, Any], scheme: str, width: int) -> None:
    tab = open_page(page(data), width=width, color_scheme=scheme, bypass_csp=True)
    background = tab.locator(".wa-root").evaluate("e => getComputedStyle(e).backgroundColor")
    levels = [int(level) for level in re.findall(r"\d+", background)]
    assert max(levels) < 60 if scheme == "dark" else min(levels) > 200
    tab.get_by_text("Keys", exact=True).click()
    for view in ("Overall", "Matches", "Point or region"):
        choose(tab, view)
        if view.startswith("Point"):
            hover(tab, "query", PLANTED["query"])
            tab.mouse.down()
            tab.mouse.up()
            settle(tab)
        results = Axe().run(tab)
        assert results.violations_count == 0, results.generate_report()


@pytest.mark.browser
def test_mount_leaves_nothing_behind(open_page: Open, data: dict[str, Any]) -> None:
    tab = open_page(host(data))
    left = tab.evaluate(
        """async () => {
          const outside = [];
          const add = EventTarget.prototype.addEventListener;
          EventTarget.prototype.addEventListener = function (type, ...rest) {
            if (this === window || this === document || this === document.body) outside.push(type);
            return add.call(this, type, ...rest);
          };
          const next = () => new Promise(requestAnimationFrame);
          const frame = () => next().then(next);
          const globals = Object.keys(window).length;
          const before = document.documentElement.outerHTML;
          const viewer = mount(document.querySelector("#a"), data);
          let changes = 0;
          viewer.on("change", () => changes++);
          viewer.setState({ view: "matches" });
          await frame();
          const during = document.querySelector("#a").childElementCount;
          viewer.setState({ view: "overall" });
          viewer.destroy();
          const seen = changes;
          await frame();
          EventTarget.prototype.addEventListener = add;
          return {
            outside, during, seen, late: changes - seen,
            globals: Object.keys(window).length - globals,
            same: before === document.documentElement.outerHTML,
          };
        }"""
    )
    assert left == {"outside": [], "during": 1, "seen": 1, "late": 0, "globals": 0, "same": True}


@pytest.mark.browser
def test_two_on_one_page_are_apart(open_page: Open, data: dict[str, Any]) -> None:
    tab = open_page(host(data, '<div id="a"></div><div id="b"></div>'), height=2400)
    tab.evaluate(
        """() => {
          window.a = mount(document.querySelector("#a"), data);
          window.b = mount(document.querySelector("#b"), data, { state: { view: "overall" } });
          window.seen = [];
          window.stop = b.on("change", (state) => seen.push(state.view));
        }"""
    )
    settle(tab)
    assert tab.evaluate("[a.state.view, b.state.view]") == ["point", "overall"]
    tab.locator("#b").get_by_label("Matches", exact=True).check()
    settle(tab)
    assert tab.evaluate("[a.state.view, b.state.view]") == ["point", "matches"]
    assert tab.locator("#a").get_by_label("Point or region").is_checked()
    assert tab.evaluate("seen") == ["overall", "matches"]
    tab.evaluate("stop(); b.setState({ view: 'point' }); a.destroy()")
    settle(tab)
    assert tab.evaluate("seen.length") == 2
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert tab.locator("#a *").count() == 0
    tab.locator("#b canvas.wa-map").first.hover()
    settle(tab)
    assert tab.evaluate("b.state.mark.side") == "query"


@pytest.mark.browser
def test_matches_without_a_share_say_their_value(open_page: Open, data: dict[str, Any]) -> None:
    """As of two images whose similarity is exactly 0."""
    matches = [{**match, "share": None} for match in data["matches"]]
    tab = open_page(page({**data, "similarity": 0.0, "matches": matches}))
    choose(tab, "Matches")
    said = [number(text) for text in tab.locator(".wa-label text").all_text_contents()]
    values = [match["value"] for match in matches]
    assert sorted(said) == pytest.approx(sorted(values), rel=5e-3)
    buttons = tab.locator(".wa-matches button")
    assert [number(text) for text in buttons.all_inner_texts()] == pytest.approx(values, rel=5e-3)
    assert "%" not in "".join(buttons.all_inner_texts()) + readout(tab)


@pytest.mark.browser
def test_data_of_another_format_are_refused(open_page: Open, data: dict[str, Any]) -> None:
    tab = open_page(host({**data, "format": 2}))
    message = tab.evaluate(
        "() => { try { mount(document.body, data) } catch (error) { return error.message } }"
    )
    assert "format 1; came 2" in message
