"""Where a street camera looks, read out of the maps of a matched pair (section VII-A of the paper).

Angles are *bearings*, in degrees clockwise from north, the top of the view from above, and
*azimuths*, clockwise from the middle column of the panorama. What a cell of the street view at an
azimuth and a cell of the aerial view at a bearing carry together speaks for the heading, the
bearing of the panorama's middle column,

    heading = bearing − azimuth.

The networks were never told of north: all of it comes out of the maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

from whyalike.errors import RegionError
from whyalike.geometry import XY, Frame
from whyalike.pair import Pair

ESTIMATORS = ("overall", "point", "profile", "votes")
"""From the maxima of both overall maps; of the street's and of that point's map; all of that map;
all pairs of points."""
HARMONICS = 90
BINS = 720
"""Directions at which a distribution is told: each half degree, from 0."""
SMOOTHING = 8.0
"""Degrees: the standard deviation of the kernel on the circle."""
WINDOW = 45.0
"""Degrees around a direction, to either side, that count as about there."""
PARTS = 6  # a cell's directions are those of 6×6 points in it


@dataclass(frozen=True)
class Compass:
    """How bearings are told.

    Args:
        zero: the bearing that is told as 0°; 180 as in the paper, where 0° is south, 180° north.
        clockwise: whether angles grow clockwise.
    """

    zero: float = 180.0
    clockwise: bool = True

    def angle(self, bearing: float) -> float:
        """A bearing as an angle of this compass, from 0 to below 360."""
        return around((bearing - self.zero) * (1 if self.clockwise else -1))

    def bearing(self, angle: float) -> float:
        """The bearing that an angle of this compass tells, from 0 to below 360."""
        return around(self.zero + angle * (1 if self.clockwise else -1))


class Mode(NamedTuple):
    """A direction that a distribution speaks for.

    heading: its bearing, in degrees.
    probability: of lying about there, within 45°, rather than about the opposite.
    """

    heading: float
    probability: float


@dataclass(frozen=True, eq=False)
class Estimate:
    """Where a panorama's middle column looks, by one estimator.

    Args:
        heading: its bearing, in degrees clockwise from the top of the view from above.
        density: of the heading, at each half degree from 0, adding up to 1; None for estimators
            that name one direction and no other.
    """

    heading: float
    density: Float[np.ndarray, " 720"] | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The heading, and the opposite's own maximum: the two that are confused (180°)."""
        if self.density is None:
            return (Mode(self.heading, 1.0),)
        angles = np.arange(BINS) * 360 / BINS
        front = np.abs(wrapped(angles - self.heading)) <= WINDOW
        back = np.abs(wrapped(angles - self.heading - 180)) <= WINDOW
        here, there = (float(self.density[part].sum()) for part in (front, back))
        opposite = around(self.heading + 180)
        if there:
            opposite = float(angles[np.where(back, self.density, -1).argmax()])
        return Mode(self.heading, here / (here + there)), Mode(opposite, there / (here + there))


def around(degrees: float) -> float:
    """An angle from 0 to below 360."""
    return degrees % 360.0 % 360.0  # −1e-15 % 360 is 360


def wrapped(degrees: Float[np.ndarray, ...] | float) -> np.ndarray:
    """Differences of angles, from −180 to below 180."""
    return (np.asarray(degrees, np.float64) + 180) % 360 - 180


def estimate(pair: Pair, camera_xy: XY | None = None) -> dict[str, Estimate]:
    """Where the street camera of a pair looks, by each of ESTIMATORS.

    >>> estimate(pair)["votes"].heading  # doctest: +SKIP

    Args:
        pair: its query is a panorama of 360°, its reference the view from above, north up.
        camera_xy: where in the view from above the camera stands, in pixels of that photograph; by
            default its centre.

    Raises:
        RegionError: the camera is not in the view.
    """
    camera_xy = _camera(pair, camera_xy)
    street, above = _values(pair.overall_map("query")), _values(pair.overall_map("reference"))
    street_xy = highest(street, pair.query.frame, closed=True)
    azimuth = azimuth_of(street_xy, pair.query.frame)
    point_map = _values(pair.point_map(query_xy=street_xy))
    frame = pair.reference.frame
    headings = {
        "overall": bearing_of(highest(above, frame), camera_xy) - azimuth,
        "point": bearing_of(highest(point_map, frame), camera_xy) - azimuth,
    }
    found = {name: Estimate(around(heading)) for name, heading in headings.items()}
    aerial = bearings(frame, camera_xy)
    kernel = smoothing(SMOOTHING)
    profile = np.maximum(point_map, 0).ravel() @ aerial * np.exp(1j * _k() * math.radians(azimuth))
    found["profile"] = _estimate(profile * kernel)
    found["votes"] = _estimate(votes(pair, camera_xy) * kernel)
    return found


def votes(pair: Pair, camera_xy: XY | None = None) -> Complex[np.ndarray, " harmonics"]:
    """What all pairs of cells say of the heading: harmonics of a function on the circle.

    Each cell of the street view and each of the aerial view vote for bearing − azimuth, with what
    they carry together, v^q·v^r, as the weight; below zero it speaks against that heading.
    """
    street, aerial = pair.query.values.double(), pair.reference.values.double()
    azimuth = azimuths(pair.query.frame)
    columns, cells = street.sum(0).numpy(force=True), aerial.flatten(0, 1).numpy(force=True)
    weights = (columns / pair.query.length) @ (cells / pair.reference.length).T
    by_bearing = weights @ bearings(pair.reference.frame, _camera(pair, camera_xy))
    found: np.ndarray = (np.conj(azimuth) * by_bearing).sum(0)
    return found


@lru_cache(maxsize=4)  # of a data set, the frames of all pairs are mostly one
def bearings(frame: Frame, camera_xy: XY) -> Complex[np.ndarray, "cells harmonics"]:
    """The mean of exp(−ikθ) over each cell of a view from above, θ being the bearing.

    A cell that the camera stands in has all bearings, one that is far off has few.
    """
    (h, w), (x0, y0, x1, y1) = frame.grid_hw, frame.view_xyxy
    inside = (np.arange(PARTS) + 0.5) / PARTS
    x = x0 + (np.arange(w)[:, None] + inside) * (x1 - x0) / w
    y = y0 + (np.arange(h)[:, None] + inside) * (y1 - y0) / h
    theta = np.arctan2(
        x[None, :, None, :] - camera_xy[0], camera_xy[1] - y[:, None, :, None]
    ).reshape(h * w, -1)
    found = np.empty((h * w, HARMONICS + 1), np.complex128)
    turn, power = np.exp(-1j * theta), np.ones_like(theta, np.complex128)
    for k in range(HARMONICS + 1):
        found[:, k] = power.mean(1)
        power = power * turn
    found.flags.writeable = False
    return found


def azimuths(frame: Frame) -> Complex[np.ndarray, "columns harmonics"]:
    """The mean of exp(−ikα) over each column of cells of a panorama, α being the azimuth."""
    w, (x0, _, x1, _), width = frame.grid_hw[1], frame.view_xyxy, frame.size_wh[0]
    step = (x1 - x0) / w
    middle = np.radians((x0 + (np.arange(w) + 0.5) * step) / width * 360 - 180)
    spread = np.sinc(_k() * step / width)  # numpy's sinc has the π in it
    found: np.ndarray = np.exp(-1j * middle[:, None] * _k()) * spread
    return found


def smoothing(degrees: float) -> Float[np.ndarray, " harmonics"]:
    """Harmonics of a Gaussian wrapped around the circle, by its standard deviation."""
    found: np.ndarray = np.exp(-0.5 * (_k() * math.radians(degrees)) ** 2)
    return found


def on_the_circle(harmonics: Complex[np.ndarray, " harmonics"]) -> Float[np.ndarray, " 720"]:
    """The function that harmonics describe, at each half degree from 0."""
    return np.fft.irfft(np.pad(harmonics, (0, BINS // 2 - HARMONICS)), BINS)


def highest(values: Float[np.ndarray, "h w"], frame: Frame, closed: bool = False) -> XY:
    """Where a map is largest, in pixels of the photograph.

    Between cell centres, by the parabolas through the largest value and its neighbours beside and
    above and below it.

    Args:
        values: the map.
        frame: where its cells lie.
        closed: whether it goes on from its right edge at its left one, as a panorama does.
    """
    row, column = (int(at) for at in np.unravel_index(int(values.argmax()), values.shape))
    x0, y0, x1, y1 = frame.cell_xyxy(row, column)
    x = (x0 + x1) / 2 + _peak(values[row], column, closed) * (x1 - x0)
    y = (y0 + y1) / 2 + _peak(values[:, column], row, False) * (y1 - y0)
    return x % frame.size_wh[0] if closed else x, y


def azimuth_of(xy: XY, frame: Frame) -> float:
    """The azimuth of a point of a panorama, from −180 to below 180."""
    return xy[0] / frame.size_wh[0] * 360 - 180


def bearing_of(xy: XY, camera_xy: XY) -> float:
    """The bearing of a point of a view from above, as seen from the camera; its own is 0."""
    return math.degrees(math.atan2(xy[0] - camera_xy[0], camera_xy[1] - xy[1]))


def _estimate(harmonics: np.ndarray) -> Estimate:
    """Of what all directions have alike nothing is counted, of the others what speaks for them."""
    density = np.maximum(on_the_circle(np.append(0, harmonics[1:])), 0)
    total = density.sum()
    density = density / total if total else np.full(BINS, 1 / BINS)
    best = int(density.argmax())
    return Estimate(around((best + _peak(density, best, True)) * 360 / BINS), density)


def _peak(line: Float[np.ndarray, " n"], at: int, closed: bool) -> float:
    """How far the top lies from the largest of equally spaced values, −0.5 to 0.5."""
    if not closed and not 0 < at < len(line) - 1:
        return 0.0
    left, top, right = (float(line[(at + step) % len(line)]) for step in (-1, 0, 1))
    bend = left - 2 * top + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0


def _camera(pair: Pair, camera_xy: XY | None) -> XY:
    width, height = pair.reference.frame.size_wh
    x, y = (width / 2, height / 2) if camera_xy is None else camera_xy
    if not (0 <= x <= width and 0 <= y <= height):
        raise RegionError(
            f"the camera stands in the view from above, {width}×{height} pixels; came "
            f"({x:g}, {y:g})"
        )
    return float(x), float(y)


def _k() -> Float[np.ndarray, " harmonics"]:
    return np.arange(HARMONICS + 1.0)


def _values(values: object) -> Float[np.ndarray, "h w"]:
    found: np.ndarray = values.detach().cpu().double().numpy()  # type: ignore[attr-defined]
    return found


def told(found: Mapping[str, Estimate], compass: Compass) -> dict[str, dict[str, object]]:
    """Estimates as plain words and numbers, by the angles of a compass."""
    return {
        name: {
            "heading": round(compass.angle(one.heading), 2),
            "modes": [
                {"heading": round(compass.angle(mode.heading), 2),
                 "probability": round(mode.probability, 4)}
                for mode in one.modes
            ],
        }
        for name, one in found.items()
    }  # fmt: skip
