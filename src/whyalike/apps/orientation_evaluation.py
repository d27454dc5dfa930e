"""How often headings that are read out of maps are right: Figure 9 of the paper, by estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from PIL import Image

from whyalike.apps import orientation
from whyalike.apps.orientation import ESTIMATORS, Estimate, estimate, wrapped
from whyalike.data import Dataset
from whyalike.errors import DataError, ImageError, RegionError
from whyalike.geometry import XY
from whyalike.images import printable, read_image
from whyalike.model import EmbeddingModel
from whyalike.pair import Pair

Turn = Literal["panorama", "tile", "none"]
BIN = 7.0
"""Degrees: of Figure 9. The middle bin is an error of up to 3.5° to either side."""
BATCH = 8

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Orientation:
    """Errors of headings over many pairs.

    Args:
        data: the data set's name.
        models: the two networks in words.
        turn: what was turned by a known angle.
        seed: of these angles.
        truth: the bearings of the panoramas' middle columns.
        estimates: by estimator, one for each pair.
        left_out: photographs that could not be read, and why.
    """

    data: str
    models: tuple[str, str]
    turn: Turn
    seed: int
    truth: Float[np.ndarray, " n"]
    estimates: dict[str, tuple[Estimate, ...]]
    left_out: tuple[tuple[str, str], ...] = ()

    def errors(self, name: str) -> Float[np.ndarray, " n"]:
        """Estimate − truth of each pair, from −180° to below 180°."""
        headings = np.array([one.heading for one in self.estimates[name]])
        return wrapped(headings - self.truth)

    def within(self, name: str, degrees: float = BIN / 2) -> float:
        """The share of pairs whose error is at most so large."""
        return float((np.abs(self.errors(name)) <= degrees + 1e-9).mean())

    def opposite(self, name: str, degrees: float = BIN / 2) -> float:
        """The share of pairs whose heading is the opposite, up to an error."""
        return float((np.abs(np.abs(self.errors(name)) - 180) <= degrees + 1e-9).mean())

    def interval(self, name: str, degrees: float = BIN / 2) -> tuple[float, float]:
        """The share within such an error, with Wilson's interval of 95 %."""
        return wilson(round(self.within(name, degrees) * len(self.truth)), len(self.truth))

    def told_sure(self, name: str, bins: int = 5) -> list[tuple[float, float, int]]:
        """Probabilities of the first mode against how often it was the right one of the two.

        Of pairs whose heading is within 45° of the truth or of its opposite: for equal parts of
        them by probability, its mean, the share that is right, and how many there are.
        """
        errors = np.abs(self.errors(name))
        sure = np.array([one.modes[0].probability for one in self.estimates[name]])
        near = (errors <= orientation.WINDOW) | (errors >= 180 - orientation.WINDOW)
        order = np.flatnonzero(near)[np.argsort(sure[near], kind="stable")]
        return [
            (float(sure[part].mean()), float((errors[part] < 90).mean()), len(part))
            for part in np.array_split(order, bins)
            if len(part)
        ]


def histogram(errors: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Middles of bins 7° wide, and the share of the errors in each; the first is about ±180°.

    51 bins lie about 0°, ±7°, …, ±175°; what is left over of the circle, 3° about its back, is the
    first one.
    """
    middles = np.append(-180.0, np.arange(-25, 26) * BIN)
    at = np.rint(np.asarray(errors) / BIN).astype(int)
    index = np.where(np.abs(at) <= 25, at + 26, 0)
    return middles, np.bincount(index, minlength=len(middles)) / max(1, len(errors))


def wilson(hits: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share, of 95 % by default (E. B. Wilson, JASA 1927)."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"hits are 0 to n, and n is 1 or more; came {hits} of {n}")
    share, extra = hits / n, z * z / n
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return max(0.0, middle - half), min(1.0, middle + half)


def evaluate_orientation(
    ground: EmbeddingModel,
    aerial: EmbeddingModel,
    data: Dataset,
    *,
    turn: Turn = "panorama",
    looks: float = 0.0,
    limit: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Orientation:
    """Estimate the headings of pairs that are turned by known angles.

    Args:
        ground, aerial: the towers.
        data: with pairs of a panorama and a view from above, north up. Where the panorama's camera
            does not stand in the middle, the pair says where (VIGOR), or `camera_x` and `camera_y`
            of the aerial sample's metadata do, in pixels.
        turn: "panorama" lets it begin at some other column by lot, which loses nothing of it;
            "tile" turns the view from above by an angle by lot, which loses its corners (grey);
            "none" leaves both, so that all headings are the same.
        looks: the bearing of a panorama's middle column as it comes; 0, north, in CVUSA.
        limit: at most so many pairs, evenly spread.
        seed: of the lot.
        tell: called with what is done, of how much.

    Raises:
        DataError: there are no such pairs, or none that can be read.
    """
    if turn not in get_args(Turn):
        raise DataError(f"turn is one of {', '.join(get_args(Turn))}; came {turn!r}")
    pairs = pairs_of(data, limit)
    random = np.random.default_rng(seed)
    lots = random.random(len(pairs))
    truth: list[float] = []
    found: dict[str, list[Estimate]] = {name: [] for name in ESTIMATORS}
    left_out: list[tuple[str, str]] = []
    for start in range(0, len(pairs), BATCH):
        some = []
        for seen, lot in zip(
            pairs[start : start + BATCH], lots[start : start + BATCH], strict=True
        ):
            try:
                above = read_image(seen.above)
                camera = seen.camera_in(above.size)
                turned = _turned(read_image(seen.street), above, turn, lot, camera)
                _within(turned[3], above.size)
                some.append(turned)
            except (ImageError, RegionError) as error:
                left_out.append((printable(str(seen.street)), str(error)))
        if some:
            q = ground.explain([one[0] for one in some])
            r = aerial.explain([one[1] for one in some])
            for mine, other, (_, _, by, camera) in zip(q, r, some, strict=True):
                pair = Pair(mine, other.to(mine.embedding.device))
                for name, one in estimate(pair, camera).items():
                    found[name].append(one)
                truth.append(orientation.around(looks + by))
        if tell is not None:
            tell("pairs", min(start + BATCH, len(pairs)), len(pairs))
    if not truth:
        raise DataError(f"{data.name}: no pair of it can be read, first {left_out[0][1]}")
    return Orientation(
        data.name,
        (ground.description, aerial.description),
        turn,
        seed,
        np.array(truth),
        {name: tuple(each) for name, each in found.items()},
        tuple(left_out),
    )


class Seen(NamedTuple):
    """A panorama, a view from above, and where the camera of the one stands in the other.

    Args:
        street, above: their files.
        camera_xy: in pixels of the view from above, or
        camera: in shares of its width and height; neither where it stands in the middle.
    """

    street: Path
    above: Path
    camera_xy: XY | None = None
    camera: XY | None = None

    def camera_in(self, size_wh: tuple[int, int]) -> XY | None:
        """In pixels of a view from above of some size; None for the middle."""
        if self.camera_xy is None and self.camera is not None:
            return self.camera[0] * size_wh[0], self.camera[1] * size_wh[1]
        return self.camera_xy


def pairs_of(data: Dataset, limit: int | None = None) -> list[Seen]:
    """Panorama, view from above and camera of each pair, or of some, evenly spread.

    Raises:
        DataError: there are no such pairs.
    """
    found = [
        Seen(street.path, above.path, _camera(above.metadata), pair.camera)
        for street, above, pair in data.across()
        if (street.view, above.view) in (("ground", "aerial"), ("query", "reference"))
    ]
    if not found:
        raise DataError(
            f"{data.name}: has no pairs of a view from the street and one from above; give "
            f"cvusa:PATH, cvact:PATH, vigor:PATH, or a table with columns `query` and `reference`, "
            f"or `view` and `pair`"
        )
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def _camera(metadata: object) -> XY | None:
    held = metadata.get("camera_x"), metadata.get("camera_y")  # type: ignore[attr-defined]
    if held == (None, None):
        return None
    try:
        x, y = (float(one) for one in held)
    except (TypeError, ValueError) as error:
        raise DataError(f"camera_x and camera_y are numbers of pixels; came {held}") from error
    return x, y


def _turned(
    street: Image.Image, above: Image.Image, turn: Turn, lot: float, camera: XY | None
) -> tuple[Image.Image, Image.Image, float, XY | None]:
    """Both photographs, by how much the heading has grown, and where the camera is now."""
    if turn == "panorama":
        columns = int(lot * street.width)
        return begun_at(street, columns), above, columns / street.width * 360, camera
    if turn == "tile":
        by = lot * 360
        grey = tuple(int(c) for c in np.asarray(above).reshape(-1, 3).mean(0))
        middle = (above.width / 2, above.height / 2)
        turned = above.rotate(-by, Image.Resampling.BICUBIC, center=middle, fillcolor=grey)
        return street, turned, by, None if camera is None else _about(camera, middle, by)
    return street, above, 0.0, camera


def _within(camera: XY | None, size_wh: tuple[int, int]) -> None:
    """Refuse a camera that stands outside, as one near a corner does once the view is turned."""
    if camera is not None and not all(0 <= at <= n for at, n in zip(camera, size_wh, strict=True)):
        raise RegionError(
            f"its camera stands at ({camera[0]:g}, {camera[1]:g}) of a view of "
            f"{size_wh[0]}×{size_wh[1]} pixels"
        )


def begun_at(panorama: Image.Image, columns: int) -> Image.Image:
    """A panorama that begins so many columns further right; its middle looks further clockwise."""
    return Image.fromarray(np.roll(np.asarray(panorama), -columns, axis=1))


def _about(xy: XY, middle: Sequence[float], degrees: float) -> XY:
    """A point turned clockwise about another, y pointing down."""
    s, c = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, y = xy[0] - middle[0], xy[1] - middle[1]
    return middle[0] + c * x - s * y, middle[1] + s * x + c * y
