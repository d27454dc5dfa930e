"""Headings over data sets: truth, errors, intervals, reports, the commands, the moving point."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import layouts
import whyalike as wa
from pages import Open, settle
from test_orientation import AERIAL, GROUND, pair_of, scene
from whyalike.apps import moving_point, orientation
from whyalike.apps import orientation_evaluation as evaluation
from whyalike.apps.orientation import Compass, Estimate, estimate
from whyalike.apps.orientation_evaluation import evaluate_orientation, histogram, wilson
from whyalike.apps.orientation_report import report
from whyalike.cli import cli, orient
from whyalike.data import read
from whyalike.errors import DataError, OutputFileError, WhyalikeError
from whyalike.train.towers import TowerSettings
from whyalike.zoo import trained_towers

PLACES = (
    (((0, 0), (100, 100)), (256, 256)),
    (((-60, -60), (30, 30), (150, 150)), (256, 256)),
    (((20, 20), (-100, -100)), (200, 300)),
    (((170, 170), (-20, -20)), (300, 230)),
)
"""Landmarks of places whose panoramas look north, and where the camera stands."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A table of pairs whose cameras do not all stand in the middle."""
    root = tmp_path_factory.mktemp("places")
    with (root / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "view", "pair", "camera_x", "camera_y"])
        for number, (landmarks, camera) in enumerate(PLACES):
            pictures = scene(landmarks, camera_xy=camera)
            for view, picture in zip(("ground", "aerial"), pictures, strict=True):
                picture.save(root / f"{view}{number}.png")
                where = camera if view == "aerial" else ("", "")
                table.writerow([f"{view}{number}.png", view, f"p{number}", *where])
    return read(f"manifest:{root / 'table.csv'}")


@pytest.mark.parametrize("turn", ["panorama", "tile", "none"])
def test_votes_find_headings_that_were_turned_by_lot(places, turn):
    done = []
    found = evaluate_orientation(GROUND, AERIAL, places, turn=turn, seed=3,
                                 tell=lambda *now: done.append(now))  # fmt: skip
    assert done[-1] == ("pairs", 4, 4)
    assert (np.ptp(found.truth) == 0) == (turn == "none")
    assert np.abs(found.errors("votes")).max() < 8
    assert found.within("votes", 8) == 1
    other = evaluate_orientation(GROUND, AERIAL, places, turn=turn, seed=3)
    assert (other.truth == found.truth).all()


def test_a_panorama_that_begins_elsewhere_looks_elsewhere():
    panorama, _ = scene([(90, 0)])  # red at three quarters of its width
    moved = evaluation.begun_at(panorama, 256)  # a quarter further clockwise
    assert np.asarray(moved)[60, 512].tolist() == [255, 0, 0]
    tile = Image.new("RGB", (100, 100), (9, 9, 9))
    tile.putpixel((50, 10), (255, 0, 0))
    _, turned, by, camera = evaluation._turned(panorama, tile, "tile", 0.25, (50.5, 10.5))
    assert by == 90
    assert camera == pytest.approx((89.5, 50.5))
    assert np.asarray(turned)[50, 89, 0] > 200


def test_a_tile_that_is_turned_turns_the_heading(places):
    """What lay north of the camera lies east, so a camera that looked there looks east."""
    one = replace(places, samples=places.samples[:2], pairs=places.pairs[:1])
    found = evaluate_orientation(GROUND, AERIAL, one, turn="tile", seed=1)
    lot = float(np.random.default_rng(1).random())
    assert found.truth[0] == pytest.approx(360 * lot)
    assert abs(found.errors("votes")[0]) < 8
    east = evaluate_orientation(GROUND, AERIAL, one, turn="none", looks=90.0)
    assert abs(abs(east.errors("votes")[0]) - 90) < 8


def test_errors_shares_and_intervals():
    truth = np.array([0.0, 10.0, 350.0, 180.0])
    headings = (3.0, 14.0, 170.0, 179.0)
    estimates = {"votes": tuple(Estimate(one) for one in headings)}
    found = evaluation.Orientation("d", ("a", "b"), "none", 0, truth, estimates)
    assert found.errors("votes").tolist() == pytest.approx([3, 4, -180, -1])
    assert found.within("votes") == 0.5
    assert found.within("votes", 4) == 0.75
    assert found.opposite("votes") == 0.25
    assert found.interval("votes") == wilson(2, 4)


def test_wilsons_interval():
    """It holds the shares p from which the observed one is 1.96 standard deviations off."""
    for hits, n in ((8, 10), (1, 300), (150, 300)):
        for p in wilson(hits, n):
            assert abs(hits / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n))
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1
    with pytest.raises(ValueError, match="came 3 of 2"):
        wilson(3, 2)


def test_the_histogram_of_figure_9():
    errors = np.array([0, 3.4, -3.4, 3.6, -7, 178.4, 178.6, -180, -178.6, 90])
    middles, shares = histogram(errors)
    assert len(middles) == 52
    counts = dict(zip(middles.tolist(), (10 * shares).round().astype(int).tolist(), strict=True))
    assert {key: n for key, n in counts.items() if n} == {
        0: 3, 7: 1, -7: 1, 175: 1, -180: 3, 91: 1,
    }  # fmt: skip


def test_how_sure_it_was():
    """Of ten pairs, those told with more are right more often."""
    angles = np.arange(720) / 2

    def one(heading, sure):
        density = np.where(np.abs(orientation.wrapped(angles - heading)) < 20, sure, 0.0)
        density += np.where(np.abs(orientation.wrapped(angles - heading - 180)) < 20, 1 - sure, 0)
        return Estimate(heading, density / density.sum())

    pairs = [(0, 0.9), (0, 0.95), (0, 0.9), (5, 0.99), (180, 0.6), (0, 0.6), (90, 0.99)]
    found = evaluation.Orientation("d", ("a", "b"), "none", 0, np.zeros(7),
                                   {"votes": tuple(one(*pair) for pair in pairs)})  # fmt: skip
    (low, half, few), (high, all_of_them, many) = found.told_sure("votes", bins=2)
    assert (few, many) == (3, 3)  # 90° is neither
    assert (half, all_of_them) == (pytest.approx(2 / 3), 1)
    assert low < 0.75 < high


def test_the_report(places):
    found = evaluate_orientation(GROUND, AERIAL, places)
    made = report(found)
    numbers = json.loads(made.json())
    assert numbers["pairs"] == 4
    assert {*numbers["estimators"]} == {*orientation.ESTIMATORS}
    votes = numbers["estimators"]["votes"]
    assert votes["within"]["10"] == 1
    assert sum(votes["histogram"]) == pytest.approx(1)
    for truth, heading in zip(numbers["truth"], votes["headings"], strict=True):
        assert abs(float(orientation.wrapped(heading - truth))) < 8
    text = made.markdown()
    assert "the paper's" in text
    assert "chance" in text
    assert "data:image/png" in made.html()


def test_data_that_cannot_be_used_is_told(places, tmp_path):
    with pytest.raises(DataError, match="has no pairs of a view from the street"):
        evaluation.pairs_of(read(f"folder:{layouts.folder(tmp_path / 'folder')}"))
    with pytest.raises(DataError, match="turn is one of panorama, tile, none"):
        evaluate_orientation(GROUND, AERIAL, places, turn="both")
    with pytest.raises(DataError, match="are numbers of pixels"):
        evaluation._camera({"camera_x": "left", "camera_y": "3"})
    root = places[0].path.parent
    bad = replace(places.samples[0], path=root / "bad.png")
    (root / "bad.png").write_bytes(b"no picture")
    some = replace(places, samples=(bad, *places.samples[1:4]), pairs=places.pairs[:2])
    found = evaluate_orientation(GROUND, AERIAL, some)
    assert len(found.truth) == 1
    assert "bad.png" in found.left_out[0][0]
    with pytest.raises(DataError, match="no pair of it can be read"):
        evaluate_orientation(GROUND, AERIAL, replace(some, pairs=places.pairs[:1]))
    assert len(evaluation.pairs_of(places, 2)) == 2


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A folder with two small towers of random weights."""
    folder = tmp_path_factory.mktemp("towers")
    form = TowerSettings(embedding=8, ground_size=(16, 64), aerial_size=32).form()
    torch.manual_seed(0)
    trained_towers.save(folder, trained_towers.build(form, pretrained=False), form, {})
    return str(folder)


def invoke(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=True)


def test_the_command_on_the_layout_of_cvusa(towers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = layouts.cvusa(tmp_path / "cvusa")
    outputs = ("-o", "headings.html", "-o", "headings.json")
    done = invoke("orient", "--data", f"cvusa:{root}", "--model", towers, *outputs)
    assert done.exit_code == 0, done.output
    assert "Of 1 pairs, the heading is within ±3.5°" in done.stdout  # the split "val"
    assert json.loads((tmp_path / "headings.json").read_text())["pairs"] == 1
    both = invoke("orient", "--data", f"cvusa:{root}", "--model", towers, "--split", "train",
                  "--turn", "tile", "--json")  # fmt: skip
    assert json.loads(both.stdout)["pairs"] == 2


def test_the_command_on_a_pair(towers, tmp_path, monkeypatch):
    monkeypatch.setattr(moving_point, "FRAMES", 3)
    panorama, tile = scene([(0, 90)])
    names = [str(tmp_path / name) for name in ("street.png", "above.png")]
    for picture, name in zip((panorama, tile), names, strict=True):
        picture.save(name)
    written = [str(tmp_path / name) for name in ("h.html", "h.gif")]
    options = [part for name in written for part in ("--animate", name)]
    done = invoke("orient", *names, "--model", towers, *options)
    assert done.exit_code == 0, done.output
    assert "votes" in done.stdout
    with Image.open(written[1]) as gif:
        assert gif.n_frames == 3
    told = json.loads(
        invoke("orient", *names, "--model", towers, "--zero", "north", "--json").stdout
    )
    paper = json.loads(invoke("orient", *names, "--model", towers, "--json").stdout)
    assert (told["zero"], paper["zero"]) == (0, 180)
    gap = paper["estimates"]["votes"]["heading"] - told["estimates"]["votes"]["heading"]
    assert abs(gap) == pytest.approx(180)
    for arguments, message in (
        ((names[0],), "give GROUND and AERIAL, or --data"),
        ((*names, "--data", "cvusa:x"), "not both"),
        ((*names, "-o", "x.html"), "of one pair, --animate writes"),
        (("--data", "cvusa:x", "--camera", "1,2"), "are for one pair"),
        ((*names, "--animate", str(tmp_path / "x.png")), "one of .html, .gif"),
        ((names[0], "nothing.png"), "there is no such file"),
        ((*names, "--camera", "9999,2"), "the camera stands in the view"),
    ):
        done = invoke("orient", *arguments, "--model", towers)
        said = str(done.exception) if isinstance(done.exception, WhyalikeError) else done.output
        assert done.exit_code != 0
        assert message in said, (arguments, said)


LANDMARK = (60.0, 100.0)
"""Its azimuth and bearing: the panorama's middle column looks at 40°, north-east."""
COLOURED = ("--model", "test_orientation:GROUND", "--reference-model", "test_orientation:AERIAL")


ANGLES = {
    ("south", True): 220,  # as in the paper: 0° south, 90° west, 180° north, 270° east
    ("north", True): 40,
    ("east", True): 310,
    ("west", True): 130,
    ("south", False): 140,
    ("north", False): 320,
    ("east", False): 50,  # as in mathematics
    ("west", False): 230,
}
"""What 40°, north-east, is told as: by where 0° is, and whether angles grow clockwise."""


def test_one_landmark_in_every_way_to_tell_angles(tmp_path):
    names = [str(tmp_path / name) for name in ("street.png", "above.png")]
    for picture, name in zip(scene([LANDMARK]), names, strict=True):
        picture.save(name)
    pair = wa.explain_pair(GROUND, names[0], names[1], reference_model=AERIAL)
    found = estimate(pair)
    for (zero, clockwise), angle in ANGLES.items():
        told = orientation.told(found, Compass(orient.DIRECTIONS[zero], clockwise))
        for name, one in told.items():
            off = float(orientation.wrapped(one["heading"] - angle))
            assert abs(off) < 8, (zero, clockwise, name)
    assert {*found} == {*orientation.ESTIMATORS}
    for options, key in (
        ((), ("south", True)),
        (("--zero", "east", "--counterclockwise"), ("east", False)),
    ):
        done = invoke("orient", *names, *COLOURED, *options, "--json")
        one = json.loads(done.stdout)["estimates"]["votes"]
        assert abs(float(orientation.wrapped(one["heading"] - ANGLES[key]))) < 8


@pytest.mark.parametrize("camera", [(256.0, 256.0), (200.0, 300.0)])
@pytest.mark.parametrize(
    ("turn", "lot", "heading"),
    [
        ("none", 0.7, 40),
        ("panorama", 0.25, 130),  # begun a quarter further clockwise
        ("panorama", 0.75, 310),
        ("tile", 50 / 360, 90),  # turned clockwise, and the landmark with it
        ("tile", 0.75, 310),
    ],
)
def test_one_landmark_wherever_panoramas_begin_and_tiles_are_turned(turn, lot, heading, camera):
    pictures = scene([LANDMARK], camera_xy=camera)
    street, above, by, there = evaluation._turned(*pictures, turn, lot, camera)
    assert float(orientation.wrapped(by + 40 - heading)) == pytest.approx(0)
    pair = wa.explain_pair(GROUND, street, above, reference_model=AERIAL)
    for name, one in estimate(pair, there).items():
        assert abs(float(orientation.wrapped(one.heading - heading))) < 8, name
    if camera != (256, 256) and turn == "tile":  # it has gone with the view
        assert np.hypot(*np.subtract(there, camera)) > 40


def test_a_camera_that_a_turn_takes_out_of_the_view_is_left_out(places):
    """One that stands in a corner, of a view that is turned by 45°."""
    corner = replace(places[1], metadata={"camera_x": 5, "camera_y": 5})
    one = replace(places, samples=(places[0], corner, *places.samples[2:4]), pairs=places.pairs[:2])
    seed = next(s for s in range(99) if 0.1 < np.random.default_rng(s).random() < 0.15)
    found = evaluate_orientation(GROUND, AERIAL, one, turn="tile", seed=seed)
    assert len(found.truth) == 1
    assert "its camera stands at" in found.left_out[0][1]


def vigor_of_one_landmark(root, side=512):
    """Chicago, where the camera stands to the left of the centre of its view, and below it.

    The view's centre lies north and east of the panorama, so both offsets are above zero.
    """
    layouts.vigor(root)
    north, east = 92.8, 96.0  # in pixels of 640
    camera = (side * (0.5 - east / 640), side * (0.5 + north / 640))
    street, above = scene([LANDMARK], camera_xy=camera, size=side)
    for split in ("train", "test"):
        listed = root / "splits" / "Chicago" / f"same_area_balanced_{split}.txt"
        lines = [line.split() for line in listed.read_text().splitlines()]
        layouts.write(listed, *(" ".join([*one[:2], str(north), str(east), *one[4:]])
                                for one in lines))  # fmt: skip
    (root / "Seattle").rename(root / "Elsewhere")
    for path in (root / "Chicago").rglob("*.*g"):
        (street if path.parent.name == "panorama" else above).save(path)
    return root


@pytest.mark.parametrize("turn", ["panorama", "tile"])
def test_vigors_offsets_are_where_cameras_stand(turn, tmp_path):
    root = vigor_of_one_landmark(tmp_path / "vigor")
    done = invoke("orient", "--data", f"vigor:{root}", "--split", "train", *COLOURED,
                  "--turn", turn, "--limit", "1", "--json")  # fmt: skip
    found = json.loads(done.stdout)
    assert found["pairs"] == 1
    # The landmark is seen from a panorama whose middle looks at 40° and is taken to look north.
    for name, one in found["estimators"].items():
        errors = orientation.wrapped(np.subtract(one["headings"], found["truth"]))
        assert np.abs(errors - 40).max() < 8, name
    data = read(f"vigor:{root}")
    blind = replace(data, pairs=tuple(replace(one, camera=None) for one in data.pairs))
    wrong = evaluate_orientation(GROUND, AERIAL, blind, turn="none")
    assert np.abs(wrong.errors("votes") - 40).min() > 15


def test_the_layout_of_cvusa_looks_north(tmp_path):
    """A landmark in the east is three quarters on, of a panorama of it as it comes."""
    root = layouts.cvusa(tmp_path / "cvusa")
    street, above = scene([(90, 90)])
    for path in root.rglob("*.jpg"):
        (above if "bingmap" in path.parts else street).save(path, quality=95)
    done = invoke("orient", "--data", f"cvusa:{root}", "--split", "train", *COLOURED, "--json")
    found = json.loads(done.stdout)
    assert found["pairs"] == 2
    assert found["truth"][0] != found["truth"][1]  # they begin at columns by lot
    for one in found["estimators"].values():
        errors = orientation.wrapped(np.subtract(one["headings"], found["truth"]))
        assert np.abs(errors).max() < 8


def test_tables_of_pairs_are_street_and_above(places, tmp_path):
    root = places[0].path.parent
    rows = [f"ground{at}.png,aerial{at}.png,{x},{y}" for at, (_, (x, y)) in enumerate(PLACES)]
    layouts.write(root / "pairs.csv", "query,reference,camera_x,camera_y", *rows)
    found = evaluate_orientation(GROUND, AERIAL, read(f"manifest:{root / 'pairs.csv'}"), seed=3)
    expected = evaluate_orientation(GROUND, AERIAL, places, seed=3)
    for name in orientation.ESTIMATORS:
        assert found.errors(name).tolist() == expected.errors(name).tolist()


PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "published_pairs"


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the paper's pairs are not in {PUBLISHED}")
@pytest.mark.filterwarnings("ignore:published:UserWarning")
def test_the_published_pair_runs_and_is_complete():
    """With random weights: what they say means nothing, but all of it adds up."""
    names = [str(PUBLISHED / f"0013073_{view}.jpg") for view in ("grd", "sat")]
    done = invoke("orient", *names, "--model", "published:siamese_vgg16", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert sum(found["terms"].values()) == pytest.approx(found["similarity"], abs=1e-4)
    assert found["voted"] == pytest.approx(found["terms"]["pairs"], abs=1e-4)
    assert {*found["estimates"]} == {*orientation.ESTIMATORS}
    for one in found["estimates"].values():
        assert sum(mode["probability"] for mode in one["modes"]) == pytest.approx(1, abs=1e-3)


def test_the_point_runs_along_and_its_map_turns(tmp_path):
    """Of one landmark: only when the point is on it does its map show anything, at its bearing."""
    pair = pair_of((40, 130))
    y = moving_point.height_of_point(pair)
    assert y == pytest.approx(60, abs=8)  # of 128 rows, those of the landmark
    maps = moving_point.maps_along(pair, np.array([-100.0, 40.0]), y)
    assert maps[1].max() > 10 * abs(maps[0]).max()
    at = orientation.highest(maps[1], pair.reference.frame)
    assert orientation.bearing_of(at, (256, 256)) == pytest.approx(130, abs=4)
    found = estimate(pair)["votes"]
    words = moving_point.in_words(found, Compass(0.0))
    assert words.startswith("heading ")
    assert words.endswith("0° is north, clockwise")
    pictures = moving_point.frames(pair, found, (256, 256), Compass(), count=3)
    assert len({picture.tobytes() for picture in pictures}) == 3
    with pytest.raises(OutputFileError, match=r"one of \.html, \.gif"):
        moving_point.save_moving(pair, tmp_path / "x.mp4")


@pytest.mark.browser
def test_the_page(open_page: Open, tmp_path):
    """The ray points to where the landmark lies from above when the point is on it."""
    moving_point.save_moving(pair_of((40, 130)), tmp_path / "h.html")
    text = (tmp_path / "h.html").read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    tab = open_page(text, width=900)
    tab.get_by_role("button", name="Pause").click()
    tab.get_by_role("button", name="Play").wait_for()
    slider = tab.get_by_role("slider")
    slider.fill("2200")  # 220° from the left edge: 40° right of the middle
    settle(tab)
    ray = tab.locator(".wh-above svg line").first
    x, y = (float(ray.get_attribute(name) or "nan") for name in ("x2", "y2"))
    assert math.degrees(math.atan2(x - 256, 256 - y)) == pytest.approx(130, abs=8)
    assert "40° to the right of the middle" in tab.locator(".wh-now").inner_text()
    slider.press("ArrowRight")
    slider.fill("900")
    settle(tab)
    assert "90° to the left" in tab.locator(".wh-now").inner_text()
