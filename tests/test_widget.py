"""Pairs and rankings in a notebook: the widget's Python, its module in a browser, and both ways."""

from __future__ import annotations

import base64
import builtins
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import IPython
import numpy as np
import pytest
import traitlets
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

import whyalike as wa
from galleries import HEADS, photographs, picture
from pages import Open, keep, settle
from whyalike.errors import RegionError, ViewError
from whyalike.ranking import Ranking
from whyalike.viewer.widget import PairView, RankingView, module

BOX = (5.0, 3.0, 25.0, 20.0)


@pytest.fixture(scope="module")
def model() -> wa.EmbeddingModel:
    return HEADS["mean"]()


@pytest.fixture(scope="module")
def pair(model: wa.EmbeddingModel) -> wa.Pair:
    return wa.explain_pair(model, picture(1), picture(2, (60, 40)))


@pytest.fixture
def view(pair: wa.Pair) -> PairView:
    return pair.view()


@pytest.fixture(scope="module")
def gallery(model: wa.EmbeddingModel, tmp_path_factory: pytest.TempPathFactory) -> wa.Gallery:
    folder = tmp_path_factory.mktemp("gallery")
    photographs(folder / "photos", 6)
    return wa.Gallery.build(model, folder / "photos", folder / "g.lance")


# ── In Python ────────────────────────────────────────────────────────────────────────────────


def test_a_region_moves_the_picture_and_gives_its_map(view: PairView, pair: wa.Pair) -> None:
    view.region = [5, 3, 25, 20]
    assert view._state["mark"] == {"side": "query", "xyxy": [5, 3, 25, 20]}
    assert view._state["pinned"]
    assert (view.region, view.point) == (BOX, None)
    assert np.array_equal(view.map(), pair.region_map(query_xyxy=BOX))
    view.point = (9, 8)
    assert view._state["mark"] == {"side": "query", "xy": [9, 8]}
    assert (view.region, view.point) == (None, (9.0, 8.0))
    assert np.array_equal(view.map(), pair.point_map(query_xy=(9, 8)))
    view.mark(region=BOX, side="reference")
    assert (view.region, view.side) == (BOX, "reference")
    assert np.array_equal(view.map(), pair.region_map(reference_xyxy=BOX))
    view.region = None
    assert (view.region, view._state["mark"], view._state["pinned"]) == (None, None, False)
    assert np.array_equal(view.map(), pair.overall_map("reference"))


def test_what_the_picture_says_is_told_once_and_together(view: PairView) -> None:
    told: list[Any] = []
    view.observe(lambda change: told.append((change.name, view.region, view.side)), "region")
    before = view._state
    there = {**before, "mark": {"side": "reference", "xyxy": list(BOX)}, "pinned": True}
    view.set_state({"_state": there})  # as a message of the front end
    assert told == [("region", BOX, "reference")]
    assert view._state == there  # nothing is sent back


@pytest.mark.parametrize(
    "mark",
    [
        {"side": "nowhere", "xy": [1, 2]},
        {"side": "query", "xy": [1, None]},
        {"side": "query", "xyxy": [9, 9, 1, 1]},
        {"side": "query", "xyxy": "<b>"},
    ],
)
def test_a_mark_that_is_none_is_refused(view: PairView, mark: dict[str, Any]) -> None:
    with pytest.raises(RegionError):
        view._marked_there(SimpleNamespace(new={"mark": mark}))
    assert (view.point, view.region, view.side) == (None, None, "query")


def test_what_lies_off_the_photograph_is_refused(view: PairView) -> None:
    with pytest.raises(RegionError, match="lies outside"):
        view.mark(point=(500, 3))
    with pytest.raises(RegionError, match="lies outside"):
        view.region = (500, 0, 600, 10)
    assert (view.point, view.region) == (None, None)
    with pytest.raises(RegionError, match="came both"):
        view.mark(point=(5, 3), region=BOX)
    assert view._state == {}


def test_a_ranking_has_its_region_and_its_pairs(gallery: wa.Gallery) -> None:
    hits = gallery.search(picture(77), BOX, k=4)
    assert isinstance(hits, Ranking)
    view = hits.view()
    assert (view.region, view.side, view.opened) == (BOX, "query", None)
    assert len(view._data["by_whole"]) == 4
    view.opened = 3
    expected = gallery.explain(hits[2])
    assert view._pair().similarity == expected.similarity
    assert np.array_equal(view.map(), expected.region_map(query_xyxy=BOX))
    for rank in (0, 5):
        with pytest.raises(traitlets.TraitError, match="from 1 to 4"):
            view.opened = rank


def test_pairs_without_a_gallery_are_a_ranking_too(
    model: wa.EmbeddingModel, tmp_path: Path
) -> None:
    paths = photographs(tmp_path, 3)
    found = wa.explain_ranking(model, picture(0), [*paths, tmp_path / "none.png"], strict=False)
    data = found.view()._data  # type: ignore[attr-defined]
    scores = [hit["score"] for hit in data["hits"]]
    assert scores == sorted((p.similarity for p in found[:3]), reverse=True)  # type: ignore[union-attr]
    best = max(found[:3], key=lambda p: p.similarity)  # type: ignore[union-attr]
    assert found.view()._pair() is best  # type: ignore[attr-defined]
    assert data["photos"][0]["name"] == best.reference.name  # type: ignore[union-attr]
    with pytest.raises(ViewError, match="could be read"):
        Ranking(found[3:]).view()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook."""
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))


@pytest.fixture
def no_anywidget(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "anywidget":
            raise ImportError("no", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "whyalike.viewer.widget", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


WIDGET = "application/vnd.jupyter.widget-view+json"
JPEG = "/9j/"


@pytest.mark.usefixtures("kernel")
def test_a_cell_shows_a_widget_and_a_figure(pair: wa.Pair, gallery: wa.Gallery) -> None:
    ranked = [gallery.search(picture(77), BOX, k=2), Ranking([pair])]
    for shown in (pair, *ranked):
        found = shown._repr_mimebundle_()
        assert set(found) == {"text/plain", "image/jpeg", WIDGET}
        assert found["image/jpeg"].startswith(JPEG)
    assert pair._repr_mimebundle_()["text/plain"] == repr(pair)
    assert ranked[0]._repr_mimebundle_()["text/plain"].startswith("Ranking of 2: 00")
    assert Ranking([])._repr_mimebundle_() == {}


@pytest.mark.usefixtures("kernel")
def test_a_gallery_without_maps_shows_its_ranking(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 3)
    made = wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance", maps="none")
    hits = made.search(picture(77), BOX, k=3)
    found = hits._repr_mimebundle_()
    assert set(found) == {"text/plain", WIDGET}
    assert "keeps no maps" in found["text/plain"]
    assert hits.view().region == BOX


@pytest.mark.usefixtures("kernel", "no_anywidget")
def test_without_anywidget_a_figure(pair: wa.Pair, gallery: wa.Gallery) -> None:
    for shown in (pair, gallery.search(picture(77), k=2)):
        found = shown._repr_mimebundle_()
        assert set(found) == {"text/plain", "image/jpeg"}
        assert "whyalike[notebook]" in found["text/plain"]
    with pytest.raises(ViewError, match=r"needs the package 'anywidget'"):
        pair.view()


def test_outside_of_a_notebook_nothing_is_drawn(pair: wa.Pair) -> None:
    assert pair._repr_mimebundle_() == {}


# ── In the browser ───────────────────────────────────────────────────────────────────────────

# anywidget's side of a notebook: traits, and word of changes to whoever asked. `kernel` is what
# Python would have; what Python sends comes through `receive`.
NOTEBOOK = """
  class Model {
    constructor(traits) { this.traits = { ...traits }; this.kernel = { ...traits };
      this.listeners = {}; this.dirty = new Set(); this.saves = 0; }
    get(name) { return this.traits[name]; }
    set(name, value) { this.traits[name] = value; this.dirty.add(name); this.emit(name); }
    save_changes() { this.saves++;
      for (const name of this.dirty) this.kernel[name] = this.traits[name]; this.dirty.clear(); }
    on(event, listener) { (this.listeners[event] ??= new Set()).add(listener); }
    off(event, listener) { this.listeners[event]?.delete(listener); }
    emit(name) { for (const listener of this.listeners["change:" + name] ?? []) listener(); }
    receive(name, value) { this.traits[name] = value; this.kernel[name] = value; this.emit(name); }
  }
"""


def notebook(view: Any, cells: int = 1, theme: str = "") -> str:
    """A page that shows a widget as a notebook does, in one or more cells."""
    traits = {name: getattr(view, name) for name in view.keys if name in KEPT}
    text = json.dumps(traits).replace("<", "\\u003c")
    outputs = '<div class="cell"></div>' * cells
    source = base64.b64encode(view._esm.encode()).decode()
    return (
        f"<!doctype html><html lang=en><title>notebook</title><style>body {{ margin: 0 }} "
        f"{view._css}</style><body {theme}><main><h1>A notebook</h1>{outputs}</main>"
        f"<script type=module>{NOTEBOOK}"
        f"const {{ default: widget }} = await import('data:text/javascript;base64,{source}');"
        f"window.model = new Model({text});"
        f"window.closers = [...document.querySelectorAll('.cell')].map("
        f"(el) => widget.render({{ model, el }}));</script>"
    )


KEPT = {"_data", "_state", "opened"}


@pytest.fixture
def open_notebook(open_page: Open) -> Open:
    def open_(view: Any, cells: int = 1, theme: str = "", **options: Any) -> Page:
        tab = open_page(notebook(view, cells, theme), **options)
        tab.wait_for_selector(".wa-map, .wr-root")
        settle(tab)
        return tab

    return open_


def kept(tab: Page, name: str) -> Any:
    """What Python has of a trait, once the picture has rested."""
    tab.wait_for_timeout(150)
    return tab.evaluate(f"model.kernel.{name}")


def give(tab: Page, name: str, value: Any) -> None:
    """Python sets a trait."""
    tab.evaluate("([name, value]) => model.receive(name, value)", [name, value])
    settle(tab)


@pytest.mark.browser
def test_a_point_and_a_region_reach_python(open_notebook: Open, view: PairView) -> None:
    tab = open_notebook(view)
    box = tab.locator("canvas.wa-map").first.bounding_box()
    assert box is not None
    x, y, scale = box["x"], box["y"], box["width"] / 50
    tab.mouse.move(x + 10 * scale, y + 10 * scale)
    assert kept(tab, "_state") == {}  # only passing
    tab.mouse.down()
    tab.mouse.up()
    view.set_state({"_state": kept(tab, "_state")})
    assert view.point == pytest.approx((10, 10), abs=0.2)
    tab.mouse.move(x + 5 * scale, y + 3 * scale)
    tab.mouse.down()
    tab.mouse.move(x + 25 * scale, y + 20 * scale, steps=5)
    tab.mouse.up()
    view.set_state({"_state": kept(tab, "_state")})
    assert view.region == pytest.approx(BOX, abs=0.2)
    assert view.point is None
    tab.keyboard.press("Escape")
    tab.locator("canvas.wa-map").first.press("Escape")
    view.set_state({"_state": kept(tab, "_state")})
    assert view.region is None


@pytest.mark.browser
def test_python_moves_the_picture_in_every_cell(open_notebook: Open, view: PairView) -> None:
    tab = open_notebook(view, cells=2, height=2400)
    view.region = BOX
    give(tab, "_state", view._state)
    assert tab.locator("rect.wa-pinned").count() == 2
    assert tab.evaluate("model.saves") == 0  # no echo
    said = tab.locator(".wa-readout").all_inner_texts()
    assert said[0] == said[1]
    assert said[0].startswith("This region of the query carries")
    tab.locator(".cell").nth(1).get_by_label("Matches", exact=True).check()
    tab.wait_for_timeout(150)
    settle(tab)
    assert tab.locator(".cell").nth(0).get_by_label("Matches", exact=True).is_checked()
    tab.evaluate("closers.forEach((close) => close())")
    assert tab.locator(".cell *").count() == 0
    assert tab.evaluate("Object.values(model.listeners).every((set) => set.size === 0)")


@pytest.mark.browser
def test_a_region_that_is_set_first_is_there_at_once(open_notebook: Open, view: PairView) -> None:
    view.mark(region=BOX, side="reference")
    tab = open_notebook(view)
    assert tab.locator("rect.wa-pinned").count() == 1
    assert "of the reference carries" in tab.locator(".wa-readout").inner_text()


@pytest.mark.browser
def test_a_ranking_opens_from_both_sides(open_notebook: Open, gallery: wa.Gallery) -> None:
    view = gallery.search(picture(77), BOX, k=4).view()
    tab = open_notebook(view)
    assert tab.locator(".wr-hit").count() == 8
    tab.locator("[data-ranking=hits] .wr-words").nth(1).click()
    settle(tab)
    assert kept(tab, "opened") == 2
    assert tab.locator(".wr-viewer rect.wa-pinned").count() == 1
    tab.locator(".wr-viewer canvas.wa-map").nth(1).click(position={"x": 30, "y": 30})
    view.set_state({"_state": kept(tab, "_state"), "opened": 2})
    assert (view.side, view.region) == ("reference", None)
    assert view.point is not None
    give(tab, "opened", 4)
    name = view._data["photos"][view._data["hits"][3]["photo"]]["name"]
    assert tab.locator(".wa-name span").nth(1).inner_text() == name
    assert tab.locator(".wr-viewer circle.wa-pinned").count() == 1  # the mark stays
    tab.get_by_role("button", name="All results").click()
    assert kept(tab, "opened") is None
    tab.evaluate("closers.forEach((close) => close())")
    assert tab.locator(".cell *").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1000, "light")])
def test_axe_finds_nothing(
    open_notebook: Open, gallery: wa.Gallery, view: PairView, width: int, scheme: str
) -> None:
    # The notebook's theme, not the system's, is followed.
    theme = f'data-jp-theme-light="{str(scheme == "light").lower()}"'
    view.region = BOX
    ranking = gallery.search(picture(77), BOX, k=3).view()
    for name, shown in (("pair", view), ("ranking", ranking)):
        tab = open_notebook(shown, theme=theme, width=width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        if (name == "pair") == (width == 375):  # once each: the pages' own tests look at the rest
            found = Axe().run(tab)
            assert found.violations_count == 0, found.generate_report()
        back = tab.locator(".wa-root").first.evaluate("e => getComputedStyle(e).backgroundColor")
        assert ("rgb(22" in back) == (scheme == "dark")
        keep(tab, f"notebook-{name}-{width}-{scheme}")


def test_the_module_asks_for_nothing() -> None:
    assert "./viewer.js" not in module().replace('import("./viewer.js")', "")
    assert module().count("export default") == 1
    assert RankingView._esm == PairView._esm == module()
