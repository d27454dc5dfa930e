"""Galleries: rows, search by region, and pairs from what is kept, against the pairs themselves."""

import contextlib
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import whyalike as wa
from galleries import HEADS, PREPROCESS, from_parts, photographs, picture, trunk
from whyalike.errors import GalleryError, ImageError, RegionError
from whyalike.gallery import manifest, rows, vectors
from whyalike.gallery.listing import Listed, belonging_to, list_images

BOX = (7.0, 4.0, 31.0, 22.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    photographs(folder, 12)
    return folder


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    path = tmp_path_factory.mktemp("query") / "query.png"
    picture(100, (47, 33)).save(path)
    return path


@pytest.fixture(scope="module")
def model():
    return from_parts("mean", 8)


@pytest.fixture(scope="module")
def gallery(model, photos, tmp_path_factory):
    return wa.Gallery.build(model, photos, tmp_path_factory.mktemp("one") / "photos.lance")


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_the_pairs_region_maps_and_pairs_come_back(head, photos, query, tmp_path):
    model = HEADS[head]()
    gallery = wa.Gallery.build(model, photos, tmp_path / "g.lance", batch_size=5)
    assert len(gallery) == 12
    hits = gallery.search(query, region=BOX, k=12)
    kept = gallery.explain_ranking(hits)
    true = wa.explain_ranking(model, query, [hit.path for hit in hits])
    assert [hit.rank for hit in hits] == list(range(1, 13))
    assert hits == sorted(hits, key=lambda hit: -hit.score)
    for hit, ours, theirs in zip(hits, kept, true, strict=True):
        lengths = theirs.query.embedding.norm() * theirs.reference.embedding.norm()
        u = theirs.query.within(BOX)
        for pair in (theirs, ours):
            bias_part = (u @ pair.reference.rest / lengths).item()
            total = pair.region_map(query_xyxy=BOX).sum().item() + bias_part
            assert hit.score == pytest.approx(total, abs=1e-5)
        assert hit.whole == pytest.approx(theirs.similarity, abs=1e-5)
        assert ours.similarity == pytest.approx(theirs.similarity, abs=1e-5)
        e = theirs.query.embedding.abs(), theirs.reference.values.abs()
        rounding = 2**-11 * (e[1] @ e[0]) / lengths + 1e-6
        ours_r, theirs_r = (p.overall_map("reference", bias=True) for p in (ours, theirs))
        assert ((ours_r - theirs_r).abs() <= rounding).all()
        ours_q, theirs_q = (p.overall_map("query", bias=True) for p in (ours, theirs))
        torch.testing.assert_close(ours_q, theirs_q, rtol=0, atol=1e-6)
        assert gallery.region_map(hit).sum().item() == pytest.approx(
            ours.region_map(query_xyxy=BOX).sum().item(), abs=1e-6
        )
        assert ours.reference.name == theirs.reference.name
        assert ours.reference.frame == theirs.reference.frame
        assert dict(ours.reference.taylor) == pytest.approx(dict(theirs.reference.taylor))
        assert (head == "any") == bool(ours.reference.taylor)
        np.testing.assert_array_equal(ours.reference.picture, theirs.reference.picture)
    by_whole = sorted(hits, key=lambda hit: -hit.whole)
    assert [hit.rank_without_region for hit in by_whole] == list(range(1, 13))


@pytest.mark.parametrize("head", HEADS)
def test_regions_that_tile_the_query_add_up(head, photos, query, tmp_path):
    gallery = wa.Gallery.build(HEADS[head](), photos, tmp_path / "g.lance")
    x = gallery.model.explain(query)
    tiles = [(0, 0, 20, 33), (20, 0, 47, 11), (20, 11, 47, 33)]
    whole = {hit.path: hit for hit in gallery.search(x, k=12)}
    scores = dict.fromkeys(whole, 0.0)
    for tile in tiles:
        for hit in gallery.search(x, region=tile, k=12):
            scores[hit.path] += hit.score
    for path, hit in whole.items():
        assert scores[path] == pytest.approx(hit.score - hit.query_bias, abs=1e-5)
    together = gallery.search(x, region=tiles, k=12)
    assert {hit.path: hit.score for hit in together} == pytest.approx(scores, abs=1e-5)


def test_points_masks_weights_and_without(gallery, query):
    x = gallery.model.explain(query)
    mask = np.zeros((33, 47), bool)
    mask[4:22, 7:31] = True
    other = (31, 0, 47, 33)
    u = {
        "box": x.within(BOX),
        "mask": x.within(mask=mask),
        "point": x.at((10, 12)),
        "weights": 0.5 * x.within(BOX) - 2 * x.within(other) + 3 * x.at((10, 12)),
        "without": x.within(BOX) - x.within(other),
        "whole without": x.embedding - x.within(other),
        "whole without a mask": x.embedding - x.within(mask=mask),
        "whole": x.embedding,
    }
    asked = {
        "box": {"region": BOX},
        "mask": {"mask": mask},
        "point": {"points": (10, 12)},
        "weights": {"region": [BOX, other], "points": [(10, 12)], "weights": (0.5, -2, 3)},
        "without": {"region": BOX, "without": other},
        "whole without": {"without": [other]},
        "whole without a mask": {"without": mask},
        "whole": {},
    }
    table = gallery._now.table.to_table()
    E = torch.tensor(table["embedding"].to_pylist())
    for name, arguments in asked.items():
        expected = (E @ u[name] / x.embedding.norm()).sort(descending=True)
        hits = gallery.search(x, k=12, **arguments)
        np.testing.assert_allclose([hit.score for hit in hits], expected.values, atol=1e-6)
        names = [table["path"][int(i)].as_py() for i in expected.indices]
        assert [hit.path for hit in hits] == names, name
    torch.testing.assert_close(u["box"], u["mask"])  # the box lies between pixels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"region": (1, 2, 3)}, "a region is"),
        ({"region": [(1, 2, 3, 4), (1, 2)]}, "a region is"),
        ({"region": "left"}, "a region is"),
        ({"region": (60, 60, 80, 80)}, "outside"),
        ({"points": (60, 60)}, "outside"),
        ({"points": []}, "a point is"),
        ({"mask": np.ones((3, 3), bool)}, "a mask has"),
        ({"region": BOX, "weights": (1, 2)}, "weights"),
        ({"region": BOX, "weights": (float("nan"),)}, "weights"),
    ],
)
def test_regions_that_mean_nothing_are_refused(gallery, query, arguments, message):
    with pytest.raises(RegionError, match=message):
        gallery.search(query, **arguments)


def test_conditions(gallery, query):
    every = gallery.search(query, region=BOX, k=12)
    some = gallery.search(query, region=BOX, k=12, where="label = 'b'")
    assert [hit.path for hit in some] == [hit.path for hit in every if hit.label == "b"]
    assert sorted(hit.rank_without_region for hit in some) == [1, 2, 3, 4]
    assert gallery.search(query, where="label = 'z'") == []
    with pytest.raises(GalleryError, match="no condition on the columns path, label"):
        gallery.search(query, where="colour = 'red'")
    with pytest.raises(GalleryError, match="k is 1 or more"):
        gallery.search(query, k=0)


def test_contrast_is_the_difference_of_two_scores(gallery, query):
    a, b = gallery.search(query, k=12)[1::9]
    found = gallery.contrast(a, b)
    assert found.difference == pytest.approx(a.score - b.score, abs=1e-6)
    x, e_a, e_b = gallery.model.explain([query, a.path, b.path])
    u = e_a.embedding / e_a.embedding.norm() - e_b.embedding / e_b.embedding.norm()
    torch.testing.assert_close(found.map(), x.values @ u / x.embedding.norm(), atol=1e-6, rtol=0)
    assert found.map().sum().item() + found.bias == pytest.approx(found.difference, abs=1e-6)
    of_a, of_b = found.maps()
    torch.testing.assert_close(of_a, wa.Pair(x, found.a).overall_map("reference", bias=True))
    assert of_b.shape == (3, 5)
    swapped = wa.contrast(x, e_b, e_a)
    torch.testing.assert_close(swapped.map(), -wa.contrast(x, e_a, e_b).map())


def test_the_index_finds_most_and_says_how_many(query, tmp_path):
    torch.manual_seed(0)
    project = torch.nn.Linear(8, 16).eval()
    model = wa.EmbeddingModel(trunk().eval(), "mean", project, PREPROCESS)
    photographs(tmp_path / "photos", 300)
    gallery = wa.Gallery.build(model, tmp_path / "photos" / "a", tmp_path / "g.lance")
    with pytest.raises(GalleryError, match="no index to search approximately"):
        gallery.search(query, exact=False)
    with pytest.raises(GalleryError, match="256 rows or more"):
        gallery.make_approximate()
    gallery.add(tmp_path / "photos")
    made = gallery.make_approximate()
    assert gallery.approximate == made
    assert (made.rows, made.recall_whole > 0.9, made.recall_region > 0.5) == (300, True, True)
    assert f"{made.recall_whole:.1%}, of regions" in str(made)
    x = model.explain(query)
    every = {hit.path: hit for hit in gallery.search(x, region=BOX, k=300, where="label = 'b'")}
    hits = gallery.search(x, region=BOX, k=10, where="label = 'b'", exact=False)
    assert len(hits) == 10
    for hit in hits:
        true = every[hit.path]
        assert (hit.score, hit.whole) == pytest.approx((true.score, true.whole), abs=1e-6)
        assert hit.rank_without_region is None
    assert len({hit.rank for hit in hits} & set(range(1, 11))) == 10
    assert gallery.explain(hits[0]).similarity == pytest.approx(hits[0].whole, abs=1e-5)
    photographs(tmp_path / "photos", 1, start=300)
    gallery.add(tmp_path / "photos")
    new = gallery.search(tmp_path / "photos" / "a" / "0300.png", k=1, exact=False)[0]
    assert new.path.endswith("0300.png")


# -- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
def test_float16_of_any_size_keeps_eleven_bits(scale):
    v = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) * scale
    v[0, 0] *= 1e-6  # far below the largest
    packed = rows.pack(v, rows.Packing(), 0)
    back = rows.unpack(packed, 7, rows.Packing(), 0)
    assert len(packed.maps) == 2 * v.numel()
    assert ((back - v).abs() <= 2.0**-11 * v.abs()).all()
    zero = rows.pack(torch.zeros(2, 3), rows.Packing(), 0)
    assert not rows.unpack(zero, 2, rows.Packing(), 0).any()


def test_where_d_is_above_the_rank_less_is_kept_and_nothing_lost(photos, tmp_path):
    gallery = wa.Gallery.build(HEADS["d above rank"](), photos, tmp_path / "g.lance")
    assert tuple(gallery._packing.basis.shape) == (8, 40)
    assert gallery.report.bytes_per_image < 2 * 4 * 40 + 3 * 5 * 8 * 2 + 260
    outside = torch.randn(15, 40, generator=torch.Generator().manual_seed(0))
    packed = rows.pack(outside, gallery._packing, 0)
    assert packed.dims == 40  # does not lie in the basis, and is kept whole
    torch.testing.assert_close(
        rows.unpack(packed, 15, gallery._packing, 0), outside, rtol=1e-3, atol=0
    )
    assert wa.Gallery.build(HEADS["mean"](), photos, tmp_path / "h.lance")._packing.basis is None


def test_quantised_maps_are_near_and_exact_in_sum(photos, query, tmp_path):
    model = HEADS["tokens with prefix"]()
    full = wa.Gallery.build(model, photos, tmp_path / "full.lance")
    gallery = wa.Gallery.build(model, photos, tmp_path / "pq.lance", maps="pq")
    hits, exact = (one.search(query, region=BOX, k=12) for one in (gallery, full))
    for near, true in zip(gallery.explain_ranking(hits), full.explain_ranking(exact), strict=True):
        assert near.terms == pytest.approx(true.terms, abs=1e-4)
        ours, theirs = (one.overall_map("reference").flatten() for one in (near, true))
        assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.8
        assert "quantised" in near.model


def test_without_maps_it_searches_and_does_not_explain(model, photos, query, tmp_path):
    gallery = wa.Gallery.build(model, photos, tmp_path / "g.lance", maps="none")
    hits = gallery.search(query, region=BOX)
    assert len(hits) == 12
    with pytest.raises(GalleryError, match="keeps no maps"):
        gallery.explain(hits[0])
    with pytest.raises(GalleryError, match="keeps maps 'none'; came 'full'"):
        wa.Gallery.build(model, photos, tmp_path / "g.lance")


@pytest.mark.parametrize(
    "pattern",
    ["*", "*/*", "a/*.png", "a/?.png", "a/[12].png", "a/[!1].png", "**/*.png", "**/b/*.png",
     "a/**/1.png", "*/b/**/*", "**/b", "*a*", "a/*/", "./a/../a/*.png", "c/[*].png", ".h/*",
     "a/**b", "**/**/1.png"],
)  # fmt: skip
def test_what_belongs_to_a_glob_is_what_it_lists(tmp_path, monkeypatch, pattern):
    names = ["1.png", "a/1.png", "a/2.png", "a/10.png", "a/b/1.png", "a/b/c/1.png", "b/x.png",
             "c/*.png", "c/d.png", "xay/1.png", "a\n/1.png", ".h/1.png",
             "a/b/c/b/y.jpg"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    listed = {one.path for one in list_images(pattern).files}
    belongs = belonging_to([pattern])
    files = {name: Listed(os.fsencode(tmp_path / name)) for name in names}
    assert {one.path for one in files.values() if belongs(one.file)} == listed
    assert not belongs(os.fsencode(tmp_path) + b"x/a/1.png")
    assert all(belonging_to(["**"])(one.file) for one in files.values())


def test_globs_prune_what_they_would_have_listed(model, tmp_path):
    paths = photographs(tmp_path / "photos", 9)
    gallery = wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance")
    for path in (paths[0], paths[1], paths[4]):
        path.unlink()
    report = gallery.add(str(tmp_path / "photos" / "b" / "*.png"), prune=True)
    assert (report.missing, report.pruned, len(gallery)) == (2, 2, 7)
    report = gallery.add(str(tmp_path / "**" / "*.png"), prune=True)
    assert (report.missing, report.pruned, len(gallery)) == (1, 1, 6)
    paths[2].unlink()
    report = gallery.add(f"folder:{tmp_path / 'photos'}", prune=True)
    assert (report.missing, report.pruned, len(gallery)) == (1, 1, 5)


def test_its_vectors_hold_no_file_open(model, tmp_path, query):
    photographs(tmp_path / "photos", 5)
    gallery = wa.Gallery.build(
        model, tmp_path / "photos", tmp_path / "g.lance", batch_size=1, commit_rows=1
    )
    assert len(gallery.search(query)) == len(list((tmp_path / "g.lance/vectors").iterdir())) == 5
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the system does not list a process's open files")
    held = []
    for one in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # what listed them
            held.append(os.readlink(f"/proc/self/fd/{one}"))
    assert not [name for name in held if name.endswith(".f32")]
    matrix = gallery._now.vectors.parts[0].matrix
    before = matrix.clone()
    matrix.zero_()  # in memory alone
    assert torch.equal(wa.Gallery.open(tmp_path / "g.lance")._now.vectors.parts[0].matrix, before)


# -- the model -----------------------------------------------------------------------------------


def test_another_model_is_refused(gallery, model):
    path = gallery._store.root
    assert len(wa.Gallery.open(path, model)) == 12
    others = {
        "network": HEADS["max"](),
        "weights' hash": from_parts("mean", 8),
        "preprocessing": wa.EmbeddingModel(
            model.net.features, "mean", model.net.head.project, wa.Preprocess((12, 20), fit="crop")
        ),
        "surrogate": model.cut(surrogate="taylor"),
    }
    with torch.no_grad():
        next(others["weights' hash"].net.parameters())[0, 0, 0, 0] += 1e-3
    for what, other in others.items():
        with pytest.raises(GalleryError, match=f"another model: its {what}") as error:
            wa.Gallery.open(path, other)
        assert "\n" not in str(error.value)
    with pytest.raises(GalleryError, match="without its model"):
        wa.Gallery.open(path).search("query.png")
    with pytest.raises(GalleryError, match="numbers"):
        gallery.search(HEADS["d above rank"]().explain(picture(1)))


def test_a_manifest_of_a_stranger_is_checked():
    good = manifest.Manifest("w", "n", "l", "s", "p", 4, (3, 5), 0, "full").to_json()
    assert manifest.Manifest.from_json(good).grid_hw == (3, 5)
    fields = json.loads(good)
    for change in (
        {"d": 0}, {"d": "x"}, {"grid_hw": [3]}, {"grid_hw": [0, 3]}, {"prefix": -1},
        {"maps": "some"}, {"version": 2},
    ):  # fmt: skip
        with pytest.raises(GalleryError):
            manifest.Manifest.from_json(json.dumps({**fields, **change}).encode())
    for bad in (b"{", b"[]", b"{}"):
        with pytest.raises(GalleryError):
            manifest.Manifest.from_json(bad)


# -- changing it ---------------------------------------------------------------------------------


def test_only_what_is_new_or_changed_is_read(model, query, tmp_path):
    paths = photographs(tmp_path / "photos", 6)
    gallery = wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance")
    first = gallery.report
    assert (first.added, first.replaced, first.unchanged) == (6, 0, 0)
    photographs(tmp_path / "photos", 2, start=6)
    picture(77).save(paths[0])
    paths[1].unlink()
    report = gallery.add(tmp_path / "photos")
    assert (report.added, report.replaced, report.unchanged, report.missing) == (2, 1, 4, 1)
    assert len(gallery) == 8
    hit = gallery.search(paths[0], k=1)[0]
    assert (hit.path, hit.score) == (str(paths[0]), pytest.approx(1, abs=1e-6))
    report = gallery.add(tmp_path / "photos", prune=True)
    assert (report.added, report.pruned, len(gallery)) == (0, 1, 7)
    assert gallery.remove(where="label = 'c'") == 2
    assert gallery.remove([paths[3]]) == 1
    with pytest.raises(GalleryError, match="no such file"):
        gallery.remove([paths[3]])
    kept = {hit.path for hit in gallery.search(query)}
    assert len(kept) == len(gallery) == 4
    picture(78).save(paths[4])
    assert gallery.reindex().replaced == 1
    again = gallery.search(paths[4], k=1)[0]
    assert again.score == pytest.approx(1, abs=1e-6)
    gallery.compact()
    assert {hit.path for hit in gallery.search(query)} == kept
    pair = gallery.explain(gallery.search(paths[4], k=1)[0])
    assert pair.similarity == pytest.approx(1, abs=1e-6)


def test_hits_of_an_earlier_state_are_not_mixed_up(model, tmp_path):
    paths = photographs(tmp_path / "photos", 4)
    gallery = wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance")
    hits = gallery.search(paths[0])
    gallery.remove([paths[1]])
    with pytest.raises(GalleryError, match="search again"):
        gallery.explain(hits[0])


def test_a_photograph_that_changed_is_not_drawn_on(model, tmp_path):
    paths = photographs(tmp_path / "photos", 2)
    gallery = wa.Gallery.build(model, paths, tmp_path / "g.lance")
    hits = gallery.search(paths[0])
    picture(9, (20, 20)).save(paths[0])
    paths[1].unlink()
    for hit, message in zip(hits, ("has changed", "cannot be shown"), strict=True):
        with pytest.warns(UserWarning, match=message):
            assert gallery.explain(hit).reference.picture is None


def test_vectors_are_mapped_from_files_that_are_made_anew(model, photos, query, tmp_path):
    gallery = wa.Gallery.build(model, photos, tmp_path / "g.lance")
    hits = [(hit.path, hit.score) for hit in gallery.search(query)]
    (file,) = (tmp_path / "g.lance" / "vectors").glob("*.f32")
    assert file.stat().st_size == 12 * 6 * 4
    file.write_bytes(file.read_bytes()[:17])  # as a full disk leaves it
    gallery.refresh()
    assert [(hit.path, hit.score) for hit in gallery.search(query)] == hits
    shutil.rmtree(tmp_path / "g.lance" / "vectors")
    (tmp_path / "g.lance" / "vectors").write_text("in the way")
    again = wa.Gallery.open(tmp_path / "g.lance", model)
    assert [(hit.path, hit.score) for hit in again.search(query)] == hits
    cached = wa.Gallery.open(tmp_path / "g.lance", model, cache=tmp_path / "cache")
    assert [(hit.path, hit.score) for hit in cached.search(query)] == hits
    assert len(list((tmp_path / "cache").glob("*.f32"))) == 1


# -- what is listed ------------------------------------------------------------------------------


def test_tables_bring_labels_and_metadata(model, query, tmp_path):
    photographs(tmp_path, 4)
    table = "path,label,year,seen\na/0000.png,x,1999,true\nb/0001.png,,2001,false\n"
    (tmp_path / "one.csv").write_text(table)
    gallery = wa.Gallery.build(model, tmp_path / "one.csv", tmp_path / "g.lance")
    found = {hit.path[-6:-4]: (hit.label, hit.metadata) for hit in gallery.search(query)}
    assert found["00"] == ("x", {"year": 1999, "seen": True})
    assert found["01"] == ("", {"year": 2001, "seen": False})
    assert len(gallery.search(query, where="year > 2000 AND NOT seen")) == 1
    names = {"path": ["c/0002.png"], "year": [2024]}
    parquet.write_table(pa.table(names), tmp_path / "two.parquet")
    gallery.add(tmp_path / "two.parquet")
    assert gallery.search(query, where="year = 2024")[0].metadata == {"year": 2024, "seen": None}
    for bad, message in (
        ("path,embedding\na/0000.png,1\n", "may be called 'embedding'"),
        ("file\na/0000.png\n", "column `path`"),
        ("path,month\na/0000.png,1\n", "no such column"),
        ("path,year\na/0000.png,soon\n", "'year' of string"),
        ("path,x\n,1\n", "names no path"),
    ):
        (tmp_path / "bad.csv").write_text(bad)
        with pytest.raises(GalleryError, match=message):
            gallery.add(tmp_path / "bad.csv")
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(GalleryError, match="cannot be read as a table"):
        gallery.add(tmp_path / "bad.parquet")


def test_globs_folders_and_files_name_a_photograph_once(tmp_path):
    paths = photographs(tmp_path, 6)
    (tmp_path / "notes.txt").write_text("none")
    listing = list_images([tmp_path, f"{tmp_path}/**/*.png", paths[0]])
    assert [one.path for one in listing.files] == sorted(str(path) for path in paths)
    assert (listing.others, {one.label for one in listing.files}) == (1, {"a", "b", "c"})
    assert [one.label for one in list_images(tmp_path / "a").files] == [None, None]
    with pytest.raises(GalleryError, match="nothing matches"):
        list_images(tmp_path / "*.jpg")


def test_strict_stops_at_the_first_that_cannot_be_read(model, tmp_path):
    photographs(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"broken\.png"):
        wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance", strict=True)
    gallery = wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance")
    assert len(gallery) == 3
    assert list(gallery.failures()) == [str(tmp_path / "photos" / "broken.png")]


def test_progress_is_told_and_says_first_what_a_row_takes(model, photos, tmp_path):
    told = []
    wa.Gallery.build(model, photos, tmp_path / "g.lance", progress=told.append, batch_size=4)
    assert [one.done for one in told] == [0, 4, 8, 12]
    assert told[0].bytes_per_image == 2 * 4 * 6 + 2 * 15 * 6 + 250
    assert told[0].seconds_left is None
    assert told[1].seconds_left == pytest.approx(2 * told[1].seconds, rel=0.01)


@pytest.mark.parametrize("shape", [(1, 3), (23, 512), (67, 1280), (41, 10_000)])
def test_the_best_rows_are_those_of_every_product(shape, monkeypatch):
    monkeypatch.setattr(vectors, "CHUNK_BYTES", 20 * 4 * shape[1])  # several chunks
    random = torch.Generator().manual_seed(0)
    matrix, u = torch.randn(shape, generator=random), torch.randn(shape[1], generator=random)
    live = np.arange(shape[0]) % 5 != 3
    best = vectors.Vectors((vectors.Part(0, matrix, live),)).best(u, 7)
    scores = (matrix.double() @ u.double()).numpy()
    order = [row for row in np.argsort(-scores) if live[row]][:7]
    assert best.positions.tolist() == order
    np.testing.assert_allclose(best.scores, scores[order], rtol=0, atol=1e-3)


def test_ranks_without_the_region_multiply_every_row_once_and_when_asked(
    gallery, query, monkeypatch
):
    asked = []
    products = vectors.Vectors.products
    monkeypatch.setattr(
        vectors.Vectors, "products", lambda *args: asked.append(args) or products(*args)
    )
    hits = gallery.search(query, region=BOX, k=7)
    assert asked == []
    ranks = [hit.rank_without_region for hit in hits]
    assert len(asked) == 1
    every = sorted((hit.whole for hit in gallery.search(query, region=BOX, k=12)), reverse=True)
    assert ranks == [1 + sum(one > hit.whole for one in every) for hit in hits]
