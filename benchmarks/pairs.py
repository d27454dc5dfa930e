"""Pairs of images of which it is known where the object is, and what a method's maps score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import whyalike as wa
from whyalike.evaluate import measures as measure
from whyalike.evaluate.measures import correlation
from whyalike.evaluate.pairing import partners
from whyalike.evaluate.perturbation import deletion_and_insertion

BOX_SIDE = 128
"""Boxes are looked for at no more pixels a side: a larger image is shrunk by a whole number."""

Found = Tensor | tuple[Tensor, float]
"""A map (h, w) at any resolution; or the map, and what of the similarity lies in none of it."""
Method = Callable[[wa.EmbeddingModel, Tensor, Tensor], Found]
"""(model, query, reference) → the query's map; the images are ready-made (3, H, W)."""
PointMethod = Callable[[wa.EmbeddingModel, Tensor, Tensor, tuple[float, float]], Tensor]
"""(model, query, reference, query_xy) → the reference's map for a point of the query, in pixels."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images with one object each, and who is compared with whom.

    Args:
        images: network inputs, (n, 3, H, W).
        boxes: of the objects, xyxy in pixels of the input.
        labels: what the object is.
        query, reference, other: indices of images, one triple for each pair; `other` is an image
            of another class.
        choose: which pairs are there to choose settings on; the others are to report.
        recall: share of all images whose nearest other one is of their class (R@1).
    """

    images: Float[Tensor, "n 3 H W"]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[Tensor, " n"]
    query: Int[np.ndarray, " pairs"]
    reference: Int[np.ndarray, " pairs"]
    other: Int[np.ndarray, " pairs"]
    choose: Bool[np.ndarray, " pairs"]
    recall: float

    def __len__(self) -> int:
        return len(self.query)

    def take(self, chosen: np.ndarray | slice) -> Pairs:
        """Some of the pairs, by index, mask or slice."""
        names = ("query", "reference", "other", "choose")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


def matched(
    model: wa.EmbeddingModel,
    images: Float[Tensor, "n 3 H W"],
    boxes: Float[np.ndarray, "n 4"],
    labels: Int[Tensor, " n"],
    *,
    retrieved: bool,
) -> Pairs:
    """Each image with the nearest other one of its class, and one of another class, by lot.

    Args:
        retrieved: whether to keep only images whose nearest is of their class.
    """
    with torch.no_grad():
        E = torch.cat([model(some) for some in images.split(32)])
    nearest, first = partners(E, labels.numpy())
    same = labels[:, None] == labels[None]
    lots = torch.rand(same.shape, generator=torch.Generator().manual_seed(0))
    unlike = lots.masked_fill(same, -1).argmax(1).numpy()
    query = np.flatnonzero(first) if retrieved else np.arange(len(images))
    kinds = labels.unique().tolist()
    choose = np.isin(labels[query].numpy(), kinds[: len(kinds) // 2])
    return Pairs(
        *(images, boxes, labels, query, nearest[query], unlike[query], choose),
        recall=float(first.mean()),
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """What a method's maps score, pair by pair; NaN where it was not measured.

    Args:
        seconds: for the map.
        passes: the same, divided by the seconds of embedding the query, in the same turn.
        pointing: whether the largest value lies on the object.
        overlaps: IoU of the boxes at each threshold, (pairs, thresholds).
        deletion, insertion: areas under the cosine.
        two_references: correlation of the query's maps for the reference and for the other one.
        point_corner: correlation of the reference's maps for the middle of the query's object and
            for the query's corner.
        gap: |Σ map + what lies in none of it − S|.
    """

    seconds: np.ndarray
    passes: np.ndarray
    pointing: np.ndarray
    overlaps: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    two_references: np.ndarray
    point_corner: np.ndarray
    gap: np.ndarray

    def take(self, chosen: np.ndarray | slice) -> Scores:
        """Those of some pairs."""
        return Scores(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def summary(self, chosen_on: Scores | None = None) -> dict[str, float]:
        """One number for each measure: means, and medians of costs and the largest gap.

        Args:
            chosen_on: scores of other pairs, on which thresholds of boxes are chosen.
        """
        chosen = None if chosen_on is None else chosen_on.overlaps
        means = ("pointing", "deletion", "insertion", "two_references", "point_corner")
        return {
            "ms": 1000 * float(np.median(self.seconds)),
            "passes": float(np.median(self.passes)),
            "box": measure.box_accuracy(self.overlaps, 0.5, chosen),
            "v2": measure.box_accuracy_v2(self.overlaps, chosen),
            "gap": float(self.gap.max()),
            **{name: float(getattr(self, name).mean()) for name in means},
        }


def evaluate(
    model: wa.EmbeddingModel,
    pairs: Pairs,
    method: Method,
    point_method: PointMethod | None = None,
    *,
    deletion: bool = True,
    specificity: bool = True,
) -> Scores:
    """Measure a method on all pairs, the reference's side of each held fixed.

    Args:
        point_method: the method's map for a point, if it has any.
        deletion: whether to hide pixels (34 passes for each pair).
        specificity: whether to ask for maps of a second reference, and of points.
    """
    scores: dict[str, list[float]] = {f.name: [] for f in fields(Scores)}
    size_hw, maps = pairs.images.shape[2:], []
    shrink = -(-max(size_hw) // BOX_SIDE)
    for query, reference, other in zip(pairs.query, pairs.reference, pairs.other, strict=True):
        x, y, z = (pairs.images[i] for i in (query, reference, other))
        seconds, (values, rest) = _timed(lambda: _split(method(model, x, y)))  # noqa: B023
        embedding_seconds, E = _timed(lambda: embed(model, x[None]))  # noqa: B023
        E_y = embed(model, y[None])
        maps.append(measure.to_image(values, [side // shrink for side in size_hw]))
        gap = abs(values.double().sum().item() + rest - torch.cosine_similarity(E, E_y).item())
        both = [np.nan, np.nan]
        if deletion:
            score = lambda images: torch.cosine_similarity(embed(model, images), E_y)  # noqa: B023,E731
            both = deletion_and_insertion(score, x, measure.to_image(values, size_hw))
        to_other = to_corner = np.nan
        if specificity:
            to_other = correlation(values, _split(method(model, x, z))[0])
        if specificity and point_method is not None:
            left, top, right, bottom = pairs.boxes[query]
            points = ((left + right) / 2, (top + bottom) / 2), _far_corner(pairs, query)
            to_corner = correlation(*(point_method(model, x, y, xy) for xy in points))
        row = (seconds, seconds / embedding_seconds, *both, to_other, to_corner, gap)
        names = ("seconds", "passes", "deletion", "insertion", "two_references", "point_corner")
        for name, value in zip((*names, "gap"), row, strict=True):
            scores[name].append(float(value))
    stacked, boxes = torch.stack(maps), pairs.boxes[pairs.query] / shrink
    arrays = {name: np.array(values) for name, values in scores.items()}
    arrays["pointing"] = measure.pointing(stacked, boxes)
    arrays["overlaps"] = measure.box_overlaps(stacked, boxes)
    return Scores(**arrays)


def embed(model: wa.EmbeddingModel, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
    """The network's embeddings, without gradients."""
    with torch.no_grad():
        return model(images)


def best(methods: Iterable[str], scores: Sequence[Scores], pairs: Pairs) -> str:
    """Of several settings, the one of the highest V2 on the pairs that are there to choose."""
    v2 = [one.take(pairs.choose).summary()["v2"] for one in scores]
    return list(methods)[int(np.argmax(v2))]


def _split(found: Found) -> tuple[Tensor, float]:
    """A map and the rest, which is unknown (NaN) for methods that do not say it."""
    return found if isinstance(found, tuple) else (found, np.nan)


def _timed(task: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def _far_corner(pairs: Pairs, query: int) -> tuple[float, float]:
    """The corner of the image that lies farthest from the object."""
    height, width = pairs.images.shape[2:]
    left, top, right, bottom = pairs.boxes[query]
    return (
        0.0 if left + right > width else float(width),
        0.0 if top + bottom > height else float(height),
    )
