"""Headings read out of maps: landmarks at known bearings, and networks written by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import whyalike as wa
from whyalike.apps import orientation
from whyalike.apps.orientation import Compass, estimate
from whyalike.errors import RegionError

COLOURS = ((255, 0, 0), (0, 0, 255), (0, 200, 0))


class Colours(nn.Module):
    """(N, 3, H, W) → a map of how red, blue and green each 8×8 pixels are: nothing is learned."""

    def forward(self, x):
        r, g, b = x.unbind(1)
        map_ = torch.stack([r - g - b, b - r - g, g - r - b], 1).relu()
        return nn.functional.avg_pool2d(map_, 8)


def colour_model(size):
    plain = wa.Preprocess(size=size, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
    project = nn.Linear(3, 3, bias=False)
    nn.init.eye_(project.weight)
    return wa.EmbeddingModel(
        features=Colours().eval(), pool="mean", project=project.eval(), preprocess=plain
    )


GROUND, AERIAL = colour_model((64, 512)), colour_model(256)


def scene(landmarks, camera_xy=(256.0, 256.0), size=512, far=150.0):
    """A panorama and a view from above, with one colour at each (azimuth, bearing)."""
    panorama, tile = (Image.new("RGB", wh, (90, 90, 90)) for wh in ((1024, 128), (size, size)))
    street, above = ImageDraw.Draw(panorama), ImageDraw.Draw(tile)
    for (azimuth, bearing), colour in zip(landmarks, COLOURS, strict=False):
        x = (azimuth + 180) % 360 / 360 * 1024
        for shift in (-1024, 0, 1024):
            street.rectangle([x + shift - 20, 40, x + shift + 19, 79], fill=colour)
        cx = camera_xy[0] + far * math.sin(math.radians(bearing))
        cy = camera_xy[1] - far * math.cos(math.radians(bearing))
        above.rectangle([cx - 16, cy - 16, cx + 15, cy + 15], fill=colour)
    return panorama, tile


def pair_of(*landmarks, **options):
    panorama, tile = scene(landmarks, **options)
    return wa.explain_pair(GROUND, panorama, tile, reference_model=AERIAL)


def off(found, heading):
    return abs(float(orientation.wrapped(found.heading - heading)))


@pytest.mark.parametrize(
    ("heading", "azimuth"),
    [(0, 0), (0, 77), (37, -150), (90, 0), (90, -40), (135, 77), (180, 0), (180, 179), (250, -40),
     (270, 0), (270, 77), (315, 179)],
)  # fmt: skip
def test_one_landmark_at_a_known_bearing(heading, azimuth):
    """East of a camera that looks north is to the right, and so on all around."""
    found = estimate(pair_of((azimuth, heading + azimuth)))
    assert set(found) == set(orientation.ESTIMATORS)
    for name, one in found.items():
        assert off(one, heading) < 8, (name, one.heading)  # cells are 3.6° and 5.6° wide


def test_words_of_directions():
    """The middle of a panorama that looks north; a landmark in the east lies three quarters on."""
    panorama, tile = scene([(90, 90)])
    assert np.asarray(panorama)[60, 768].tolist() == [255, 0, 0]
    assert np.asarray(tile)[256, 406].tolist() == [255, 0, 0]
    frame = wa.explain_pair(GROUND, panorama, tile, reference_model=AERIAL).query.frame
    assert orientation.azimuth_of((768, 60), frame) == 90
    assert orientation.bearing_of((406, 256), (256, 256)) == pytest.approx(90)
    assert orientation.bearing_of((256, 100), (256, 256)) == pytest.approx(0)
    assert orientation.bearing_of((256, 300), (256, 256)) == pytest.approx(180)
    assert orientation.bearing_of((100, 256), (256, 256)) == pytest.approx(-90)


def test_the_papers_angles_and_others():
    paper = Compass()
    assert [paper.angle(b) for b in (180, 270, 0, 90)] == [0, 90, 180, 270]
    north, against = Compass(0), Compass(90, clockwise=False)  # the latter as in mathematics
    assert [north.angle(b) for b in (0, 90, -90)] == [0, 90, 270]
    assert [against.angle(b) for b in (90, 0, 270, 180)] == [0, 90, 180, 270]
    for compass in (paper, north, against):
        for bearing in (0.0, 12.5, 190.0, 359.0):
            assert compass.bearing(compass.angle(bearing)) == pytest.approx(bearing)
    told = orientation.told(estimate(pair_of((0, 90))), paper)
    assert abs(told["votes"]["heading"] - 270) < 6  # it looks east
    assert orientation.around(-1e-16) == 0
    assert orientation.wrapped([190, -180, 180, 359]).tolist() == [-170, -180, -180, -1]


def test_the_camera_need_not_stand_in_the_middle():
    pair = pair_of((20, 80), camera_xy=(180.0, 330.0))
    right, wrong = estimate(pair, (180.0, 330.0)), estimate(pair)
    for name in orientation.ESTIMATORS:
        assert off(right[name], 60) < 8, name
        assert off(wrong[name], 60) > 15, name
    with pytest.raises(RegionError, match=r"512×512 pixels; came \(600, 3\)"):
        estimate(pair, (600, 3))


def test_votes_tell_apart_what_maxima_cannot():
    """The strongest from above is not what is strongest in the street: red here, blue there."""
    panorama, tile = scene([(0, 120), (100, 220)])
    ImageDraw.Draw(panorama).rectangle([0, 0, 60, 127], fill=(60, 60, 200))
    pair = wa.explain_pair(GROUND, panorama, tile, reference_model=AERIAL)
    found = estimate(pair)
    assert off(found["votes"], 120) < 8


def test_votes_against_a_slow_sum():
    """All pairs of cells, each with all its directions, by loops."""
    ground, aerial = colour_model((16, 96)), colour_model(48)
    scene_ = scene([(10, 70), (-120, -60), (60, 10)])
    pair = wa.explain_pair(ground, *scene_, reference_model=aerial)
    q, r = (c.values.double() / c.length for c in (pair.query, pair.reference))
    weights = torch.einsum("ijd,xyd->jxy", q, r).numpy()
    expected = np.zeros(orientation.HARMONICS + 1, complex)
    (h, w), columns = r.shape[:2], q.shape[1]
    k = np.arange(orientation.HARMONICS + 1)
    for y in range(h):
        for x in range(w):
            points = [(x + (a + 0.5) / 6, y + (b + 0.5) / 6) for a in range(6) for b in range(6)]
            bearings = [math.atan2(u - w / 2, h / 2 - v) for u, v in points]
            of_cell = np.mean([np.exp(-1j * k * b) for b in bearings], axis=0)
            for j in range(columns):
                edges = np.radians([(j + e) / columns * 360 - 180 for e in (0, 1)])
                # The mean of exp(+ikα) over the column, in closed form.
                over = np.ones(len(k), complex)
                over[1:] = (np.exp(1j * k[1:] * edges[1]) - np.exp(1j * k[1:] * edges[0])) / (
                    1j * k[1:] * (edges[1] - edges[0]))  # fmt: skip
                expected += weights[j, y, x] * of_cell * over
    np.testing.assert_allclose(orientation.votes(pair), expected, atol=1e-6)


def test_the_opposite_is_told_with_its_probability():
    """Two houses alike, to the north and to the south of a camera, of which it sees one."""
    panorama, tile = scene([(0, 0)])
    ImageDraw.Draw(tile).rectangle([240, 256 + 134, 271, 256 + 165], fill=COLOURS[0])
    ImageDraw.Draw(panorama).rectangle([800, 40, 839, 79], fill=COLOURS[1])  # seen by nobody
    pair = wa.explain_pair(GROUND, panorama, tile, reference_model=AERIAL)
    first, second = estimate(pair)["votes"].modes
    assert {round(m.heading / 180) % 2 for m in (first, second)} == {0, 1}
    assert first.probability == pytest.approx(0.5, abs=0.05)
    assert first.probability + second.probability == pytest.approx(1)
    alone = estimate(pair_of((0, 0)))["votes"].modes
    assert off(alone[0], 0) < 8
    assert alone[0].probability > 0.9
    (only,) = estimate(pair)["overall"].modes
    assert only.probability == 1


def test_densities_add_up_and_peak_at_the_heading():
    one = estimate(pair_of((0, 45), (90, 135)))["votes"]
    assert one.density.shape == (720,)
    assert one.density.sum() == pytest.approx(1)
    assert one.density.min() >= 0
    assert off(one, one.density.argmax() / 2) <= 0.5
