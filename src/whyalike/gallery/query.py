"""What is searched for: a photograph, or parts of it, as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.errors import RegionError
from whyalike.geometry import XY, XYXY

Boxes = Sequence[float] | Sequence[Sequence[float]]
Points = Sequence[float] | Sequence[Sequence[float]]
Masks = np.ndarray | Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Query:
    """A photograph and what of it is searched for.

    Args:
        contributions: of the photograph.
        vector: u = Σ w v^q over the parts, divided by |E^q|; E^q / |E^q| for the whole. A row's
            score is u · E^r / |E^r|, in units of cosine.
        boxes, points, masks: the parts that were asked for, in this order, and
        weights: the weight of each.
        without: boxes that were subtracted.
        without_masks: masks that were.
    """

    contributions: Contributions
    vector: Float[Tensor, " d"]
    boxes: tuple[XYXY, ...] = ()
    points: tuple[XY, ...] = ()
    masks: tuple[np.ndarray, ...] = ()
    weights: tuple[float, ...] = ()
    without: tuple[XYXY, ...] = ()
    without_masks: tuple[np.ndarray, ...] = ()

    def __repr__(self) -> str:
        parts = {"boxes": self.boxes, "points": self.points, "without": self.without}
        words = [f"{name}={value}" for name, value in parts.items() if value]
        words += [f"{len(self.masks)} masks"] if self.masks else []
        return f"Query({', '.join([repr(self.contributions.name), *words])})"

    @property
    def is_whole(self) -> bool:
        """Whether the whole photograph is searched for, and nothing was subtracted."""
        return not (self.weights or self.without or self.without_masks)

    @property
    def whole(self) -> Float[Tensor, " d"]:
        """E^q / |E^q|: what a search without regions goes by."""
        return _unit(self.contributions, self.contributions.embedding)

    @property
    def bias(self) -> Float[Tensor, " d"]:
        """What no cell of the query gives, over |E^q|: by so much tiles miss the whole's score."""
        return _unit(self.contributions, self.contributions.rest)


def ask(
    x: Contributions,
    region: Boxes | None = None,
    points: Points | None = None,
    mask: Masks | None = None,
    without: Boxes | Masks | None = None,
    weights: Sequence[float] | None = None,
    *,
    stretched: bool = False,
) -> Query:
    """What is asked for, as a vector to search by.

    The vectors of boxes, points and masks are added up, each by its weight (1 by default, so where
    boxes overlap, cells count twice); those of `without` are subtracted, from the whole photograph
    where no part is given.

    Args:
        x: of the query.
        region: a box (x1, y1, x2, y2) in pixels, or several.
        points: a point (x, y), or several.
        mask: an array (H, W) of the photograph's size, or several.
        without: boxes or masks.
        weights: as many as there are boxes, points and masks, in this order.
        stretched: take masks of any size, stretched over the photograph.

    Raises:
        RegionError: a part that does not lie on the photograph, or another number of weights.
    """
    boxes = _several(region, 4, "region", "(x1, y1, x2, y2)")
    spots = _several(points, 2, "point", "(x, y)")
    masks = _masks(mask)
    away_masks = _masks(without) if _is_mask(without, x.frame.size_wh) else ()
    away = () if away_masks else _several(without, 4, "region to leave out", "(x1, y1, x2, y2)")
    given = [
        *(x.within(box) for box in boxes),
        *(x.at(xy) for xy in spots),
        *(x.within(mask=one, stretched=stretched) for one in masks),
    ]
    factors = _weights(weights, len(given))
    left_out = [*(x.within(box) for box in away), *(x.within(mask=one) for one in away_masks)]
    u = x.embedding.cpu().double()
    if given:
        u = sum(
            (w * v.cpu().double() for w, v in zip(factors, given, strict=True)), torch.zeros_like(u)
        )
    for v in left_out:
        u = u - v.cpu().double()
    return Query(x, _unit(x, u), boxes, spots, masks, factors, away, away_masks)


def mask_of(image: Image.Image) -> Float[np.ndarray, "H W"]:
    """A picture as a mask: white is 1, black is 0."""
    return np.asarray(image.convert("L"), np.float64) / 255


def _unit(x: Contributions, u: Tensor) -> Float[Tensor, " d"]:
    return (u.cpu().double() / x.embedding.cpu().double().norm()).float()


def _several(given: Any, count: int, what: str, form: str) -> tuple[Any, ...]:
    """One or more tuples of numbers, as a tuple of tuples."""
    if given is None:
        return ()
    try:
        listed = list(given)
        if listed and not any(isinstance(one, str) or hasattr(one, "__len__") for one in listed):
            listed = [listed]
        found = tuple(tuple(float(number) for number in one) for one in listed)
    except (TypeError, ValueError):
        found = ()
    if not found or any(len(one) != count for one in found):
        raise RegionError(f"a {what} is {form} in pixels, or a list of such; came {given!r}")
    return found


def _is_mask(given: Any, size_wh: tuple[int, int]) -> bool:
    first = given[0] if isinstance(given, list | tuple) and given else given
    return isinstance(first, np.ndarray) and first.shape == size_wh[::-1]


def _masks(given: Masks | Any) -> tuple[np.ndarray, ...]:
    if given is None:
        return ()
    listed = list(given) if isinstance(given, list | tuple) else [given]
    return tuple(np.asarray(one) for one in listed)


def _weights(given: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if given is None:
        return (1.0,) * count
    try:
        found = tuple(float(one) for one in given)
    except (TypeError, ValueError):
        found = (float("nan"),)
    if len(found) != count or not np.isfinite(found).all():
        raise RegionError(
            f"weights are one number for each box, point and mask, in this order: {count}; came "
            f"{given!r}"
        )
    return found
