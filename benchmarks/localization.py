"""Measures of a map: does it lie on the object, does the score hang on it, whose map is it?

All take maps (n, H, W) at the image's resolution and any scale: what is below zero counts as
nothing, and the rest is divided by its largest value, map by map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

THRESHOLDS = np.arange(40) / 40
OVERLAPS = (0.3, 0.5, 0.7)
STEPS = 16


def to_image(values: Float[Tensor, "h w"], size_hw: Sequence[int]) -> Float[Tensor, "H W"]:
    """A map at the image's resolution: bilinear between cell centres, edges repeated."""
    values = values.detach().cpu().double()[None, None]
    if tuple(values.shape[2:]) == tuple(size_hw):
        return values[0, 0]
    return F.interpolate(values, size=tuple(size_hw), mode="bilinear", antialias=True)[0, 0]


def pointing(maps: Float[Tensor, "n H W"], boxes: Float[np.ndarray, "n 4"]) -> np.ndarray:
    """The pointing game (Zhang et al., IJCV 2018): is the largest value in the box, (n,).

    Where several values are the largest, the share of them that is.
    """
    found = []
    for values, inside in zip(maps.numpy(), _pixels(boxes, maps.shape[1:]), strict=True):
        largest = values == values.max()
        found.append((largest & inside).sum() / largest.sum())
    return np.array(found)


def box_overlaps(
    maps: Float[Tensor, "n H W"],
    boxes: Float[np.ndarray, "n 4"],
    thresholds: Sequence[float] | np.ndarray = THRESHOLDS,
) -> Float[np.ndarray, "n thresholds"]:
    """IoU of the true box with the box around the largest connected part above each threshold.

    Thresholds are shares of the map's largest value. Pixels that touch at a corner are connected.
    Without a positive value there is no box, and the IoU is 0.
    """
    overlaps = np.zeros((len(maps), len(thresholds)))
    for row, (values, box) in enumerate(zip(maps.numpy(), boxes, strict=True)):
        top = values.max()
        for column, threshold in enumerate(thresholds if top > 0 else ()):
            overlaps[row, column] = iou(largest_part(values > threshold * top), box)
    return overlaps


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The box xyxy around the largest 8-connected part of a mask that is not empty."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    part = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    # Not by find_objects, which finds a box for each of ten thousand specks.
    rows, columns = (np.flatnonzero(part.any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def iou(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Intersection over union of two boxes xyxy."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return float(shared / (sum(areas) - shared))


def box_accuracy(
    overlaps: Float[np.ndarray, "n thresholds"],
    at_least: float = 0.5,
    chosen_on: Float[np.ndarray, "m thresholds"] | None = None,
) -> float:
    """Share of images whose IoU is at least so much, at the threshold that is best for all.

    Args:
        chosen_on: overlaps of other images, on which to choose the threshold; by default the same,
            as MaxBoxAcc does (Choe et al., CVPR 2020).
    """
    best = int(((overlaps if chosen_on is None else chosen_on) >= at_least).mean(0).argmax())
    return float((overlaps[:, best] >= at_least).mean())


def box_accuracy_v2(
    overlaps: Float[np.ndarray, "n thresholds"],
    chosen_on: Float[np.ndarray, "m thresholds"] | None = None,
) -> float:
    """MaxBoxAccV2 (Choe et al., CVPR 2020): the mean of `box_accuracy` at 0.3, 0.5 and 0.7.

    With one box for each map, that of its largest part.
    """
    return float(np.mean([box_accuracy(overlaps, share, chosen_on) for share in OVERLAPS]))


def deletion_and_insertion(
    score: Callable[[Float[Tensor, "k 3 H W"]], Float[Tensor, " k"]],
    image: Float[Tensor, "3 H W"],
    values: Float[Tensor, "H W"],
    fill: float = 0.0,
) -> tuple[float, float]:
    """Petsiuk et al., "RISE", BMVC 2018: areas under the score, above zero, as pixels go and come.

    In 16 equal steps, the pixels of the largest values first; equal ones in an order by lot, the
    same for all images.

    Args:
        score: from images to their scores.
        fill: the value of a pixel that is hidden, in units of the network's input.
    """
    generator = torch.Generator().manual_seed(0)
    lot = torch.randperm(values.numel(), generator=generator)
    order = lot[values.flatten()[lot].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    cuts = torch.arange(STEPS + 1)[:, None] * len(order) / STEPS
    taken = (rank[None] < cuts).view(-1, 1, *values.shape)
    hidden = torch.full_like(image, fill)
    scores = score(
        torch.cat([torch.where(taken, hidden, image), torch.where(taken, image, hidden)])
    )
    deletion, insertion = scores.double().clamp(min=0).chunk(2)
    return tuple(torch.trapezoid(curve).item() / STEPS for curve in (deletion, insertion))


def correlation(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float:
    """Pearson's, over the cells of two maps of one grid; NaN where one of them is constant."""
    a, b = (x.detach().cpu().double().flatten() for x in (a, b))
    a, b = a - a.mean(), b - b.mean()
    return ((a @ b) / (a.norm() * b.norm())).item()


def rank_correlation(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float:
    """Spearman's: Pearson's of the ranks."""
    return correlation(*(_ranks(x) for x in (a, b)))


def _ranks(values: Tensor) -> Tensor:
    """Ranks, the mean of them where values are equal."""
    _, place, counts = (
        values.detach().cpu().flatten().unique(return_inverse=True, return_counts=True)
    )
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]


def _pixels(boxes: np.ndarray, size_hw: Sequence[int]) -> np.ndarray:
    """Which pixels have their centre in each box, (n, H, W)."""
    y, x = (np.arange(side)[None] + 0.5 for side in size_hw)
    columns = (x >= boxes[:, :1]) & (x <= boxes[:, 2:3])
    rows = (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:])
    return rows[:, :, None] & columns[:, None, :]
