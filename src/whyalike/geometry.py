"""Where the cells of a feature map lie on the photograph.

Pixel coordinates are continuous: pixel i covers [i, i + 1), so a photograph of width W spans
x from 0 to W. Points are `xy`, boxes `xyxy`, both in pixels of the original file after its EXIF
orientation. Arrays are (h, w).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from whyalike.errors import RegionError

XY = tuple[float, float]
XYXY = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """A grid of cells laid over the part of a photograph that the network saw.

    Args:
        size_wh: width and height of the photograph, in pixels.
        view_xyxy: the rectangle of the photograph, in its pixels, that became the network's input
            (the whole of it, or the part that a centre crop left).
        grid_hw: rows and columns of cells; together they tile the view.

    >>> frame = Frame(size_wh=(640, 480), view_xyxy=(80, 0, 560, 480), grid_hw=(4, 4))
    >>> frame.cell_xyxy(0, 3)
    (440.0, 0.0, 560.0, 120.0)
    """

    size_wh: tuple[int, int]
    view_xyxy: XYXY
    grid_hw: tuple[int, int]

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.view_xyxy
        if not (x1 > x0 and y1 > y0) or min(self.size_wh) < 1 or min(self.grid_hw) < 1:
            raise RegionError(
                f"a frame needs a photograph, a view and a grid that are not empty; came "
                f"size_wh={self.size_wh}, view_xyxy={self.view_xyxy}, grid_hw={self.grid_hw}"
            )

    def cell_xyxy(self, row: int, column: int, rows: int = 1, columns: int = 1) -> XYXY:
        """Box in pixels of the block of cells whose upper left cell is (row, column)."""
        x0, y0, x1, y1 = self.view_xyxy
        h, w = self.grid_hw
        dx, dy = (x1 - x0) / w, (y1 - y0) / h
        return (
            x0 + column * dx,
            y0 + row * dy,
            x0 + (column + columns) * dx,
            y0 + (row + rows) * dy,
        )

    def point_weights(self, xy: Sequence[float]) -> Float[np.ndarray, "h w"]:
        """Bilinear weights of a point over the cells, summing to 1.

        Between cell centres the weights interpolate; from the outermost centres to the edge they
        stay, as in `grid_sample(align_corners=False, padding_mode="border")`.

        Raises:
            RegionError: the point is not two finite numbers or lies outside the view.
        """
        x, y = _numbers(xy, 2, "point", "(x, y)")
        self._check_inside("point", x, y, x, y)
        x0, y0, x1, y1 = self.view_xyxy
        h, w = self.grid_hw
        columns = interpolation_weights(np.array([(x - x0) / (x1 - x0) * w]), w)
        rows = interpolation_weights(np.array([(y - y0) / (y1 - y0) * h]), h)
        return rows[0, :, None] * columns[0, None, :]

    def box_coverage(self, xyxy: Sequence[float]) -> Float[np.ndarray, "h w"]:
        """Share of each cell's area that lies under a box; boxes that tile the view sum to 1.

        Raises:
            RegionError: not four finite numbers, empty, or nothing of it inside the view.
        """
        box = _numbers(xyxy, 4, "box", "(x1, y1, x2, y2)")
        if not (box[2] > box[0] and box[3] > box[1]):
            raise RegionError(
                f"a box is (x1, y1, x2, y2) with x1 < x2 and y1 < y2, in pixels; came {tuple(xyxy)}"
            )
        self._check_inside("box", *box)
        rows, columns = self._overlaps(
            np.array([box[1], box[3]], float), np.array([box[0], box[2]], float)
        )
        return rows[:, 0][:, None] * columns[:, 0][None, :]

    def mask_coverage(
        self, mask: np.ndarray, *, stretched: bool = False
    ) -> Float[np.ndarray, "h w"]:
        """Share of each cell's area that lies under a mask of the photograph's size.

        Args:
            mask: (H, W) of bool, or of numbers from 0 to 1, one for each pixel of the photograph.
            stretched: take a mask of any size, each of whose pixels covers as much of the
                photograph as any other.

        Raises:
            RegionError: another shape, values outside 0..1, or nothing of it inside the view.
        """
        mask = np.asarray(mask)
        width, height = self.size_wh
        if mask.shape != (height, width) and not (stretched and mask.ndim == 2 and mask.size):
            raise RegionError(
                f"a mask has the photograph's shape (height, width) = {(height, width)}; came "
                f"{mask.shape}"
            )
        mask = mask.astype(np.float64)
        if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
            raise RegionError(
                f"a mask holds bool or numbers from 0 to 1; came values from {mask.min():g} to "
                f"{mask.max():g}; divide a 0..255 mask by 255"
            )
        rows, columns = self._overlaps(
            *(
                np.linspace(0, side, n + 1)
                for side, n in zip((height, width), mask.shape, strict=True)
            )
        )
        coverage = rows @ mask @ columns.T
        if not coverage.any():
            raise RegionError(
                f"nothing of the mask lies inside the part that the network saw, "
                f"{_text(self.view_xyxy)}"
            )
        return coverage

    def _overlaps(self, y_edges: np.ndarray, x_edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Overlap of each cell with each interval between edges, in cells: (h, ·) and (w, ·)."""
        x0, y0, x1, y1 = self.view_xyxy
        h, w = self.grid_hw
        return (
            _overlap((y_edges - y0) / (y1 - y0) * h, h),
            _overlap((x_edges - x0) / (x1 - x0) * w, w),
        )

    def _check_inside(self, what: str, x1: float, y1: float, x2: float, y2: float) -> None:
        vx0, vy0, vx1, vy1 = self.view_xyxy
        # A point may lie on the edge; a box must share some area with the view.
        outside = x2 < vx0 or x1 > vx1 or y2 < vy0 or y1 > vy1
        if what == "box":
            outside = x2 <= vx0 or x1 >= vx1 or y2 <= vy0 or y1 >= vy1
        if outside:
            came = _text((x1, y1) if what == "point" else (x1, y1, x2, y2))
            raise RegionError(
                f"the {what} {came} lies outside of what the network saw, {_text(self.view_xyxy)} "
                f"of a photograph of {self.size_wh[0]}×{self.size_wh[1]} pixels"
            )


def interpolation_weights(positions: Float[np.ndarray, " k"], n: int) -> Float[np.ndarray, "k n"]:
    """Weights of linear interpolation between n cell centres at 0.5, 1.5, ... , edges repeated."""
    inside = np.clip(positions, 0.5, n - 0.5)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(np.arange(n)[None, :] + 0.5 - inside))


def line_coverage(parts: int, cells: int) -> Float[np.ndarray, "parts cells"]:
    """How much of each of n cells on a line lies in each of some equal parts; columns sum to 1."""
    return _overlap(np.linspace(0, cells, parts + 1), cells).T


def _overlap(edges: np.ndarray, n: int) -> np.ndarray:
    """Length of the overlap of cell i, [i, i + 1], with each interval between edges: (n, len−1)."""
    cells = np.arange(n)[:, None]
    low = np.maximum(edges[None, :-1], cells)
    high = np.minimum(edges[None, 1:], cells + 1)
    return np.maximum(high - low, 0.0)


def _numbers(values: Sequence[float], count: int, what: str, form: str) -> list[float]:
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(math.isfinite(v) for v in numbers):
        raise RegionError(f"a {what} is {form} in pixels of the photograph; came {values!r}")
    return numbers


def _text(numbers: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in numbers) + ")"
