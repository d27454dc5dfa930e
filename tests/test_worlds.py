"""The world by lot: what is where it should be in both views, and the layout that is written."""

import numpy as np
import pytest
from PIL import Image

from whyalike.data import read, world_views
from whyalike.data.worlds import CELL, FIELD, HOUSE, SIDE, TILE, Layout, layout, place, write_world
from whyalike.images import read_image

BLUE = 2  # a style with a blue roof and pale walls


def empty() -> Layout:
    shape = (SIDE, SIDE)
    height, roll = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    kind = np.full(shape, FIELD, np.uint8)
    return Layout(kind, height, height + np.inf, 0.0, roll, height + np.float32(0.5))


def cells_at(bearing, far, reach=8):
    """The cells of a square of ground in a direction from the camera."""
    a = np.radians(bearing)
    row = round(SIDE / 2 - far / CELL * np.cos(a))
    column = round(SIDE / 2 + far / CELL * np.sin(a))
    return slice(row - reach, row + reach), slice(column - reach, column + reach)


def with_house(laid, bearing, far=25.0, height=8.0, style=BLUE):
    laid.kind[cells_at(bearing, far)] = HOUSE + style
    laid.height[cells_at(bearing, far)] = height
    laid.eaves[cells_at(bearing, far)] = height  # walls all the way up
    return laid


def views(laid, size=192, wh=(360, 65)):
    random = np.random.default_rng(3)
    above = world_views.from_above(laid, random, size, (0, 0))
    return above.astype(int), world_views.from_the_street(laid, random, wh).astype(int)


@pytest.mark.parametrize("bearing", [0, 45, 90, 135, 180, 225, 270, 315])
def test_a_house_is_at_its_bearing_in_both_views(bearing):
    laid = with_house(empty(), bearing)
    bare, bare_street = views(empty())
    above, street = views(laid)
    roof = above[..., 2] > above[..., 1]  # blue, on green
    rows, columns = np.nonzero(roof)
    east, north = columns.mean() + 0.5 - 96, 96 - rows.mean() - 0.5
    assert abs((np.degrees(np.arctan2(east, north)) - bearing + 180) % 360 - 180) < 3
    assert np.hypot(east, north) * CELL * TILE / 192 == pytest.approx(25, abs=1)
    changed = (np.abs(street - bare_street).max(2) > 24).any(0)
    azimuths = np.radians(np.flatnonzero(changed) + 0.5 - 180)
    middle = np.degrees(np.angle(np.exp(1j * azimuths).mean()))
    assert abs((middle - bearing + 180) % 360 - 180) < 3
    assert 10 < changed.sum() < 30  # 8 m at 25 m are 18°, and more across a corner
    assert (bare == views(empty())[0]).all()


def test_it_stands_on_the_ground_and_hides_what_is_behind():
    """8 m at 21 m from an eye at 2.6 m: from −7° to 14.4°; a degree is a row."""
    low = with_house(empty(), 0)
    wall = low.height.copy()
    column = slice(178, 182)
    bare, street = views(empty())[1], views(low)[1]
    changed = np.flatnonzero((np.abs(street - bare)[:, column].max(2) > 24).any(1))
    assert changed[0] == pytest.approx(35 - np.degrees(np.arctan(5.4 / 21)), abs=1.5)
    assert changed[-1] == pytest.approx(35 + np.degrees(np.arctan(2.6 / 21)), abs=1.5)
    behind = with_house(with_house(empty(), 0), 0, far=45.0, style=BLUE + 1)
    assert (views(behind)[1][:, column] == street[:, column]).all()
    assert (wall == low.height).all()


def test_shadows_fall_away_from_the_sun():
    height = with_house(empty(), 0, far=0.0, height=6.0).height
    dark = world_views._shadow(height, (90.0, 45.0))  # in the east
    columns = np.flatnonzero(dark.any(0)) + 0.5 - SIDE / 2
    assert columns.mean() < -6  # it falls to the west
    assert columns.min() * CELL == pytest.approx(-4 - 6, abs=1.7)  # as far as it is high


def test_places_are_a_function_of_seed_and_number():
    one, same, other = place(5, 1), place(5, 1), place(5, 2)
    assert one.aerial.shape == (224, 224, 3)
    assert one.panorama.shape == (96, 512, 3)
    assert (one.aerial == same.aerial).all()
    assert (one.panorama == same.panorama).all()
    assert (one.aerial != other.aerial).mean() > 0.5
    assert (place(6, 1).aerial != one.aerial).mean() > 0.5
    assert one.camera_xy == (112, 112)


def test_the_view_from_above_may_be_moved():
    """What is seen is the same, as far as both show it, in cells."""
    for number in range(3):
        moved = place(0, number, aerial=TILE, off_centre=12.0)
        x, y = (round(one - TILE / 2) for one in moved.camera_xy)
        assert max(abs(x), abs(y)) * CELL <= 12
        assert (x, y) != (0, 0)
        laid = layout(np.random.default_rng([0, number]))
        still, shifted = (
            world_views.from_above(laid, np.random.default_rng(1), TILE, shift).astype(int)
            for shift in ((0, 0), (-x, -y))
        )
        inner = slice(40, TILE - 40)
        there = shifted[40 + y : TILE - 40 + y, 40 + x : TILE - 40 + x]
        assert np.abs(there - still[inner, inner]).mean() < 14  # grain differs, houses do not


def test_the_camera_stands_in_nothing():
    for number in range(8):
        laid = layout(np.random.default_rng([9, number]))
        middle = slice(SIDE // 2 - 6, SIDE // 2 + 6)
        assert not laid.height[middle, middle].any()


def test_it_is_written_as_cvusa(tmp_path):
    done = list(write_world(tmp_path / "world", 3, 2, seed=4, aerial=32, panorama_wh=(64, 16)))
    assert done == [1, 2, 3, 4, 5]
    data = read(f"cvusa:{tmp_path / 'world'}")
    assert data.splits == {"train": 6, "val": 4}
    assert len(data.pairs) == 5
    ground, aerial = (data[i] for i in (data.pairs[0].first, data.pairs[0].second))
    assert (ground.view, aerial.view, ground.label) == ("ground", "aerial", "0000001")
    with Image.open(ground.path) as picture:
        assert picture.size == (64, 16)
    made = place(4, 0, aerial=32, panorama_wh=(64, 16))
    kept = np.asarray(read_image(aerial.path)).astype(int)
    assert np.abs(kept - made.aerial).mean() < 8
