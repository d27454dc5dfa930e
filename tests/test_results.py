"""The page of results, in a real browser, of a gallery whose scores are computed here once more."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

import whyalike as wa
from galleries import HEADS, photographs, picture, trunk
from pages import Open, settle
from whyalike.errors import GalleryError, OutputFileError
from whyalike.save import save_results
from whyalike.viewer import results
from whyalike.viewer.results import page, results_data

BOX = (5.0, 3.0, 25.0, 20.0)
K = 6


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> wa.Gallery:
    """Twelve photographs."""
    folder = tmp_path_factory.mktemp("results")
    photographs(folder / "photos", 12)
    picture(77).save(folder / "query.png")
    return wa.Gallery.build(HEADS["mean"](), folder / "photos", folder / "photos.lance")


@pytest.fixture(scope="module")
def asked(gallery: wa.Gallery) -> Any:
    """A box of a photograph that the gallery does not have."""
    return gallery.ask(picture(77), region=BOX)


@pytest.fixture(scope="module")
def data(gallery: wa.Gallery, asked: Any) -> dict[str, Any]:
    """What the page shows of both rankings."""
    return results_data(
        gallery, gallery.search(asked, k=K), gallery.search(asked.contributions, k=K)
    )


@pytest.fixture
def tab(open_page: Open, data: dict[str, Any]) -> Page:
    """The page."""
    return open_page(page(data), width=1280)


def row(tab: Page, ranking: str, index: int) -> Locator:
    """A hit of "hits" or "by_whole"."""
    return tab.locator(f"[data-ranking={ranking}] .wr-hit").nth(index)


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64)


def test_scores_maps_and_ranks_are_those_of_the_pairs(
    gallery: wa.Gallery, data: dict[str, Any], asked: Any
) -> None:
    """Each once more, with the network, from the photograph itself."""
    assert gallery.model is not None
    paths = [photo["path"] for photo in data["photos"]]
    assert len(set(paths)) == len(paths) < 2 * K
    scores = {}
    for hit in gallery.search(asked, k=12):
        pair = wa.explain_pair(gallery.model, picture(77), hit.file)
        region = pair.region_map(query_xyxy=BOX)
        u = pair.query.within(BOX) / pair.query.length
        bias = float(u @ pair.reference.rest) / pair.reference.length
        scores[hit.path] = float(region.sum()) + bias, pair, region
    whole = sorted(scores, key=lambda path: -scores[path][1].similarity)
    best = sorted(scores, key=lambda path: -scores[path][0])
    assert [paths[hit["photo"]] for hit in data["hits"]] == best[:K]
    assert [paths[hit["photo"]] for hit in data["by_whole"]] == whole[:K]
    for hit in data["hits"]:
        score, pair, region = scores[paths[hit["photo"]]]
        photo = data["photos"][hit["photo"]]
        assert hit["score"] == pytest.approx(score, abs=1e-5)
        assert hit["similarity"] == pytest.approx(pair.similarity, abs=1e-5)
        assert hit["other"] == 1 + whole.index(photo["path"])
        assert floats(photo["map"]["values"]) == pytest.approx(
            region.flatten().double().numpy(), abs=1e-5
        )
        assert sum(photo["pair"]["terms"].values()) == pytest.approx(pair.similarity, abs=1e-5)
    for hit in data["by_whole"]:
        path = paths[hit["photo"]]
        assert hit["other"] == (1 + best.index(path) if path in best[:K] else None)


def test_the_page_stands_alone_and_is_small(data: dict[str, Any]) -> None:
    text = page(data)
    policy = html.unescape(re.findall(r'Security-Policy" content="([^"]+)"', text)[0])
    for tag in ("style", 'script type="module"'):
        block = text.split(f"<{tag}>")[1].split(f"</{tag.split()[0]}>")[0]
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    remote = (
        r"<(?:link|iframe|base)\b|(?<!\{)\bimport\(|^import |\bfetch\(|url\("  # {import(: types
    )
    assert re.findall(remote, text, re.MULTILINE) == []
    for photo in data["photos"]:
        assert len(json.dumps(photo)) < 60_000
        assert photo["pair"]["query"]["src"] == photo["pair"]["reference"]["src"] == ""


def test_links_of_a_fine_grid_are_summed_and_its_map_is_not(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 3)
    fine = wa.EmbeddingModel(trunk().eval(), "mean", None, wa.Preprocess(size=(48, 64)))
    made = wa.Gallery.build(fine, tmp_path / "photos", tmp_path / "g.lance")
    hits = made.search(picture(77), BOX, k=3)
    for hit, photo in zip(hits, results_data(made, hits)["photos"], strict=True):
        assert photo["map"]["grid_hw"] == [12, 16]
        assert (
            photo["pair"]["query"]["grid_hw"] == photo["pair"]["reference"]["grid_hw"] == [10, 10]
        )
        assert photo["pair"]["similarity"] == pytest.approx(hit.whole, abs=1e-5)
        overall = floats(photo["pair"]["query"]["overall"]).sum()
        assert overall == pytest.approx(made.explain(hit).terms.pairs, abs=1e-5)


def test_what_cannot_be_written_is_said(gallery: wa.Gallery, asked: Any, tmp_path: Path) -> None:
    hits = gallery.search(asked, k=2)
    with pytest.raises(OutputFileError, match=r"one of \.html"):
        save_results(gallery, hits, tmp_path / "results.png")
    with pytest.raises(GalleryError, match="found none"):
        save_results(gallery, [], tmp_path / "results.html")
    assert list(tmp_path.iterdir()) == []


# ── In the browser ───────────────────────────────────────────────────────────────────────────


@pytest.mark.browser
def test_both_rankings_say_rank_score_share_and_where_it_was(
    tab: Page, data: dict[str, Any]
) -> None:
    for ranking in ("hits", "by_whole"):
        assert tab.locator(f"[data-ranking={ranking}] .wr-hit").count() == K
        for index, hit in enumerate(data[ranking]):
            said = row(tab, ranking, index)
            photo = data["photos"][hit["photo"]]
            assert said.locator(".wr-rank").inner_text() == str(hit["rank"]) == str(index + 1)
            assert said.locator(".wr-name").inner_text() == photo["name"]
            assert f"label\n{photo['fields'][0][1]}" in said.locator(".wr-fields").inner_text()
            score = float(said.locator(".wr-score b").inner_text().replace("−", "-"))
            assert score == pytest.approx(hit["score"], rel=6e-3)
            moved = said.locator(".wr-moved").inner_text()
            if hit["other"] is None:
                assert moved == f"beyond {K}th with the region"
            else:
                assert int(re.findall(r"\d+", moved)[0]) == hit["other"]
            if ranking == "hits":
                share = re.findall(r"([−\d.]+) %", said.locator(".wr-score span").inner_text())[0]
                expected = 100 * hit["score"] / hit["similarity"]
                assert float(share.replace("−", "-")) == pytest.approx(expected, abs=0.51)
    marks = tab.locator(".wr-marks rect.wa-mark")
    assert [float(marks.get_attribute(name) or "") for name in ("x", "y", "width", "height")] == [
        5, 3, 20, 17,
    ]  # fmt: skip


@pytest.mark.browser
def test_the_same_photograph_is_lit_on_both_sides(tab: Page, data: dict[str, Any]) -> None:
    index = next(i for i, hit in enumerate(data["by_whole"]) if hit["other"])
    row(tab, "by_whole", index).hover()
    settle(tab)
    lit = tab.locator(".wr-tied[data-photo]")
    assert {one.get_attribute("data-photo") for one in lit.all()} == {
        str(data["by_whole"][index]["photo"])
    }
    assert lit.count() == 3  # both rows, and the line between them
    shared = {h["photo"] for h in data["hits"]} & {h["photo"] for h in data["by_whole"]}
    assert tab.locator(".wr-ties path").count() == len(shared)
    tab.mouse.move(2, 2)
    settle(tab)
    assert lit.count() == 0


@pytest.mark.browser
def test_maps_lie_where_the_network_looked_and_can_be_turned_off(
    tab: Page, data: dict[str, Any]
) -> None:
    canvas = row(tab, "hits", 0).locator("canvas")
    values = floats(data["photos"][data["hits"][0]["photo"]]["map"]["values"]).reshape(3, 5)
    i, j = np.unravel_index(np.abs(values).argmax(), values.shape)
    rgba = canvas.evaluate(
        """(canvas, [y, x]) => [...canvas.getContext("2d")
        .getImageData(Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data]""",
        [(int(i) + 0.5) / 3, (int(j) + 0.5) / 5],
    )
    assert rgba[3] > 20
    assert (rgba[0] > rgba[2]) == (values[i, j] > 0)
    tab.get_by_label("Heat maps").uncheck()
    assert not canvas.is_visible()
    row(tab, "hits", 0).locator(".wr-open").focus()
    tab.keyboard.press("h")
    assert canvas.is_visible()


@pytest.mark.browser
def test_a_click_opens_the_pair_with_the_region_marked(tab: Page, data: dict[str, Any]) -> None:
    row(tab, "hits", 1).locator(".wr-words").click()
    settle(tab)
    assert not tab.locator(".wr-root").is_visible()
    hit = data["hits"][1]
    photo = data["photos"][hit["photo"]]
    assert tab.locator(".wa-name span").all_inner_texts() == ["image", photo["name"]]
    number = float(tab.locator(".wa-score strong").inner_text().replace("−", "-"))
    assert number == pytest.approx(hit["similarity"], rel=6e-3)
    pictures = tab.locator(".wr-viewer img")
    assert [one.get_attribute("src") for one in pictures.all()] == [
        data["query"]["src"], photo["src"],
    ]  # fmt: skip
    assert tab.locator(".wr-viewer rect.wa-pinned").count() == 1
    assert "This region of the query carries" in tab.locator(".wa-readout").inner_text()
    tab.get_by_role("button", name="Next hit").click()
    settle(tab)
    following = data["photos"][data["hits"][2]["photo"]]["name"]
    assert tab.locator(".wa-name span").nth(1).inner_text() == following
    assert tab.url.endswith("#hits-3")
    tab.go_back()
    settle(tab)
    assert tab.locator(".wa-name span").nth(1).inner_text() == photo["name"]
    tab.get_by_role("button", name="All results").click()
    settle(tab)
    assert tab.locator(".wr-root").is_visible()
    assert tab.locator(".wr-viewer *").count() == 0


@pytest.mark.browser
def test_keys_do_all_that_the_mouse_does(tab: Page, data: dict[str, Any]) -> None:
    def focused() -> str:
        return tab.evaluate(
            """() => { const hit = document.activeElement.closest(".wr-hit");
            return `${hit.closest(".wr-ranking").dataset.ranking} ${hit.dataset.index}` }"""
        )

    row(tab, "hits", 0).locator(".wr-open").focus()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowUp")
    assert focused() == "hits 1"
    photo = data["hits"][1]["photo"]
    same = [i for i, hit in enumerate(data["by_whole"]) if hit["photo"] == photo]
    tab.keyboard.press("ArrowRight")
    assert focused() == f"by_whole {same[0] if same else 1}"
    here = focused()
    tab.keyboard.press("ArrowRight")  # there is nothing further right
    assert focused() == here
    tab.keyboard.press("Enter")
    settle(tab)
    assert tab.locator(".wr-viewer .wa-root").is_visible()
    tab.keyboard.press("ArrowRight")
    settle(tab)
    tab.keyboard.press("ArrowLeft")
    settle(tab)
    tab.locator(".wr-viewer canvas.wa-map").first.focus()
    tab.keyboard.press("Escape")  # lets the region go
    settle(tab)
    assert tab.locator(".wr-viewer").is_visible()
    tab.keyboard.press("Escape")
    settle(tab)
    assert focused() == here


@pytest.mark.browser
def test_of_a_long_ranking_the_first_pairs_can_be_opened(
    open_page: Open, gallery: wa.Gallery, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PAIRS", 2)
    tab = open_page(page(results_data(gallery, gallery.search(asked, k=5))))
    lead = tab.locator(".wr-lead").inner_text()
    assert "(the first 2 can be)" in lead
    assert "Right:" not in lead
    assert tab.locator(".wr-open").count() == 2
    assert tab.locator(".wr-hit canvas").count() == 5
    row(tab, "hits", 3).click()
    settle(tab)
    assert tab.locator(".wr-root").is_visible()
    row(tab, "hits", 1).locator(".wr-open").focus()
    tab.keyboard.press("ArrowDown")  # where nothing opens, nothing is focused
    tab.keyboard.press("Enter")
    settle(tab)
    tab.get_by_role("button", name="Next hit").click()
    settle(tab)
    assert tab.url.endswith("#hits-1")


@pytest.mark.browser
def test_a_search_by_the_whole_photograph_has_one_ranking(
    open_page: Open, gallery: wa.Gallery, data: dict[str, Any]
) -> None:
    tab = open_page(page(results_data(gallery, gallery.search(picture(77), k=3))))
    assert tab.locator(".wr-hit").count() == 3
    assert not tab.locator("[data-ranking=by_whole]").is_visible()
    assert "%" not in tab.locator(".wr-rankings").inner_text()
    assert "the whole photograph" in tab.locator(".wr-asked").inner_text()
    row(tab, "hits", 2).locator(".wr-open").press("Enter")
    settle(tab)
    assert tab.get_by_label("Overall", exact=True).is_checked()


@pytest.mark.browser
def test_points_masks_weights_and_what_is_left_out_are_drawn(
    open_page: Open, gallery: wa.Gallery
) -> None:
    mask = np.zeros((30, 50))
    mask[:, :25] = 1
    asked = gallery.ask(
        picture(77), BOX, points=(40, 10), mask=mask, without=(0, 20, 50, 30), weights=(1, 0.5, 2)
    )
    tab = open_page(page(results_data(gallery, gallery.search(asked, k=3))))
    assert "1 box, 1 point, 1 mask, weighted +1, +0.5, +2, less 1 region" in tab.locator(
        ".wr-asked"
    ).inner_text().replace(".00", "").replace("0.50", "0.5")
    assert tab.locator(".wr-marks .wr-without").count() == 1
    assert tab.locator(".wr-marks circle.wa-mark").count() == 1
    assert tab.locator(".wr-marks image").count() == 1


@pytest.mark.browser
def test_a_gallery_without_maps_says_so(open_page: Open, tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 4)
    made = wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance", maps="none")
    hits = made.search(picture(77), BOX, k=4)
    found = results_data(made, hits, made.search(picture(77), k=4), where="label IS NOT NULL")
    tab = open_page(page(found))
    assert "keeps no maps" in tab.locator(".wr-warning").inner_text()
    assert "label IS NOT NULL" in tab.locator(".wr-lead").inner_text()
    assert tab.locator(".wr-rankings :is(canvas, button)").count() == 0
    assert not tab.get_by_label("Heat maps").is_visible()
    row(tab, "hits", 0).click()
    settle(tab)
    assert tab.locator(".wr-root").is_visible()
    assert tab.locator(".wr-hit").count() == 8


HOSTILE = "<img src=x onerror=alert(1)>&amp;'\".png"
LABEL = "</script><script>alert(2)</script><b>\u202etxt"


@pytest.mark.browser
def test_names_and_metadata_of_strangers_are_text(open_page: Open, tmp_path: Path) -> None:
    names = [HOSTILE, "b.png", "gone.png"]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "note", "year"])
        for seed, name in enumerate(names):
            picture(seed).save(tmp_path / name)
            table.writerow([name, LABEL, f"<svg onload=alert({seed})>" * 20, 1990 + seed])
    picture(5).save(tmp_path / "<script>alert(3)<!-- query.png")
    made = wa.Gallery.build(HEADS["mean"](), tmp_path / "table.csv", tmp_path / "g.lance")
    (tmp_path / "gone.png").unlink()
    hits = made.search(tmp_path / "<script>alert(3)<!-- query.png", BOX, k=3)
    with pytest.warns(UserWarning, match="cannot be shown"):
        found = results_data(made, hits, where="note <> '<img src=x onerror=alert(4)>'")
    tab = open_page(page(found))
    assert set(tab.locator(".wr-name").all_text_contents()) == set(names)
    fields = tab.locator(".wr-fields").first
    assert LABEL.replace("\u202e", "\\u202e") in (fields.text_content() or "")
    assert "199" in (fields.text_content() or "")
    assert len(fields.text_content() or "") < 400
    assert tab.locator("script").count() == 2
    assert tab.locator("[onload], [onerror]").count() == 0
    gone = tab.locator(".wr-hit", has_text="gone.png")
    assert "is gone or has changed" in gone.inner_text()
    gone.locator(".wr-open").click()
    settle(tab)
    assert tab.locator(".wr-viewer .wa-root").is_visible()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_axe_finds_nothing_and_it_fits(
    open_page: Open, data: dict[str, Any], width: int, scheme: str
) -> None:
    photos = [{**photo, "name": "a_long_name_" * 8 + ".jpg"} for photo in data["photos"]]
    tab = open_page(
        page({**data, "photos": photos, "where": "x" * 200}),
        width=width, color_scheme=scheme, bypass_csp=True,
    )  # fmt: skip
    row(tab, "hits", 0).hover()
    for opened in (False, True):
        if opened:
            row(tab, "hits", 0).locator(".wr-open").click()
            settle(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()
        back = tab.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
        levels = [int(level) for level in re.findall(r"\d+", back)]
        assert max(levels) < 60 if scheme == "dark" else min(levels) > 200
