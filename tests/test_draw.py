"""Drawing: the right pixels get the right colour, the others stay the photograph's."""

import numpy as np
import pytest
import torch
from PIL import Image

import whyalike as wa
from whyalike import draw
from whyalike.geometry import Frame

GREY = Image.new("RGB", (50, 30), (128, 128, 128))
FRAME = Frame((50, 30), (0, 0, 50, 30), (3, 5))


def planted(value: float) -> torch.Tensor:
    values = torch.zeros(3, 5)
    values[1, 3] = value
    return values


def test_a_map_on_a_photograph_is_grid_sample():
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    found = draw.on_photograph(values, FRAME, (100, 60))
    expected = torch.nn.functional.interpolate(
        values[None, None], size=(60, 100), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_the_network_did_not_see_has_no_value():
    frame = Frame((50, 30), (10, 0, 40, 30), (3, 3))
    found = draw.on_photograph(torch.ones(3, 3), frame, (50, 30))
    assert np.isnan(found[:, :10]).all()
    assert np.isnan(found[:, 40:]).all()
    assert (found[:, 10:40] == 1).all()


@pytest.mark.parametrize(("value", "stronger"), [(1.0, 0), (-1.0, 2)])
def test_red_is_for_and_blue_against(value, stronger):
    drawn = np.asarray(draw.overlay(GREY, planted(value), FRAME, limit=1.0)).astype(int)
    at, away = drawn[15, 35], drawn[5, 5]
    assert at[stronger] - at[2 - stronger] > 60
    assert np.ptp(away) <= 1  # zero is clear


def test_signs_limits_and_opacity():
    def strength(**kwargs) -> int:
        image = draw.overlay(GREY, planted(-0.5), FRAME, **kwargs)
        return int(np.ptp(np.asarray(image)[15, 35].astype(int)))

    assert strength(sign="positive") <= 1
    assert strength(sign="negative") == strength(sign="both")
    assert strength(limit=0.5) == strength() > strength(limit=5.0) > 0
    assert strength(opacity=0.3) < strength(opacity=0.9)
    with pytest.raises(ValueError, match="came 'up'"):
        strength(sign="up")
    assert draw.overlay(GREY, torch.zeros(3, 5), FRAME).size == GREY.size


def made_of(values: torch.Tensor, size_wh: tuple[int, int], name: str) -> wa.Contributions:
    h, w, _ = values.shape
    frame = Frame(size_wh, (0, 0, *size_wh), (h, w))
    picture = Image.new("RGB", size_wh, (150, 160, 150))
    embedding = values.sum((0, 1))
    return wa.Contributions(values, torch.zeros(len(embedding)), embedding, frame, name, picture)


@pytest.mark.parametrize("sizes", [((60, 40), (40, 60)), ((20, 200), (200, 20)), ((64, 64),) * 2])
@pytest.mark.parametrize("marks", [0, 1, 3])
def test_figures_of_any_shape_fit_their_sheet(sizes, marks):
    generator = torch.Generator().manual_seed(0)
    q = made_of(torch.randn(4, 6, 3, generator=generator), sizes[0], "a $name$\n" + "x" * 90)
    r = made_of(torch.randn(6, 4, 3, generator=generator), sizes[1], "b.jpg")
    points = [(sizes[0][0] / 2, sizes[0][1] / 2)] * min(marks, 2)
    regions = [(1, 1, 9, 9)] * (marks - len(points))
    figure = draw.figure(wa.Pair(q, r), points=points, regions=regions)
    figure.canvas.draw()
    width, height = figure.get_size_inches()
    assert 2 <= width <= draw.WIDTH_INCHES + 1e-6
    boxes = [ax.get_position() for ax in figure.axes]
    assert all(b.x0 >= -1e-9 and b.y0 >= -1e-9 and b.x1 <= 1 and b.y1 <= 1 for b in boxes)
    for ax in figure.axes:  # pictures keep their shape
        if not ax.axison:
            shown = ax.get_position()
            image = ax.images[0].get_array().shape
            ratio = shown.width * width / (shown.height * height)
            assert ratio == pytest.approx(image[1] / image[0], rel=1e-3)
