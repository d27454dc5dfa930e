"""Cells, points, boxes and masks on a photograph."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from whyalike.errors import RegionError, WhyalikeError
from whyalike.geometry import XYXY, Frame

# Width, height, view and grid all unlike, so that no transpose goes unseen. The second frame is a
# centre crop whose edges fall inside pixels.
WHOLE = Frame(size_wh=(50, 21), view_xyxy=(0.0, 0.0, 50.0, 21.0), grid_hw=(3, 5))
CROP = Frame(size_wh=(50, 21), view_xyxy=(9.75, 0.5, 40.25, 20.5), grid_hw=(3, 5))
FRAMES = pytest.mark.parametrize("frame", [WHOLE, CROP], ids=["whole", "crop"])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    x0, x1 = sorted(draw(st.lists(st.floats(0, width), min_size=2, max_size=2)))
    y0, y1 = sorted(draw(st.lists(st.floats(0, height), min_size=2, max_size=2)))
    assume(x1 - x0 > 0.01 and y1 - y0 > 0.01)
    grid_hw = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    return Frame((width, height), (x0, y0, x1, y1), grid_hw)


def between(low: float, high: float, share: float) -> float:
    return min(max(low + share * (high - low), low), high)


# ------------------------------------------------------------------------------------------ cells


@FRAMES
def test_cells_tile_the_view(frame: Frame) -> None:
    h, w = frame.grid_hw
    x0, y0, x1, y1 = frame.view_xyxy
    assert frame.cell_xyxy(0, 0)[:2] == pytest.approx((x0, y0))
    assert frame.cell_xyxy(h - 1, w - 1)[2:] == pytest.approx((x1, y1))
    for row, column in itertools.product(range(h), range(w)):
        left, top, right, bottom = frame.cell_xyxy(row, column)
        assert (right - left, bottom - top) == pytest.approx(((x1 - x0) / w, (y1 - y0) / h))
        if column + 1 < w:
            assert frame.cell_xyxy(row, column + 1)[0] == pytest.approx(right)
        if row + 1 < h:
            assert frame.cell_xyxy(row + 1, column)[1] == pytest.approx(bottom)


def test_block_of_cells() -> None:
    assert WHOLE.cell_xyxy(1, 2) == (20.0, 7.0, 30.0, 14.0)
    assert WHOLE.cell_xyxy(1, 2, rows=2, columns=3) == (20.0, 7.0, 50.0, 21.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"size_wh": (0, 21)},
        {"view_xyxy": (50.0, 0.0, 0.0, 21.0)},
        {"view_xyxy": (0.0, 5.0, 50.0, 5.0)},
        {"view_xyxy": (0.0, 0.0, float("nan"), 21.0)},
        {"grid_hw": (3, 0)},
    ],
)
def test_empty_frames_are_refused(settings: dict[str, Any]) -> None:
    given_all = {"size_wh": (50, 21), "view_xyxy": (0.0, 0.0, 50.0, 21.0), "grid_hw": (3, 5)}
    with pytest.raises(RegionError, match="not empty"):
        Frame(**{**given_all, **settings})


# ----------------------------------------------------------------------------------------- points


@FRAMES
def test_a_cells_centre_is_that_cell(frame: Frame) -> None:
    h, w = frame.grid_hw
    for row, column in itertools.product(range(h), range(w)):
        left, top, right, bottom = frame.cell_xyxy(row, column)
        weights = frame.point_weights(((left + right) / 2, (top + bottom) / 2))
        one_hot = np.zeros((h, w))
        one_hot[row, column] = 1
        np.testing.assert_allclose(weights, one_hot, atol=1e-12)


@FRAMES
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_corners_belong_to_the_corner_cells(frame: Frame, corner: tuple[int, int]) -> None:
    row, column = corner
    x, y = frame.view_xyxy[2 * column], frame.view_xyxy[1 + 2 * row]
    weights = frame.point_weights((x, y))
    assert weights[-row, -column] == 1
    assert weights.sum() == 1


@given(frames(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_point_weights_are_grid_sample(frame: Frame, x: float, y: float, seed: int) -> None:
    x0, y0, x1, y1 = frame.view_xyxy
    weights = frame.point_weights((between(x0, x1, x), between(y0, y1, y)))
    assert weights.shape == frame.grid_hw
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)

    values = torch.randn(1, 1, *frame.grid_hw, generator=torch.Generator().manual_seed(seed))
    values = values.double()
    place = torch.tensor([[[[2 * x - 1, 2 * y - 1]]]], dtype=torch.float64)
    sampled = torch.nn.functional.grid_sample(
        values, place, mode="bilinear", align_corners=False, padding_mode="border"
    )
    assert (weights * values[0, 0].numpy()).sum() == pytest.approx(sampled.item(), abs=1e-9)


# ------------------------------------------------------------------------------------------ boxes


def box_coverage_by_counting(frame: Frame, box: XYXY, fine: int = 40) -> np.ndarray:
    """Slow and obvious: the share of a cell's sub-cells whose centre lies in the box."""
    h, w = frame.grid_hw
    x0, y0, x1, y1 = frame.view_xyxy
    xs = x0 + (np.arange(w * fine) + 0.5) / (w * fine) * (x1 - x0)
    ys = y0 + (np.arange(h * fine) + 0.5) / (h * fine) * (y1 - y0)
    inside = ((box[1] <= ys) & (ys < box[3]))[:, None] & ((box[0] <= xs) & (xs < box[2]))[None]
    return inside.reshape(h, fine, w, fine).mean(axis=(1, 3))


@FRAMES
@pytest.mark.parametrize(
    "box",
    [
        (12.0, 3.0, 33.0, 18.0),
        (10.1, 0.6, 10.3, 0.7),  # inside one cell
        (-100.0, 5.0, 12.0, 900.0),  # reaches out of the photograph
        (0.0, 0.0, 50.0, 21.0),
    ],
)
def test_box_coverage_is_what_counting_says(frame: Frame, box: XYXY) -> None:
    coverage = frame.box_coverage(box)
    assert coverage.shape == frame.grid_hw
    # Counting errs by at most a row and a column of sub-cells at each side.
    np.testing.assert_allclose(coverage, box_coverage_by_counting(frame, box), atol=0.06)


def test_box_coverage_in_numbers() -> None:
    expected = np.zeros((3, 5))
    expected[1, 1:4] = [0.5, 1, 0.2]
    np.testing.assert_allclose(WHOLE.box_coverage((15.0, 7.0, 32.0, 14.0)), expected, atol=1e-12)
    np.testing.assert_allclose(CROP.box_coverage(CROP.view_xyxy), np.ones((3, 5)))
    np.testing.assert_allclose(CROP.box_coverage((0.0, 0.0, 50.0, 21.0)), np.ones((3, 5)))


@given(
    frames(),
    st.lists(st.floats(0, 1), max_size=3),
    st.lists(st.floats(0, 1), max_size=3),
)
def test_boxes_that_tile_the_view_sum_to_ones(
    frame: Frame, x_cuts: Sequence[float], y_cuts: Sequence[float]
) -> None:
    x0, y0, x1, y1 = frame.view_xyxy
    xs = sorted({x0, x1, *(between(x0, x1, c) for c in x_cuts)})
    ys = sorted({y0, y1, *(between(y0, y1, c) for c in y_cuts)})
    total = np.zeros(frame.grid_hw)
    for (left, right), (top, bottom) in itertools.product(
        itertools.pairwise(xs), itertools.pairwise(ys)
    ):
        total += frame.box_coverage((left, top, right, bottom))
    np.testing.assert_allclose(total, 1, atol=1e-9)


# ------------------------------------------------------------------------------------------ masks


@given(frames(), st.data())
def test_a_boxs_mask_covers_what_the_box_covers(frame: Frame, data: st.DataObject) -> None:
    width, height = frame.size_wh
    x1 = data.draw(st.integers(0, width - 1))
    y1 = data.draw(st.integers(0, height - 1))
    x2 = data.draw(st.integers(x1 + 1, width))
    y2 = data.draw(st.integers(y1 + 1, height))
    mask = np.zeros((height, width), dtype=bool)
    mask[y1:y2, x1:x2] = True
    try:
        covered = frame.box_coverage((float(x1), float(y1), float(x2), float(y2)))
    except RegionError:
        with pytest.raises(RegionError):
            frame.mask_coverage(mask)
    else:
        assume(covered.any())  # an overlap of less than a float can tell
        np.testing.assert_allclose(frame.mask_coverage(mask), covered, atol=1e-12)


@FRAMES
def test_soft_masks_are_weighted(frame: Frame) -> None:
    mask = np.random.default_rng(0).random((21, 50))
    expected = sum(
        mask[y, x] * coverage
        for y, x in np.ndindex(mask.shape)
        if (coverage := box_or_nothing(frame, (float(x), float(y), x + 1.0, y + 1.0))) is not None
    )
    np.testing.assert_allclose(frame.mask_coverage(mask), expected, atol=1e-12)
    np.testing.assert_allclose(frame.mask_coverage(np.ones((21, 50))), np.ones((3, 5)))


def box_or_nothing(frame: Frame, box: Sequence[float]) -> np.ndarray | None:
    try:
        return frame.box_coverage(box)
    except RegionError:
        return None


# ----------------------------------------------------------------------------------------- errors

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ((9.0, 5.0), "outside of what the network saw"),  # in the photograph, cut off by the crop
        ((41.0, 5.0), "outside of what the network saw"),
        ((20.0, -1.0), "outside of what the network saw"),
        ((20.0, 20.75), "outside of what the network saw"),
        ((NAN, 5.0), r"point is \(x, y\)"),
        ((20.0, INF), r"point is \(x, y\)"),
        ((20.0,), r"point is \(x, y\)"),
        ((20.0, 5.0, 5.0), r"point is \(x, y\)"),
        (("a", "b"), r"point is \(x, y\)"),
    ],
)
def test_points_that_are_refused(point: Any, reason: str) -> None:
    # TypeError: a run-time type checker over the package may be the first to refuse.
    with pytest.raises((RegionError, TypeError), match=f"{reason}|type"):
        CROP.point_weights(point)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((0.0, 0.0, 9.75, 21.0), "outside of what the network saw"),  # touches the view's edge
        ((45.0, 0.0, 50.0, 21.0), "outside of what the network saw"),
        ((30.0, 3.0, 12.0, 18.0), "x1 < x2 and y1 < y2"),
        ((12.0, 18.0, 30.0, 3.0), "x1 < x2 and y1 < y2"),
        ((12.0, 3.0, 12.0, 18.0), "x1 < x2 and y1 < y2"),
        ((12.0, 3.0, NAN, 18.0), r"box is \(x1, y1, x2, y2\)"),
        ((12.0, 3.0, INF, 18.0), r"box is \(x1, y1, x2, y2\)"),
        ((12.0, 3.0, 18.0), r"box is \(x1, y1, x2, y2\)"),
        (None, r"box is \(x1, y1, x2, y2\)"),
    ],
)
def test_boxes_that_are_refused(box: Any, reason: str) -> None:
    with pytest.raises((RegionError, TypeError), match=f"{reason}|type"):
        CROP.box_coverage(box)


def outside_the_crop() -> np.ndarray:
    mask = np.zeros((21, 50), dtype=bool)
    mask[:, :9] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.ones((50, 21)), r"\(height, width\) = \(21, 50\); came \(50, 21\)"),
        (np.ones((21, 50, 1)), r"came \(21, 50, 1\)"),
        (np.ones((3, 5)), r"came \(3, 5\)"),
        (np.full((21, 50), 255, np.uint8), "divide a 0..255 mask by 255"),
        (np.full((21, 50), -0.5), "from 0 to 1"),
        (np.full((21, 50), NAN), "from 0 to 1"),
        (np.zeros((21, 50)), "nothing of the mask"),
        (outside_the_crop(), "nothing of the mask"),
    ],
)
def test_masks_that_are_refused(mask: np.ndarray, reason: str) -> None:
    with pytest.raises(RegionError, match=reason) as caught:
        CROP.mask_coverage(mask)
    assert isinstance(caught.value, WhyalikeError)
    assert isinstance(caught.value, ValueError)
