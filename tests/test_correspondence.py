"""Point maps against true matches that are known, of made pictures and of the stereo pair."""

import json
import socket

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import whyalike as wa
from whyalike.cli import cli
from whyalike.errors import DataError, ModelError
from whyalike.evaluate import correspondence as match
from whyalike.evaluate.correspondence_report import report
from whyalike.geometry import Frame


def cells(side=16, colours=32):
    """Sees each cell's colour as one of many features: no two random colours share one."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, colours, 4, stride=4), nn.ReLU()).eval()
    with torch.no_grad():
        centres = torch.rand(colours, 3) - 0.5
        trunk[0].weight.copy_(centres[:, :, None, None].expand(-1, -1, 4, 4) / 16)
        trunk[0].bias.zero_()
    plain = wa.Preprocess(size=side, mean=(0.5, 0.5, 0.5), std=(1, 1, 1), interpolation="nearest")
    return wa.EmbeddingModel(trunk, "flatten", None, plain)


def mosaic(seed=0):
    """4×4 cells of 4 pixels, each of its own colour."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(colours.repeat(4, 0).repeat(4, 1))


def test_perfect_correspondence_scores_full_marks():
    model, picture = cells(), mosaic()
    points = match.grid_points((16, 16), 4)  # the cells' centres
    itself = match.Matched("mosaic", "homography", picture, picture, points, points)
    found = match.located(match.Towers(model), itself, ["cosine"])
    for name in ("cosine", "nearest cell", "same place"):
        far = match.distances(found[name], points, (16, 16))
        assert match.pck(far, [1e-9, 0.1]).tolist() == [1, 1]
    # Cells permuted: a point is where its colour went, and no longer where it was.
    order = np.random.default_rng(1).permutation(16)
    small = np.asarray(picture)[::4, ::4].reshape(16, 3)
    other = np.zeros_like(small)
    other[order] = small
    shuffled = Image.fromarray(other.reshape(4, 4, 3).repeat(4, 0).repeat(4, 1))
    moved = match.Matched("mosaic", "homography", picture, shuffled, points, points[order])
    found = match.located(match.Towers(model), moved, ["cosine"])
    assert found["cosine"] == pytest.approx(points[order])
    assert match.pck(match.distances(found["same place"], points[order], (16, 16)), [0.1]) < 0.2


def test_point_maps_find_cells_of_orthogonal_colours():
    """Contributions of a mean of one-hot colours: v of a point meets only cells of its colour."""
    trunk = nn.Sequential(nn.Conv2d(3, 3, 4, stride=4, bias=False)).eval()
    with torch.no_grad():
        trunk[0].weight.copy_(torch.eye(3)[:, :, None, None].expand(-1, -1, 4, 4) / 16)
    plain = wa.Preprocess(size=(4, 12), mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    model = wa.EmbeddingModel(trunk, "mean", None, plain)
    colours = 255 * np.eye(3, dtype=np.uint8)[None]
    first = Image.fromarray(colours.repeat(4, 0).repeat(4, 1))
    second = Image.fromarray(colours[:, [2, 0, 1]].repeat(4, 0).repeat(4, 1))
    points = np.array([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0]])
    given = match.Matched("three", "homography", first, second, points, points[[1, 2, 0]])
    found = match.located(match.Towers(model), given, ["decomposition"])
    assert found["decomposition"] == pytest.approx(given.matches_xy)


def colour_tower(size, block, order):
    """Mean colours of blocks of pixels; red, green and blue are directions in some order."""
    trunk = nn.Sequential(nn.Conv2d(3, 4, block, stride=block, bias=False)).eval()
    project = nn.Linear(4, 3, bias=False).eval()
    with torch.no_grad():
        rows = torch.cat([torch.eye(3), torch.zeros(1, 3)])  # a feature that says nothing
        trunk[0].weight.copy_(rows[:, :, None, None].expand(-1, -1, block, block) / block**2)
        project.weight.copy_(torch.eye(3)[order] @ torch.eye(3, 4))
    plain = wa.Preprocess(size=size, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    return wa.EmbeddingModel(trunk, "mean", project, plain)


def test_two_networks_of_unlike_forms_and_one_space():
    """What is red for the one is blue for the other, and so on: points are found across."""
    first, second = colour_tower((4, 12), 4, [0, 1, 2]), colour_tower((16, 24), 8, [2, 0, 1])
    colours = 255 * np.eye(3, dtype=np.uint8)[None]
    here = Image.fromarray(colours.repeat(4, 0).repeat(4, 1))
    there = Image.fromarray(colours[:, [0, 2, 1]].repeat(20, 0).repeat(10, 1))
    points = np.array([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0]])
    # Red is answered by blue, green by red, and blue by green, in two rows of cells each.
    answers = np.array([[15.0, 5.0], [5.0, 5.0], [25.0, 5.0]])
    given = match.Matched("three", "homography", here, there, points, answers)
    found = match.located(match.Towers(first, second), given, ["decomposition"])
    assert found["decomposition"] == pytest.approx(answers)
    one = match.located(match.Towers(first), given, ["decomposition"])
    assert one["decomposition"][0] == pytest.approx([5, 10])  # red by red, with one network


@pytest.mark.parametrize("form", ["--plain", "--sharp"])
def test_two_networks_explain_a_pair(form, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        mosaic(seed).resize((48, 40)).save(tmp_path / f"{name}.png")
    done = CliRunner().invoke(cli, [
        "explain", str(tmp_path / "a.png"), str(tmp_path / "b.png"), form, "--json",
        "--model", "test_correspondence:FIRST", "--reference-model", "test_correspondence:SECOND",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert sum(found["terms"].values()) == pytest.approx(found["similarity"], abs=1e-5)
    if form == "--plain":
        assert (found["query"]["grid_hw"], found["reference"]["grid_hw"]) == ([6, 9], [8, 8])


def test_two_networks_on_the_stereo_pair(tmp_path):
    """What is said of them, and what cannot be compared."""
    first, second = colour_tower((24, 36), 4, [0, 1, 2]), colour_tower(16, 2, [0, 1, 2])
    found = match.evaluate_correspondence(first, [], ["decomposition"], reference_model=second)
    assert {*found.kinds} == {"stereo"}
    assert found.distances["chance"].shape[1] == 64  # cells of the second
    settings = report(found, pictures=False).settings
    assert "4×6×9" in settings["model, network"]
    assert "4×8×8" in settings["reference's model, network"]
    other = wa.EmbeddingModel(
        nn.Conv2d(3, 3, 4, stride=4).eval(), "mean", None, wa.Preprocess(16, (0,) * 3, (1,) * 3)
    )
    with pytest.raises(ModelError, match="they have 4 and 3 channels; leave the method cosine"):
        match.evaluate_correspondence(first, [], ["cosine"], reference_model=other)
    (tmp_path / "some").mkdir()
    mosaic().save(tmp_path / "some" / "a.png")
    done = CliRunner().invoke(cli, [
        "evaluate", "correspondence", "--model", "test_correspondence:FIRST",
        "--reference-model", "test_correspondence:SECOND", "--methods", "decomposition", "--json",
        "--data", f"folder:{tmp_path}",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    assert numbers["settings"]["methods"].split(", ")[0] == "decomposition"
    assert (
        numbers["pck"]["stereo"]["decomposition"] == found.pck("decomposition", "stereo").tolist()
    )


FIRST, SECOND = colour_tower((24, 36), 4, [0, 1, 2]), colour_tower(16, 2, [0, 1, 2])


def test_directions_find_what_is_faint():
    """Where the strongest cell is first in every point's map, the nearest v is the right one."""
    points = np.array([[2.0, 2.0], [6.0, 2.0]])
    grey = Image.new("RGB", (12, 4))
    given = match.Matched("faint", "homography", grey, grey, points, points)
    v = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    frame = Frame((12, 4), (0, 0, 12, 4), (1, 3))
    one = wa.Contributions(v, torch.zeros(2), v.sum((0, 1)), frame)

    class Model:
        def explain(self, _):
            return [one, one]

        def sharp(self):
            return self

        drawn = sharp
        preprocess = None

    methods = ["decomposition", "sharp", "drawn", "direction"]
    found = match.located(match.Towers(Model()), given, methods)
    assert found["direction"] == pytest.approx(given.matches_xy)
    for name in ("decomposition", "sharp", "drawn"):
        assert found[name] == pytest.approx(np.array([[10.0, 2.0]] * 2))


def test_each_form_of_a_network_is_asked_for_its_own_points():
    """Three cells, each largest in one form, as all of a form's v are of one direction."""
    points = np.array([[2.0, 2.0], [6.0, 2.0]])
    grey = Image.new("RGB", (12, 4))
    given = match.Matched("forms", "homography", grey, grey, points, points)
    frame = Frame((12, 4), (0, 0, 12, 4), (1, 3))

    class Form:
        preprocess = None

        def __init__(self, largest):
            self.v = torch.ones(1, 3, 2)
            self.v[0, largest] = 9.0

        def explain(self, _):
            return [wa.Contributions(self.v, torch.zeros(2), self.v.sum((0, 1)), frame)] * 2

        def sharp(self):
            return Form(1)

        def drawn(self):
            return Form(2)

    found = match.located(match.Towers(Form(0)), given, ["decomposition", "sharp", "drawn"])
    for name, x in (("decomposition", 2), ("sharp", 6), ("drawn", 10)):
        assert found[name] == pytest.approx(np.array([[x, 2.0]] * 2)), name


def test_intervals_by_hand():
    """Of two photographs one is found, and the other is not; each point of a photograph with it."""
    far = np.array([0.0, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0])
    found = match.Correspondence(
        kinds=np.array(["stereo"] * 3 + ["homography"] * 4),
        photographs=np.array([0, 0, 0, 1, 1, 2, 2]),
        distances={"one": far, "other": far + np.array([0, 0, 0, 0, 0, 0.2, 0.2]),
                   "nearest cell": far, "chance": np.stack([far, far + 1], 1)},
        names=("motorcycle", "a.png", "b.png"), seed=0, model=FIRST, shown=(),
    )  # fmt: skip
    one, other, ahead = (
        found.interval(name, "homography", over=over)
        for name, over in (("one", None), ("other", None), ("one", "other"))
    )
    assert (one.mean, one.low, one.high) == (1, 1, 1)
    for interval in (other, ahead):
        assert (interval.mean, interval.low, interval.high) == (0.5, 0, 1)
    assert found.interval("other", "homography", 0.2).low == 1
    assert found.interval("chance", "homography").mean == 0.5
    assert found.interval("one", "stereo").mean == pytest.approx(1 / 3)
    made = report(found, pictures=False)
    stereo, homography = made.tables
    assert "0.1, 95 %" not in stereo.columns  # of one photograph nothing is known of others
    assert homography.rows[1] == ["other", "50.0", "50.0", "50.0", "100.0", "0.0–100.0", "0.100"]
    assert made.numbers["interval_at_0.1"] == {
        "homography": {"one": [1, 1], "other": [0, 1], "nearest cell": [1, 1], "chance": [0.5, 0.5]}
    }


def test_pck_by_hand():
    far = match.distances(np.array([[0.0, 0], [3, 4], [0, 30]]), np.zeros((3, 2)), (50, 100))
    assert far.tolist() == [0, 0.05, 0.3]
    assert match.pck(far, [0.01, 0.05, 0.2, 0.3]) == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])


def test_homographies_take_pixels_where_they_say():
    ramp = np.zeros((60, 90, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = 2 * np.arange(90)[None], 3 * np.arange(60)[:, None]
    for seed in range(4):
        made = match.warped("ramp", Image.fromarray(ramp), seed=seed)
        assert len(made.points_xy) > 10
        after = np.asarray(made.second).astype(float)
        for (x, y), (u, v) in zip(made.points_xy, made.matches_xy, strict=True):
            if not (2 < u < 88 and 2 < v < 58):
                continue
            r, g, _ = after[int(v), int(u)]
            assert (r / 2 + 0.5, g / 3 + 0.5) == pytest.approx((x, y), abs=2)
    still = match.warped("ramp", Image.fromarray(ramp), seed=0, strength=0)
    assert still.matches_xy == pytest.approx(still.points_xy)
    with pytest.raises(ValueError, match=r"below 0\.5"):
        match.warped("ramp", Image.fromarray(ramp), seed=0, strength=0.5)


def test_a_homography_by_scikit_image():
    from skimage.transform import ProjectiveTransform

    random = np.random.default_rng(0)
    here = np.array([[0, 0], [9, 0], [9, 7], [0, 7]], float)
    there = here + random.uniform(-1, 1, (4, 2))
    matrix = match.homography(here, there)
    points = random.uniform(0, 7, (20, 2))
    assert match.project(matrix, here) == pytest.approx(there)
    assert match.project(matrix, points) == pytest.approx(ProjectiveTransform(matrix)(points))


def test_what_is_hidden_in_the_right_picture_by_brute_force():
    random = np.random.default_rng(0)
    disparity = random.integers(1, 9, (6, 30)).astype(np.float32)
    disparity[random.random((6, 30)) < 0.1] = np.inf
    seen = match.visible(disparity)
    for row in range(6):
        for x in range(30):
            d = disparity[row, x]
            lands = x - d
            rivals = [e for u, e in enumerate(disparity[row]) if np.isfinite(e) and u - e == lands]
            expected = np.isfinite(d) and lands >= 0 and d >= max(rivals) - 1
            assert seen[row, x] == expected


def test_the_stereo_pair_is_here_and_its_matches_look_alike(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)  # nothing is fetched
    found = match.stereo()
    assert len(found.points_xy) > 100
    shift = found.points_xy - found.matches_xy
    assert (shift[:, 1] == 0).all()
    assert 7 < shift[:, 0].min() < shift[:, 0].max() < 60
    left, right = (
        np.asarray(one.convert("L")).astype(float) for one in (found.first, found.second)
    )

    def difference(matches):
        (x, y), (u, v) = (a.astype(int).T for a in (found.points_xy, matches))
        return np.median(np.abs(left[y, x] - right[v, u]))

    assert difference(found.matches_xy) < 0.4 * difference(found.points_xy)


def test_the_command_and_its_report(tmp_path, monkeypatch):
    (tmp_path / "cells.py").write_text("from test_correspondence import cells\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    mosaic().resize((64, 64)).save(tmp_path / "photos" / "a" / "one.png")
    line = ["evaluate", "correspondence", "--model", "cells:cells", "--data", "folder:photos",
            "--methods", "decomposition,cosine"]  # fmt: skip
    shown = CliRunner().invoke(cli, [*line, "-o", "a.json", "-o", "a.html", "-o", "a.md"])
    assert shown.exit_code == 0, shown.output
    again = CliRunner().invoke(cli, [*line, "--json"])
    assert again.stdout == (tmp_path / "a.json").read_text() + "\n"
    told = json.loads(again.stdout)
    assert told["photographs"] == ["motorcycle", "one.png"]
    assert told["pck"]["homography"]["nearest cell"][-1] == 1
    chance = told["pck"]["stereo"]["chance"]
    # A disc of radius 0.2 of the longer side, over the area; less at the border.
    assert 0.4 * np.pi * 0.04 * 741 / 500 < chance[-1] < np.pi * 0.04 * 741 / 500
    assert "PCK, stereo" in shown.stdout
    assert "data:image" in (tmp_path / "a.html").read_text()
    bad = CliRunner().invoke(cli, [*line[:-1], "dino"])
    assert (
        "a method is one of decomposition, sharp, drawn, direction, cosine; came 'dino'"
        in bad.output
    )
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(DataError, match="no photograph can be read"):
        match.evaluate_correspondence(cells(), [tmp_path / "broken.png"])
