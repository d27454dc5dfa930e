"""The readers of data sets, each on a small one in the true layout; and what a stranger's holds."""

import contextlib
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from scipy.io import savemat

import layouts
from whyalike import data
from whyalike.data import matlab
from whyalike.errors import DataError
from whyalike.gallery import list_images

# Each .mat file is read in a process of its own, which takes half a second.
SLOW = ("cars", "cvact")


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in layouts.LAYOUTS
    ]
)
def named(request, tmp_path):
    """LAYOUT:PATH of a small data set, of each layout."""
    return f"{request.param}:{layouts.LAYOUTS[request.param](tmp_path / 'set')}"


def read(layout, path):
    return data.read(f"{layout}:{path}")


def test_each_layout_has_a_reader_and_a_fixture():
    assert layouts.LAYOUTS.keys() == data.LAYOUTS.keys()


def test_every_photograph_is_there_and_known(named):
    found = data.read(named)
    assert found.name == named
    assert len(found) >= 3
    for sample in found:
        assert sample.path.is_file()
        assert sample.mask is None or sample.mask.is_file()
    for pair in found.pairs:
        assert 0 <= pair.first < len(found)
        assert 0 <= pair.second < len(found)
        a, b = found[pair.first], found[pair.second]
        if pair.kind in (None, "same", "different", "positive") and a.label and b.label:
            named_alike = a.label == b.label or named.startswith("manifest")
            assert pair.same == named_alike


def test_birds(tmp_path):
    root = layouts.cub(tmp_path / "CUB_200_2011")
    found = read("cub", tmp_path)  # the folder that the archive was unpacked in will do
    assert [one.path for one in found] == [root / "images" / name for name in layouts.CUB_IMAGES]
    assert found[0].box_xyxy == (2.0, 3.0, 12.0, 11.0)
    assert found[2].label == "002.Laysan_Albatross"
    assert [one.split for one in found] == ["test", "train", "train", "test"]
    assert found[0].mask is None
    layouts.cub_masks(root)
    masked = read("cub", root)
    assert masked[3].mask == root / "segmentations" / layouts.CUB_IMAGES[3].replace("jpg", "png")
    seen, unseen = found.halves()
    assert (len(seen), len(unseen)) == (2, 2)
    assert not {*seen.labels} & {*unseen.labels}


def test_cars_in_both_layouts(tmp_path):
    found = read("cars", layouts.cars(tmp_path / "a"))
    assert found[0].box_xyxy == (0, 1, 20, 16)  # pixels 1 to 20, counted from 1
    assert [one.label for one in found][1:] == [
        "001 AM General Hummer SUV 2000",
        "002 Acura RL Sedan 2012",
    ]
    assert [one.split for one in found] == ["train", "test", "train"]
    other = read("cars", layouts.cars_devkit(tmp_path / "b"))
    assert other.splits == {"train": 2, "test": 1}
    assert other[2].path == tmp_path / "b" / "cars_test" / "00001.jpg"
    assert other[2].label == "002 Acura RL Sedan 2012"


def test_products_and_clothes(tmp_path):
    found = read("sop", layouts.sop(tmp_path / "sop"))
    assert [(one.label, one.split) for one in found] == [
        ("00001", "train"),
        ("00001", "train"),
        ("11319", "test"),
    ]
    assert found[2].metadata == {"super_class": 8}
    clothes = read("inshop", layouts.inshop(tmp_path / "inshop"))
    assert [(one.label, one.split) for one in clothes] == [*layouts.INSHOP.values()]
    assert clothes[0].box_xyxy == (0, 1, 24, 16)
    flat = tmp_path / "flat"
    shutil.move(tmp_path / "inshop" / "Img", flat)
    shutil.move(tmp_path / "inshop" / "Eval" / "list_eval_partition.txt", flat)
    assert [one.box_xyxy for one in read("inshop", flat)] == [None] * 3


def test_people_and_the_rules_of_their_ranking(tmp_path):
    found = read("market1501", layouts.market1501(tmp_path / "Market-1501-v15.09.15"))
    assert found.splits == {"train": 2, "query": 2, "gallery": 6}
    junk, *distractors = [one for one in found if one.split == "gallery"][:3]
    assert (junk.junk, junk.label, junk.camera) == (True, None, "1")
    assert [(one.junk, one.label) for one in distractors] == [(False, None)] * 2
    assert found[0].metadata == {"sequence": 1, "frame": 451}
    gallery = found.only(split="gallery")
    for query in found.only(split="query"):
        person, camera = query.path.name[:4], query.path.name[6]
        for other in gallery:
            its, of = other.path.name.split("_")[0], other.path.name.split("_c")[1][0]
            expected = its != "-1" and not (its == person and of == camera)
            assert data.counts(query, other) == expected
    assert not data.counts(query, query)


def test_faces_and_their_pairs(tmp_path):
    root = layouts.lfw(tmp_path)
    found = read("lfw", root)
    assert len(found) == 9
    first, last = found.pairs[0], found.pairs[-1]
    assert [found[i].path.name for i in (first.first, first.second)] == [
        "Abel_Pacheco_0001.jpg",
        "Abel_Pacheco_0004.jpg",
    ]
    assert [pair.same for pair in found.pairs] == [True, True, False, False] * 2
    assert [pair.fold for pair in found.pairs] == [1] * 4 + [2] * 4
    assert (found[last.first].label, found[last.second].label) == (
        "Akhmed_Zakayev",
        "Slobodan_Milosevic",
    )
    assert read("lfw", root / "lfw").pairs == found.pairs  # pairs.txt beside it
    image = root / "lfw" / "Abel_Pacheco" / "Abel_Pacheco_0004.jpg"
    image.unlink()
    image.mkdir()
    with pytest.raises(DataError, match=r"Abel_Pacheco_0004.jpg: is no image"):
        read("lfw", root)


def test_families(tmp_path):
    found = read("fiw", layouts.fiw(tmp_path / "fiw"))
    assert [one.label for one in found] == [
        *(f"F0001/MID{member}" for member in (1, 2)),
        *(f"F0002/MID{member}" for member in (1, 2, 3)),
    ]
    assert found[0].metadata == {"family": "F0001"}
    assert found.relations[:2] == (
        ("F0001/MID1", "F0001/MID2", "parent"),
        ("F0001/MID2", "F0001/MID1", "child"),
    )
    assert ("F0002/MID1", "F0002/MID2", "spouse") in found.relations
    assert len(found.relations) == 8
    for family in ("F0001", "F0002"):  # as earlier releases have it
        folder = tmp_path / "fiw" / "FIDs" / family
        (folder / "mid.csv").rename(folder / f"{family}.csv")
    assert read("fiw", tmp_path / "fiw").relations == found.relations
    other = read("fiw", layouts.fiw_challenge(tmp_path / "rfiw"))
    assert other.relations == (("F0002/MID1", "F0002/MID3", "kin"),)
    assert other.splits == {"train": 3}


def test_places_from_the_street_and_from_above(tmp_path):
    found = read("cvusa", layouts.cvusa(tmp_path / "CVUSA"))
    assert found.splits == {"train": 4, "val": 2}
    for pair in found.pairs:
        ground, aerial = found[pair.first], found[pair.second]
        assert (ground.view, aerial.view) == ("ground", "aerial")
        assert ground.label == aerial.label == ground.path.stem == aerial.path.stem
    assert len(found.only(view="aerial")) == 3
    assert len(found.only(split="val").pairs) == 1


def test_places_of_a_mat_file(tmp_path):
    root = layouts.cvact(tmp_path)
    found = read("cvact", root)
    assert found.splits == {"train": 2, "val": 2, "test": 4}
    assert found.left_out == 2  # a pair that is listed but not there
    assert found[2].label == layouts.CVACT_IDS[2]
    assert found[2].metadata == {"utm_easting": 690004.5, "utm_northing": 690005.5}
    shutil.rmtree(root / "ANU_data_test")
    layouts.cvact(tmp_path / "cells", np.array(layouts.CVACT_IDS, object))
    shutil.copy(tmp_path / "cells" / "ACT_data.mat", root)  # the names in a cell array
    assert read("cvact", root).samples == found.samples[:4]


def test_panoramas_anywhere_on_views_from_above(tmp_path):
    root = layouts.vigor(tmp_path / "VIGOR")
    found = read("vigor", root)
    assert len(found.only(view="aerial")) == 10
    assert found.splits == {"train": 4, "test": 2}
    assert {one.metadata["cross_area"] for one in found if one.metadata["city"] == "Chicago"} == {
        "test"
    }
    pairs = [pair for pair in found.pairs if found[pair.first].path.name.startswith("Seattleb")]
    assert [pair.kind for pair in pairs] == ["positive", *["semi-positive"] * 3]
    assert [pair.offset for pair in pairs] == [(10.5 * k, -3.25 * k) for k in range(4)]
    assert [found[pair.second].path.name[:14] for pair in pairs] == [
        f"satellite_41.{k}" for k in (1, 2, 3, 4)
    ]
    # 10.5 to the north of the panorama is the view's centre, 3.25 to the west of it: the camera
    # stands below and to the right of the middle, in shares of 640 pixels.
    assert pairs[1].camera == (0.5 + 3.25 / 640, 0.5 + 10.5 / 640)
    test = found.only(split="test")  # with the views from above that its pairs name
    assert {(one.split, one.view) for one in test} == {("test", "ground"), (None, "aerial")}
    assert len(test.pairs) == 8
    assert [pair.kind for *_, pair in test.across()] == ["positive", "positive"]
    corrected = root / "splits__corrected" / "Seattle"
    shutil.copytree(root / "splits" / "Seattle", corrected)
    for split in ("train", "test"):
        old = corrected / f"same_area_balanced_{split}.txt"
        old.rename(corrected / f"same_area_balanced_{split}__corrected.txt")
    assert {one.metadata["city"] for one in read("vigor", root)} == {"Seattle"}


def test_folders(tmp_path):
    found = read("folder", layouts.folder(tmp_path))
    assert [(one.label, one.split) for one in found] == [
        ("cat", "train"),
        ("cat", "train"),
        ("dog", "train"),
        ("cat", "val"),
    ]
    (tmp_path / "other").mkdir()
    layouts.picture(tmp_path / "other" / "e.jpg")  # now these are classes, not splits
    assert {one.label for one in read("folder", tmp_path)} == {"train", "val", "other"}


def test_links_in_a_circle_end(tmp_path):
    root = layouts.folder(tmp_path)
    (root / "train" / "cat" / "loop").symlink_to(root / "train")
    (root / "train" / "dog" / "self.jpg").symlink_to("self.jpg")
    (root / "train" / "lost").symlink_to(root / "nowhere")
    names = [one.path.name for one in read("folder", root)]
    assert sorted(names) == ["a.jpg", "b.png", "c.JPG", "d.jpg", "self.jpg"]
    (root / "round").symlink_to(root / "round")
    with pytest.raises(DataError, match="no such folder"):
        read("folder", root / "round")


def test_tables(tmp_path):
    listed = layouts.manifest(tmp_path)
    found = read("manifest", listed)
    a, b, c = found
    assert (a.label, a.split, a.camera, a.view) == ("cup, red", "train", "1", "ground")
    assert (a.box_xyxy, a.mask) == ((1, 2, 11.5, 9), tmp_path / "a_mask.png")
    assert a.metadata == {"price": "3.50"}
    assert (b.label, b.box_xyxy, b.metadata) == ("cup", None, {})
    assert (c.label, c.box_xyxy) == (None, (0, 0, 24, 16))
    assert found.pairs == (data.KnownPair(0, 1, True),)
    columns = {
        "path": ["a.jpg", "c.jpg"],
        "label": pa.array([7, None], pa.int64()),
        "x0": [1.0, None], "y0": [2.0, None], "x1": [11.5, None], "y1": [9.0, None],
        "price": [3.5, None],
    }  # fmt: skip
    parquet.write_table(pa.table(columns), tmp_path / "images.parquet")
    a, c = read("manifest", tmp_path / "images.parquet")
    assert (a.label, a.box_xyxy, a.metadata) == ("7", (1, 2, 11.5, 9), {"price": 3.5})
    assert (c.label, c.box_xyxy, c.metadata) == (None, None, {})


def test_tables_of_pairs(tmp_path):
    """A row is two photographs of any two views; what else it says is of both."""
    layouts.manifest(tmp_path)
    rows = ["query,reference,label,split,camera_x,price", "a.jpg,more/b.jpg,cup,val,3,9",
            "c.jpg,a.jpg,,train,,"]  # fmt: skip
    layouts.write(tmp_path / "pairs.csv", *rows)
    found = read("manifest", tmp_path / "pairs.csv")
    assert [(one.path.name, one.view, one.label, one.split) for one in found] == [
        ("a.jpg", "query", "cup", "val"), ("b.jpg", "reference", "cup", "val"),
        ("c.jpg", "query", None, "train"), ("a.jpg", "reference", None, "train"),
    ]  # fmt: skip
    assert found[0].metadata == found[1].metadata == {"camera_x": "3", "price": "9"}
    assert found.pairs == (data.KnownPair(0, 1, True), data.KnownPair(2, 3, True))
    columns = {"query": ["a.jpg"], "reference": ["c.jpg"]}
    parquet.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    assert len(read("manifest", tmp_path / "pairs.parquet").pairs) == 1
    for head, row, message in (
        ("query,reference", "a.jpg,", "line 2: names no reference"),
        ("query,reference", "../x.jpg,a.jpg", "line 2: '../x.jpg' is no path below"),
        ("query,reference,pair", "a.jpg,c.jpg,1", "a table of pairs has no column 'pair'"),
        ("query,other", "a.jpg,c.jpg", "the head names 'query', 'other'"),
    ):
        layouts.write(tmp_path / "bad.csv", head, row)
        with pytest.raises(DataError, match=re.escape(message)):
            read("manifest", tmp_path / "bad.csv")


def test_query_and_reference_of_pairs(tmp_path):
    """The street's view is the query, wherever it stands; without views, the first is."""
    a, b = (data.Sample(tmp_path / name) for name in ("a", "b"))
    for views, order in (
        (("ground", "aerial"), "ab"), (("aerial", "ground"), "ba"),
        (("query", "reference"), "ab"), (("reference", "query"), "ba"),
        ((None, None), "ab"), (("aerial", "aerial"), "ab"),
    ):  # fmt: skip
        samples = tuple(replace(one, view=view) for one, view in zip((a, b), views, strict=True))
        known = (data.KnownPair(0, 1, True), data.KnownPair(0, 1, False),
                 data.KnownPair(0, 1, True, kind="semi-positive"))  # fmt: skip
        ((query, reference, pair),) = data.Dataset("d", "two", samples, known).across()
        assert query.path.name + reference.path.name == order
        assert pair == known[0]


# What each layout cannot do without, and what the message names.
NEEDED = {
    "cub": ["images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt",
            "bounding_boxes.txt", "images"],
    "cars": ["cars_annos.mat", "car_ims/000002.jpg"],
    "sop": ["Ebay_train.txt", "Ebay_test.txt", "lamp_final/281602463562_0.JPG"],
    "inshop": ["Eval/list_eval_partition.txt", "Img/img"],
    "market1501": ["bounding_box_train", "query", "bounding_box_test"],
    "lfw": ["pairs.txt", "lfw/Abel_Pacheco/Abel_Pacheco_0004.jpg"],
    "fiw": ["FIDs"],
    "casia": [""],
    "cvusa": ["splits/train-19zl.csv", "splits/val-19zl.csv", "bingmap", "streetview",
              "bingmap/19/0000007.jpg"],
    "cvact": ["ACT_data.mat"],
    "vigor": ["splits", "splits/Chicago/satellite_list.txt", "Seattle/satellite",
              "splits/Seattle/same_area_balanced_test.txt"],
    "folder": [""],
    "manifest": ["images.csv", "c.jpg", "a_mask.png"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "part"), [(layout, part) for layout, parts in NEEDED.items() for part in parts]
)
def test_what_is_missing_is_named_and_where_to_get_it(tmp_path, layout, part):
    path = layouts.LAYOUTS[layout](tmp_path / "set")
    root = tmp_path / "set"
    gone = root / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(DataError) as caught:
        read(layout, path)
    text = str(caught.value)
    assert "\n" not in text
    assert gone.name.removesuffix(".jpg") in text or part in ("Img/img", "splits")
    wanted = "download|ask the authors|get |unpack|expected one folder|relative|manifest"
    assert any(word in text for word in wanted.split("|")), text


# A line, what it is replaced by, and what is said of it.
MALFORMED = [
    ("cub", "images.txt", 2, "2", r"line 2: expected \"ID PATH\", came '2'"),
    ("cub", "images.txt", 2, "1 a/b.jpg", "line 2: ID 1 was in line 1 already"),
    ("cub", "images.txt", 2, "9 a/b.jpg", "line 2: image 9 is not in image_class_labels.txt"),
    ("cub", "images.txt", 2, "x a/b.jpg", "line 2: the ID is a whole number from 1; came 'x'"),
    ("cub", "bounding_boxes.txt", 3, "3 1 1 nan 4", "line 3: a side is a number; came 'nan'"),
    ("cub", "bounding_boxes.txt", 3, "3 1 1 0 4", "line 3: a box needs width and height"),
    ("cub", "train_test_split.txt", 1, "1 2", "line 1: the flag is a whole number from 0 to 1"),
    ("cub", "image_class_labels.txt", 4, "4 44", "line 4: class 44 is not in classes.txt"),
    ("sop", "Ebay_train.txt", 1, "id path", "line 1: expected the head \"image_id class_id"),
    ("sop", "Ebay_train.txt", 2, "1 one 1 a.JPG", "line 2: class_id is a whole number"),
    ("inshop", "Eval/list_eval_partition.txt", 1, "4", "line 1: says 4 images, but 3 follow"),
    ("inshop", "Eval/list_eval_partition.txt", 4, "img/a.jpg id_1 test", "line 4: expected train"),
    ("lfw", "pairs.txt", 1, "10", "line 1: expected \"FOLDS PAIRS_OF_EACH_KIND\""),
    ("lfw", "pairs.txt", 1, "3\t2", "line 1: means 12 pairs, but 8 follow"),
    ("lfw", "pairs.txt", 1, "1\t2", "line 6: there are 1 folds of 2 × 2 pairs"),
    ("lfw", "pairs.txt", 4, "Abel_Pacheco\t1\t2", "line 4: expected \"NAME N OTHER M\""),
    ("lfw", "pairs.txt", 2, "Abel_Pacheco\t0\t2", "line 2: a number of an image"),
    ("fiw", "FIDs/F0001/mid.csv", 2, "1,0,4", "line 2: has 3 fields, the head 5"),
    ("fiw", "FIDs/F0001/mid.csv", 3, "2,x,0,a,b", "line 3: a relation is a whole number"),
    ("cvusa", "splits/val-19zl.csv", 1, "bingmap/19/1.jpg", "line 1: expected \"AERIAL,GROUND\""),
    ("cvusa", "splits/val-19zl.csv", 1, "a/1.jpg,b/2.jpg", "line 1: .* are of two places"),
    ("vigor", "splits/Chicago/same_area_balanced_test.txt", 1, "a.jpg b.png 1 2",
     "line 1: expected \"PANORAMA AERIAL DLAT DLON"),
    ("vigor", "splits/Chicago/same_area_balanced_test.txt", 1,
     "a.jpg" + " b.png 1 2" * 4, "line 1: 'b.png' is not in satellite_list.txt"),
    ("manifest", "images.csv", 1, "file,label", "the head names 'file', 'label'; a manifest is"),
    ("manifest", "images.csv", 1, "path,path", "there are two columns 'path'"),
    ("manifest", "images.csv", 3, "more/b.jpg,cup", "line 3: has 2 fields, the head 12"),
    ("manifest", "images.csv", 3, '"more/b.jpg', "line 5: is no CSV: unexpected end of data"),
    ("manifest", "images.csv", 3, "c.jpg,,,,,1,2,,,,p1,", "line 3: a box has x0, y0, x1 and y1"),
    ("manifest", "images.csv", 3, "c.jpg,,,,,1,2,inf,5,,p1,", "line 3: a side of a box is"),
    ("manifest", "images.csv", 3, "c.jpg,,,,air,,,,,,p1,", "line 3: view is ground or aerial"),
    ("manifest", "images.csv", 3, ",cup,,,,,,,,,p1,", "line 3: names no path"),
    ("manifest", "images.csv", 3, "c.jpg,,,,,,,,,,,", "line 2: pair 'p1' has 1 rows"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "file", "number", "text", "said"), MALFORMED)
def test_a_malformed_line_is_told_with_its_number(tmp_path, layout, file, number, text, said):
    path = layouts.LAYOUTS[layout](tmp_path / "set")
    spoil(tmp_path / "set" / file, number, text)
    with pytest.raises(DataError, match=said) as caught:
        read(layout, path)
    assert os.path.basename(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def spoil(file, number, text):
    lines = file.read_text().splitlines()
    lines[number - 1] = text
    file.write_text("\n".join([*lines, ""]))


OUTSIDE = ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "C:/secret.jpg", "..\\secret.jpg"]
ESCAPES = [
    ("cub", "images.txt", 1, "1 {}"),
    ("sop", "Ebay_test.txt", 2, "3 11319 8 {}"),
    ("inshop", "Eval/list_eval_partition.txt", 3, "{} id_1 train"),
    ("lfw", "pairs.txt", 2, "{}\t1\t4"),
    ("cvusa", "splits/train-19zl.csv", 2, "{0},{0}"),
    ("vigor", "splits/Chicago/satellite_list.txt", 1, "{}"),
    ("manifest", "images.csv", 3, "{},,,,,,,,,,p1,"),
    ("manifest", "images.csv", 3, "c.jpg,,,,,,,,,{},p1,"),
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize(("layout", "file", "number", "form"), ESCAPES)
def test_no_name_leads_out_of_the_folder(tmp_path, layout, file, number, form, name):
    path = layouts.LAYOUTS[layout](tmp_path / "set")
    layouts.picture(tmp_path / "secret.jpg")
    spoil(tmp_path / "set" / file, number, form.format(name))
    with pytest.raises(DataError, match=rf"line {number}: .* no path below"):
        read(layout, path)


def test_no_name_of_a_mat_file_leads_out(tmp_path):
    root = layouts.cars(tmp_path / "cars")
    rows = [{"relative_im_path": "../x.jpg", **layouts._BOX, "class": 1, "test": 0}]
    names = {"annotations": layouts._struct(rows), "class_names": layouts.CAR_NAMES}
    savemat(root / "cars_annos.mat", names)
    with pytest.raises(DataError, match=r"entry 1: .* no path below"):
        read("cars", root)


@pytest.mark.slow
def test_an_entry_of_a_mat_file_that_is_wrong_is_told(tmp_path):
    root = layouts.cars(tmp_path / "cars")
    rows = [
        {"relative_im_path": "car_ims/000001.jpg", **layouts._BOX, "class": 3, "test": 0},
    ]
    names = {"annotations": layouts._struct(rows), "class_names": layouts.CAR_NAMES}
    savemat(root / "cars_annos.mat", names)
    with pytest.raises(DataError, match="entry 1: a class is a whole number from 1 to 2; came '3'"):
        read("cars", root)
    root = layouts.cvact(tmp_path / "cvact", ["../../secretsecretsecre", *layouts.CVACT_IDS[1:]])
    with pytest.raises(DataError, match=r"ACT_data.mat, entry 1: .* no path below"):
        read("cvact", root)


@pytest.mark.slow
def test_a_mat_file_of_another_content_is_told(tmp_path, monkeypatch):
    root = layouts.cars(tmp_path / "cars")
    savemat(root / "cars_annos.mat", {"annotations": np.eye(3), "class_names": layouts.CAR_NAMES})
    with pytest.raises(DataError, match="expected a struct array `annotations`"):
        read("cars", root)
    root = layouts.cvact(tmp_path / "cvact")
    savemat(root / "ACT_data.mat", {"panoIds": np.array(["a", "b"]), "utm": np.zeros((3, 2))})
    with pytest.raises(DataError, match="expected `panoIds`"):
        read("cvact", root)
    savemat(root / "ACT_data.mat", {"panoIds": np.array(["a", "b"]), "utm": np.zeros((2, 2)),
                                    "trainSet": {"trainInd": [[3]]}})  # fmt: skip
    with pytest.raises(DataError, match=r"trainSet.trainInd, numbers from 1 to 2"):
        read("cvact", root)
    savemat(root / "ACT_data.mat", {"zeros": np.zeros((1000, 1000))}, do_compression=True)
    monkeypatch.setattr(matlab, "MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"it holds [\d,]+ characters; this is not the list"):
        read("cvact", root)
    monkeypatch.undo()
    # A byte that the other process does not survive, and one that it does.
    true = bytearray(layouts.cvact(tmp_path / "whole").joinpath("ACT_data.mat").read_bytes())
    (root / "ACT_data.mat").write_bytes(true[:184] + b"\xff" + true[185:])
    with pytest.raises(DataError, match=r"cannot be read as a .mat file"):
        read("cvact", root)
    (root / "ACT_data.mat").write_bytes(b"MATLAB 7.3 MAT-file, HDF5")
    with pytest.raises(DataError, match=r"cannot be read as a .mat file"):
        read("cvact", root)


def test_huge_and_binary_lines_are_refused(tmp_path):
    root = layouts.cub(tmp_path / "cub")
    with (root / "images.txt").open("ab") as file:
        file.write(b"5 " + b"x" * 70_000)
    with pytest.raises(DataError, match=r"images.txt, line 5: is longer than 65,536 bytes"):
        read("cub", root)
    (root / "images.txt").write_bytes(b"1 a.jpg\n2 \xff\xfe.jpg\n")
    with pytest.raises(DataError, match=r"images.txt, line 2: is no text in UTF-8"):
        read("cub", root)
    listed = layouts.manifest(tmp_path / "manifest")
    spoil(listed, 3, "c.jpg," + "x" * 5000 + ",,,,,,,,,p1,")
    with pytest.raises(DataError, match=r"line 3: label is longer than 4,096 characters"):
        read("manifest", listed)
    spoil(listed, 3, "c.jpg," + "x" * 70_000 + ",,,,,,,,,p1,")
    with pytest.raises(DataError, match=r"line 3: is longer than 65,536 bytes"):
        read("manifest", listed)


def test_a_table_that_is_none_is_told(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read("manifest", tmp_path / "a.parquet")
    parquet.write_table(pa.table({"path": ["a.jpg"], "tags": [["x"]]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="column 'tags' is nested"):
        read("manifest", tmp_path / "b.parquet")
    parquet.write_table(pa.table({"path": ["../a.jpg"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c.parquet, row 1: '../a.jpg' is no path below"):
        read("manifest", tmp_path / "c.parquet")


def test_names_of_people_have_a_grammar(tmp_path):
    root = layouts.market1501(tmp_path)
    layouts.picture(root / "query" / "0001_c7s1_001051_00.jpg")
    with pytest.raises(DataError, match=r"0001_c7s1_001051_00.jpg: a name is like 0002_c1s1"):
        read("market1501", root)
    (root / "query" / "0001_c7s1_001051_00.jpg").rename(root / "query" / "-1_c1s1_001051_00.jpg")
    with pytest.raises(DataError, match="person -1 is of the gallery only"):
        read("market1501", root)


def test_faces_lie_in_folders_of_people(tmp_path):
    root = layouts.casia(tmp_path)
    layouts.picture(root / "stray.jpg")
    with pytest.raises(DataError, match=r"stray.jpg: lies in no person's folder"):
        read("casia", root)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("photos", "named LAYOUT:PATH"),
        ("cubs:/data", r"did you mean cub:PATH\?"),
        ("cub:", "names no path"),
        ("cub:a\0b", "names no path"),
        ("cub:/nowhere\x1b[2J", r"/nowhere\\x1b\[2J: there is no such folder"),
    ],
)
def test_names_of_data_sets(spec, said):
    with pytest.raises(DataError, match=said):
        data.read(spec)


def test_a_file_of_that_name_is_no_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data.names_data("folder:photos")
    (tmp_path / "folder:photos").mkdir()
    assert not data.names_data("folder:photos")
    assert not data.names_data("s3://bucket/photos")
    assert not data.names_data("photos")


def test_a_gallery_takes_data_sets(tmp_path):
    found = list_images(f"cub:{layouts.cub(tmp_path / 'cub')}")
    assert [one.label for one in found.files][2] == "002.Laysan_Albatross"
    assert found.files[0].metadata == {"split": "test", "x0": 2, "y0": 3, "x1": 12, "y1": 11}
    assert found.columns.names == ["split", "x0", "y0", "x1", "y1"]
    market = list_images([f"market1501:{layouts.market1501(tmp_path / 'market')}"])
    assert market.columns.names == ["split", "camera", "junk"]
    assert [one.metadata["junk"] for one in market.files].count(True) == 1
    with pytest.raises(DataError, match="no such folder"):
        list_images("cub:nowhere")


LISTS = [(layout, file) for layout, file, *_ in ESCAPES] + [
    ("cub", "bounding_boxes.txt"), ("cub", "classes.txt"), ("fiw", "FIDs/F0002/mid.csv"),
    ("inshop", "Anno/list_bbox_inshop.txt"),
    ("vigor", "splits/Seattle/same_area_balanced_train.txt"),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One folder for each layout, whose lists are spoilt and put back."""
    made = {}
    for layout in {layout for layout, _ in LISTS}:
        root = tmp_path_factory.mktemp(layout)
        made[layout] = (layouts.LAYOUTS[layout](root), root)
    return made


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(draw=st.data())
def test_whatever_a_list_holds_it_is_read_or_refused(whole, draw):
    layout, file = draw.draw(st.sampled_from(LISTS))
    path, root = whole[layout]
    true = (root / file).read_bytes()
    at = draw.draw(st.integers(0, len(true)))
    end = draw.draw(st.integers(at, min(at + 40, len(true))))
    piece = draw.draw(st.binary(max_size=40) | st.sampled_from([b"", b"\n", b"\t", b"\0", b'"']))
    (root / file).write_bytes(true[:at] + piece + true[end:])
    try:
        with contextlib.suppress(DataError):
            assert len(read(layout, path)) > 0
    finally:
        (root / file).write_bytes(true)
