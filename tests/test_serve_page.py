"""The room in a real browser: the whole path, on a phone and at a desk, with pictures of it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page

import whyalike as wa
from galleries import from_parts
from pages import settle
from serving import Client, serving

ARTEFACTS = Path(__file__).parent.parent / "test-artefacts" / "serve"
HOSTILE = "<img src=x onerror=alert(1)>&amp;'\".png"
LABEL = "</script><script>alert(2)</script>"
COUNT = 66

Visit = Callable[..., Page]


def model() -> wa.EmbeddingModel:
    """3×5 cells."""
    return from_parts("mean", 8)


def scene(seed: int, size_wh: tuple[int, int] = (150, 100)) -> Image.Image:
    """Blocks of colour; on one third of the pictures the left is the same."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    if seed % 3 == 0:
        blocks[:, :2] = [[230, 40, 30], [30, 60, 220]]
    return Image.fromarray(blocks).resize(size_wh, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of photographs, one of a hostile name, and their gallery."""
    made = tmp_path_factory.mktemp("room")
    with (made / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "year"])
        for seed in range(COUNT):
            name = HOSTILE if seed == 1 else f"scene {seed:02}.png"
            scene(seed).save(made / name)
            table.writerow([name, LABEL if seed == 1 else "abc"[seed % 3], 2000 + seed])
    wa.Gallery.build(model(), made / "table.csv", made / "photos.lance")
    scene(300, (200, 130)).save(made / "mine.png")
    return made


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """Of a server of it."""
    with serving(folder / "photos.lance", model) as made:
        yield made


@pytest.fixture
def visit(browser: Browser, client: Client) -> Iterator[Visit]:
    """Opens the room; afterwards nothing complained, and nobody else was asked."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_(
        path: str = "", *, address: str = client.address, width: int = 1280, height: int = 900,
        expected: str = "^$", **options: Any,
    ) -> Page:  # fmt: skip
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        tab = context.new_page()

        def complain(text: str) -> None:
            if not re.search(expected, text) and "getImageData" not in text:
                complaints.append(text)

        tab.on("console", lambda m: complain(m.text))
        tab.on("pageerror", lambda error: complain(str(error)))
        tab.on("dialog", lambda dialog: complain(f"dialog {dialog.message}"))
        own = (address, "data:", f"blob:{address}")
        tab.on("request", lambda r: None if r.url.startswith(own) else complain(r.url))
        tab.goto(address + path)
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def at_rest(tab: Page) -> None:
    """Waits until all that was asked for is there, maps last."""
    settle(tab)
    tab.locator(":root:not([data-waiting])").wait_for()
    settle(tab)


def ranking(tab: Page, which: str = "hits") -> list[str]:
    """The names of the hits."""
    return tab.locator(f"[data-ranking={which}] .wr-name").all_text_contents()


def draw(tab: Page, *places: tuple[float, float], keys: str | None = None) -> None:
    """Drags over the query, between places as shares of its width and height."""
    box = tab.locator(".ms-surface").bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    if keys:
        tab.keyboard.down(keys)
    tab.mouse.move(*points[0])
    tab.mouse.down()
    for point in points[1:]:
        tab.mouse.move(*point, steps=4)
    tab.mouse.up()
    if keys:
        tab.keyboard.up(keys)
    at_rest(tab)


def hit(tab: Page, index: int, which: str = "hits") -> Locator:
    """A hit."""
    return tab.locator(f"[data-ranking={which}] .wr-hit").nth(index)


ALL = ("gallery", "upload", "region", "pair", "contrast")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "scheme", "checked"),
    [
        (1280, "light", ("gallery", "region", "contrast")),
        (375, "dark", ("region", "pair")),
        *(
            pytest.param(width, scheme, ALL, marks=pytest.mark.slow, id=f"{width}-{scheme}-all")
            for width in (375, 1280)
            for scheme in ("light", "dark")
        ),
    ],
)
def test_the_whole_path(
    visit: Visit, client: Client, folder: Path, width: int, scheme: str, checked: tuple[str, ...]
) -> None:
    tab = visit(width=width, height=900 if width > 500 else 812, color_scheme=scheme,
                bypass_csp=True)  # fmt: skip
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    steps = iter(range(1, 20))

    def shown(name: str) -> None:
        tab.mouse.move(2, 2)
        settle(tab)
        tab.screenshot(path=ARTEFACTS / f"{next(steps)}-{name}-{width}-{scheme}.png")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
        found = Axe().run(tab) if name in checked else None
        assert not (found and found.violations_count), f"{name}: {found.generate_report()}"

    tab.locator(".bs-photo").first.wait_for()
    at_rest(tab)
    assert tab.locator(".bs-photo").count() == 60
    shown("gallery")

    tab.set_input_files(".ws-choose input", folder / "mine.png")
    tab.locator(".wr-hit").first.wait_for()
    at_rest(tab)
    before = ranking(tab)
    assert tab.locator(".ms-figure figcaption span").inner_text() == "mine.png"
    shown("upload")

    draw(tab, (0.05, 0.1), (0.4, 0.9))
    after = ranking(tab)
    assert after != before == ranking(tab, "by_whole")
    gallery = wa.Gallery.open(folder / "photos.lance", model())
    box = [float(x) for x in re.findall(r"box=([\d.,]+)", tab.url)[0].split(",")]
    expected = gallery.search(folder / "mine.png", box, k=20)
    assert after == [Path(one.path).name for one in expected]
    assert hit(tab, 0).locator("canvas.wr-map").count() == 1
    shown("region")

    hit(tab, 0).locator(".wr-open").click()
    tab.locator(".wa-stage").wait_for()
    at_rest(tab)
    number = float(tab.locator(".wa-score strong").inner_text().replace("−", "-"))
    assert number == pytest.approx(expected[0].whole, rel=6e-3)
    assert "This region of the query carries" in tab.locator(".wa-readout").inner_text()
    tab.locator(".wa-clear").click()
    tab.locator("canvas.wa-map").first.hover(position={"x": 30, "y": 30})
    settle(tab)
    assert "This spot of the query carries" in tab.locator(".wa-readout").inner_text()
    shown("pair")

    tab.get_by_role("button", name="Compare with another").click()
    at_rest(tab)
    hit(tab, 4).locator(".wr-open").click()
    tab.locator(".cs-root").wait_for()
    at_rest(tab)
    names = tab.locator(".cs-figure figcaption span").all_inner_texts()
    both = sorted((expected[0], expected[4]), key=lambda one: -one.whole)
    assert names == ["mine.png", *(Path(one.path).name for one in both)]
    contrast = gallery.contrast(*both)
    said = [float(x.replace("−", "-")) for x in re.findall(
        r"difference of ([+−\d.]+)", tab.locator(".wa-lead").last.inner_text())]  # fmt: skip
    assert said == pytest.approx([contrast.difference], rel=6e-3)
    tab.locator(".cs-figure .wa-frame").first.hover()
    assert "This cell of the query speaks" in tab.locator(".cs-readout").inner_text()
    shown("contrast")

    link = tab.url
    tab.reload()
    tab.locator(".cs-root").wait_for()
    assert tab.locator(".cs-figure figcaption span").all_inner_texts() == names
    if width < 500:  # and what another one sees, who is sent the link
        other = visit(link.removeprefix(client.address), width=width)
        other.locator(".cs-root").wait_for()
        assert other.locator(".cs-figure figcaption span").all_inner_texts() == names
    tab.get_by_role("button", name="All results").click()
    at_rest(tab)
    assert ranking(tab) == after


@pytest.mark.browser
def test_points_masks_and_what_is_left_out(visit: Visit, client: Client) -> None:
    tab = visit()
    tab.locator(".bs-photo", has_text="scene 03").click()
    tab.locator(".wr-hit").first.wait_for()
    at_rest(tab)
    asked = tab.locator(".wr-asked")
    assert hit(tab, 0).locator(".wr-moved").inner_text() == "the query itself"
    draw(tab, (0.2, 0.5))
    assert asked.inner_text() == "Searched for: 1 point."
    draw(tab, (0.5, 0.1), (0.9, 0.8), keys="Shift")
    assert asked.inner_text() == "Searched for: 1 box, 1 point."
    draw(tab, (0.6, 0.1), (0.7, 0.8), keys="Alt")
    assert asked.inner_text().startswith("Searched for: 1 box, 1 point, less 1 region")
    added = ranking(tab)
    tab.get_by_role("button", name="Clear").click()
    at_rest(tab)
    assert asked.inner_text() == "Searched for: the whole photograph."
    tab.keyboard.press("p")
    draw(tab, (0.1, 0.2), (0.3, 0.8), (0.3, 0.3))
    assert asked.inner_text() == "Searched for: 1 mask."
    painted, link = ranking(tab), tab.url
    assert len(link) < 1500
    tab.get_by_label("and this").check()
    draw(tab, (0.8, 0.2), (0.8, 0.8))
    assert ranking(tab) != painted
    tab.go_back()
    at_rest(tab)
    assert (tab.url, ranking(tab)) == (link, painted)
    for _ in range(2):
        tab.go_back()
    at_rest(tab)
    assert ranking(tab) == added
    # The server is asked for exactly what is painted.
    mask = re.findall(r"mask=(\d+)x(\d+)\.([\da-z.]+)", link)[0]
    runs = [int(run, 36) for run in mask[2].split(".")]
    photo = re.findall(r"photo=([0-9a-f]{32})", link)[0]
    body = {"query": {"photo": photo},
            "masks": [{"size_wh": [int(mask[0]), int(mask[1])], "runs": runs}]}  # fmt: skip
    found = client.ask("/api/search", body).json()
    assert painted == [found["photos"][one["photo"]]["name"] for one in found["hits"]]


DROP = """
async (bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
  for (const type of ["dragover", "drop"]) {
    window.dispatchEvent(new DragEvent(type, { dataTransfer: data, cancelable: true }));
  }
}
"""


@pytest.mark.browser
def test_a_photograph_is_dropped_and_the_ranking_follows_the_mouse(
    visit: Visit, folder: Path
) -> None:
    tab = visit()
    tab.locator(".bs-photo").first.wait_for()
    tab.evaluate(DROP, list((folder / "mine.png").read_bytes()))
    tab.locator(".wr-hit").first.wait_for()
    at_rest(tab)
    assert tab.locator(".ms-figure figcaption span").inner_text() == "dropped.png"
    whole, link = ranking(tab), tab.url
    box = tab.locator(".ms-surface").bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + 5, box["y"] + 5)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 80, box["y"] + 120, steps=5)
    at_rest(tab)
    moving = ranking(tab)
    assert moving != whole == ranking(tab, "by_whole")
    assert tab.url == link  # what is not done yet is no step to go back to
    tab.mouse.up()
    at_rest(tab)
    assert "box=" in tab.url
    assert ranking(tab) == moving


@pytest.mark.browser
def test_keys_do_all_that_the_mouse_does(visit: Visit) -> None:
    tab = visit()
    tab.locator(".bs-photo").first.wait_for()
    tab.locator(".bs-photo").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    tab.locator(".wr-hit").first.wait_for()
    tab.locator(".ms-surface").focus()
    tab.keyboard.press("ArrowLeft")
    at_rest(tab)
    assert "point=75,50" in tab.url  # the middle of 3×5 cells on 150×100 pixels
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Shift+ArrowUp")
    at_rest(tab)
    assert "box=30,0,60,66.7" in tab.url
    hit(tab, 1).locator(".wr-open").focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("c")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    tab.locator(".cs-root").wait_for()
    tab.keyboard.press("Escape")
    at_rest(tab)
    assert not tab.locator(".cs-root").is_visible()
    hit(tab, 2).locator(".wr-open").press("Enter")
    tab.locator(".wa-stage").wait_for()
    tab.locator(".wr-back").focus()
    tab.keyboard.press("ArrowRight")
    at_rest(tab)
    assert tab.locator(".wr-where").inner_text() == "4 of 20 with the region"
    tab.keyboard.press("Escape")
    at_rest(tab)
    tab.keyboard.press("Escape")  # what is marked is let go
    at_rest(tab)
    assert "box=" not in tab.url
    tab.keyboard.press("/")
    tab.keyboard.type("year > 2060")
    tab.keyboard.press("Enter")
    at_rest(tab)
    assert len(ranking(tab)) == 5
    tab.keyboard.press("Escape")
    tab.keyboard.press("Escape")
    tab.locator(".bs-photo").first.wait_for()
    at_rest(tab)
    assert tab.locator(".bs-photo").count() == 5


@pytest.mark.browser
def test_the_gallery_is_paged_and_filtered(visit: Visit) -> None:
    tab = visit(expected="Failed to load resource")
    tab.locator(".bs-photo").first.wait_for()
    tab.get_by_role("button", name="Next page").click()
    at_rest(tab)
    assert tab.locator(".bs-photo").count() == COUNT - 60
    assert tab.url.endswith("#from=60")
    tab.locator(".ws-filter input").fill("label =")
    tab.locator(".ws-filter button").click()
    alert = tab.locator(".ws-alert")
    alert.wait_for()
    assert "is no condition on the columns path, label, year" in alert.inner_text()
    tab.locator(".ws-filter input").fill("label = 'a' and year > 2030")
    tab.locator(".ws-filter button").click()
    alert.wait_for(state="hidden")
    assert (
        tab.locator(".bs-count").inner_text() == "11 photographs where label = 'a' and year > 2030"
    )
    tab.locator(".ws-filter input").fill("year > 3000")
    tab.locator(".ws-filter button").click()
    tab.locator(".bs-none").wait_for()
    tab.go_back()
    at_rest(tab)
    assert tab.locator(".bs-photo").count() == 11


@pytest.mark.browser
def test_names_and_metadata_of_strangers_are_text(visit: Visit, folder: Path) -> None:
    tab = visit()
    tab.locator(".bs-photo").nth(1).wait_for()
    assert tab.locator(".bs-name").nth(1).text_content() == HOSTILE
    assert tab.locator(".bs-label").nth(1).text_content() == LABEL
    tab.locator(".bs-photo").nth(1).click()
    hit(tab, 1).wait_for()
    at_rest(tab)
    assert ranking(tab)[0] == HOSTILE
    hit(tab, 0).locator(".wr-open").click()
    tab.locator(".wa-stage").wait_for()
    assert tab.locator(".wa-name span").first.text_content() == HOSTILE
    tab.get_by_role("button", name="Compare with another").click()
    hit(tab, 3).locator(".wr-open").click()
    tab.locator(".cs-root").wait_for()
    payload = {"name": "<img src=x onerror=alert(4)>", "mimeType": "image/png",
               "buffer": (folder / "mine.png").read_bytes()}  # fmt: skip
    tab.set_input_files(".ws-choose input", payload)
    tab.locator(".ms-figure").wait_for()
    at_rest(tab)
    assert tab.locator(".ms-figure figcaption span").text_content() == payload["name"]
    assert tab.locator("[onerror]").count() == 0
    assert tab.locator("script").count() == 1


@pytest.mark.browser
def test_pages_and_json_are_saved(visit: Visit, client: Client, tmp_path: Path) -> None:
    tab = visit()
    tab.locator(".bs-photo", has_text="scene 06").click()
    tab.locator(".wr-hit").first.wait_for()
    draw(tab, (0.1, 0.1), (0.5, 0.9))
    found = ranking(tab)
    saved = {}
    for name in ("Save page", "Save JSON"):
        with tab.expect_download() as waiting:
            tab.get_by_role("button", name=name).first.click()
        saved[name] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(saved[name])
    told = json.loads(saved["Save JSON"].read_text())["found"]
    assert [told["photos"][one["photo"]]["name"] for one in told["hits"]] == found
    hit(tab, 2).locator(".wr-open").click()
    tab.locator(".wa-stage").wait_for()
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Save page").last.click()
    waiting.value.save_as(tmp_path / "pair.html")
    page = tab.context.new_page()
    page.goto(saved["Save page"].as_uri())
    assert page.locator("[data-ranking=hits] .wr-name").all_text_contents() == found
    page.goto((tmp_path / "pair.html").as_uri())
    assert page.locator(".wa-name span").all_text_contents() == ["scene 06.png", found[2]]


@pytest.mark.browser
def test_what_is_gone_is_said(browser: Browser, visit: Visit, tmp_path: Path) -> None:
    for seed in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        scene(seed).save(tmp_path / "photos" / f"{seed}.png")
    wa.Gallery.build(model(), tmp_path / "photos", tmp_path / "g.lance")
    (tmp_path / "photos" / "2.png").unlink()
    with serving(tmp_path / "g.lance", model) as client:
        tab = visit(address=client.address, expected=r"Failed to load resource|ERR_")
        gone = tab.locator(".bs-grid li", has_text="2.png")
        gone.wait_for()
        assert "ws-missing" in (gone.get_attribute("class") or "")
        gone.locator("button").click()
        tab.locator(".wr-hit").first.wait_for()
        at_rest(tab)
        assert tab.locator(".ms-gone").is_visible()
        itself = tab.locator(".wr-hit", has_text="2.png").first
        assert "ws-missing" in (itself.get_attribute("class") or "")
        assert len(ranking(tab)) == 4  # what was kept of it is searched by all the same
        old = f"#upload={'0' * 32}"
        late = visit(old, address=client.address, expected="Failed to load resource")
        late.locator(".ws-alert", has_text="no longer held in memory; drop it again").wait_for()
        port = client.port
    draw_at = tab.locator(".ms-surface")
    draw_at.click()
    alert = tab.locator(".ws-alert", has_text="The server cannot be reached")
    alert.wait_for()
    with serving(tmp_path / "g.lance", model, port=port):
        alert.wait_for(state="hidden")
        at_rest(tab)
        assert tab.locator(".wr-asked").inner_text() == "Searched for: 1 point."
        assert len(ranking(tab)) == 4


@pytest.mark.browser
def test_a_photograph_that_cannot_be_read_is_said(visit: Visit) -> None:
    tab = visit(expected="Failed to load resource")
    payload = {"name": "note.txt", "mimeType": "image/png", "buffer": b"no picture"}
    tab.set_input_files(".ws-choose input", payload)
    tab.locator(".ws-alert", has_text="not an image").wait_for()
    tab.locator(".bs-photo").first.click()
    tab.locator(".wr-hit").first.wait_for()
    assert not tab.locator(".ws-alert").is_visible()
