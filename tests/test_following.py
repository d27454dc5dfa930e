"""What a gallery lists, and searches that follow one another, held to plain searches."""

from __future__ import annotations

import numpy as np
import pytest

import whyalike as wa
from galleries import HEADS, photographs, picture
from whyalike.errors import GalleryError, RegionError
from whyalike.geometry import Frame


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> wa.Gallery:
    """Of two parts, with a row removed from each."""
    folder = tmp_path_factory.mktemp("browsing")
    files = photographs(folder / "photos", 12)
    made = wa.Gallery.build(HEADS["mean"](), folder / "photos", folder / "g.lance", commit_rows=6)
    made.remove([files[0], files[7]])
    return made


@pytest.mark.parametrize("where", [None, "label <> 'b'"])
def test_following_searches_are_the_plain_ones(gallery: wa.Gallery, where: str | None) -> None:
    following = gallery.follow(picture(77), where)
    for region in [(0, 0, 20, 20), (5, 3, 25, 20), (5, 3, 26, 20), None]:
        asked = gallery.ask(following.x, region)
        found = following.search(asked, 4)
        expected = gallery.search(asked, k=4, where=where)
        assert [one.id for one in found] == [one.id for one in expected]
        for mine, one in zip(found, expected, strict=True):
            assert (mine.rank, mine.rank_without_region, mine.path, mine.label) == (
                one.rank, one.rank_without_region, one.path, one.label,
            )  # fmt: skip
            assert (mine.score, mine.whole, mine.query_bias) == pytest.approx(
                (one.score, one.whole, one.query_bias), abs=1e-6
            )
        for pair, mine in zip(gallery.explain_ranking(found), found, strict=True):
            assert pair.similarity == pytest.approx(mine.whole, abs=1e-5)
    whole = gallery.search(following.x, k=4, where=where)
    assert [one.id for one in following.by_whole(4)] == [one.id for one in whole]
    assert following.by_whole(100)[-1].score >= -1  # none that was removed, or does not belong


def test_of_few_rows_that_are_kept_the_right_ones_are_shown(
    gallery: wa.Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whyalike.gallery.following.ROWS", 5)
    following = gallery.follow(picture(77))
    for x in range(0, 30, 5):
        asked = gallery.ask(following.x, (x, 0, x + 12, 20))
        paths = [one.path for one in following.search(asked, 4)]
        assert paths == [one.path for one in gallery.search(asked, k=4)]


def test_pages_are_the_whole_gallery_once(gallery: wa.Gallery) -> None:
    pages = [gallery.browse(offset, 4) for offset in range(0, 16, 4)]
    assert [len(page) for page in pages] == [4, 4, 2, 0]
    every = [one for page in pages for one in page]
    assert len({one.id for one in every}) == len(gallery) == gallery.count() == 10
    assert gallery.count("label = 'a'") == sum(one.label == "a" for one in every)
    for one in every:
        again = gallery.entry(one.id)
        assert again is not None
        assert (again.path, again.address) == (one.path, one.address)
    assert gallery.entry("0" * 32) is None
    assert gallery.columns() == {"path": "string", "label": "string"}
    with pytest.raises(GalleryError, match="no condition"):
        gallery.browse(where="nothing = 1")


def test_what_is_listed_is_explained_as_a_hit_is(gallery: wa.Gallery) -> None:
    hits = {hit.id: hit for hit in gallery.search(picture(77), k=10)}
    for one in gallery.browse():
        mine, other = gallery.contributions([one])[0], gallery.contributions([hits[one.id]])[0]
        np.testing.assert_array_equal(mine.values, other.values)
    old = gallery.browse()[0]
    assert gallery.is_current()
    gallery._now.table.delete("id = 'none'")
    changed = not gallery.is_current()
    gallery.refresh()
    if changed:
        with pytest.raises(GalleryError, match="has changed"):
            gallery.contributions([old])


@pytest.mark.parametrize("size_wh", [(210, 100), (30, 20), (7, 5), (1, 1)])
def test_a_stretched_mask_covers_what_it_would_cover_drawn_large(size_wh: tuple[int, int]) -> None:
    frame = Frame(size_wh=(210, 100), view_xyxy=(35, 0, 175, 100), grid_hw=(3, 4))
    width, height = size_wh
    small = np.random.default_rng(0).random((height, width))
    large = np.kron(small, np.ones((100 // height, 210 // width)))
    covered = frame.mask_coverage(small, stretched=True)
    np.testing.assert_allclose(covered, frame.mask_coverage(large), atol=1e-9)
    if size_wh != (210, 100):
        with pytest.raises(RegionError, match="photograph's shape"):
            frame.mask_coverage(small)
    for bad in (np.zeros((0, 4)), np.zeros(7), np.zeros((2, 2, 2))):
        with pytest.raises(RegionError):
            frame.mask_coverage(bad, stretched=True)
