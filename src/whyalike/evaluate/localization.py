"""Do maps lie on the object? Tables I and II of the paper, and what its successors ask for.

Of each photograph with a box, the map is that of a query whose reference is another photograph of
its class (Zhu, Yang, Chen, IEEE TIP 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from whyalike.data import Dataset
from whyalike.errors import ModelError
from whyalike.evaluate import measures
from whyalike.evaluate.methods import USUAL, Both, Method, named
from whyalike.evaluate.pairing import Pairing
from whyalike.evaluate.photographs import OfPairs, Tell, boxed, compared, map_size, say
from whyalike.model import EmbeddingModel


@dataclass(frozen=True, eq=False)
class Located:
    """Where a method's maps lie, photograph by photograph.

    Args:
        overlaps: IoU of the boxes at each threshold, (pairs, thresholds).
        pointing: how much of the largest value lies in the box: 0 or 1 but for ties.
        energy: share of the map's positive values that lies in the box.
        half: which photographs are of the first half of the classes.
        counts: pixels by level, beside the object and on it, of photographs with a mask.
    """

    overlaps: Float[np.ndarray, "pairs thresholds"]
    pointing: Float[np.ndarray, " pairs"]
    energy: Float[np.ndarray, " pairs"]
    half: Bool[np.ndarray, " pairs"]
    counts: Int[np.ndarray, "2 levels"]

    def accuracies(self, at_least: float = 0.5) -> Float[np.ndarray, " thresholds"]:
        """Share of photographs whose box overlaps so far, at each threshold."""
        found: np.ndarray = (self.overlaps >= at_least).mean(0)
        return found

    @property
    def best_threshold(self) -> float:
        """The one at which most boxes have an IoU of 0.5 or more."""
        return float(measures.THRESHOLDS[self.accuracies().argmax()])

    def summary(self) -> dict[str, float | None]:
        """One number for each measure; None where it cannot be told.

        accuracy: at the best threshold for these photographs (Table I).
        held_out: the same, at the threshold that is best for the other half of the classes.
        v2, v2_held_out: MaxBoxAccV2, the mean over IoU 0.3, 0.5 and 0.7, in both ways.
        pointing, energy: means. pixel_ap: PxAP, over the photographs with a mask.
        """
        held_out = {
            share: measures.box_accuracy_held_out(self.overlaps, self.half, share)
            for share in measures.OVERLAPS
        }
        found = {
            "threshold": self.best_threshold,
            "accuracy": measures.box_accuracy(self.overlaps),
            "held_out": held_out[0.5],
            "v2": measures.box_accuracy_v2(self.overlaps),
            "v2_held_out": float(np.mean(list(held_out.values()))),
            "pointing": float(self.pointing.mean()),
            "energy": float(self.energy.mean()),
            "pixel_ap": measures.average_precision(self.counts)
            if self.counts[1].any()
            else math.nan,
        }
        return {name: None if math.isnan(value) else value for name, value in found.items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Localization(OfPairs):
    """Of every method, where its maps lie on one data set.

    Args:
        methods: by name.
        recall: share of the photographs whose nearest other one is of their class (R@1).
    """

    methods: dict[str, Located]
    recall: float


def evaluate_localization(
    model: EmbeddingModel,
    data: Dataset,
    methods: Sequence[str] = USUAL,
    *,
    pairing: Pairing = "nearest",
    limit: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Localization:
    """Measure where maps lie on photographs whose objects have boxes.

    >>> birds = read("cub:CUB_200_2011").only(split="test")  # doctest: +SKIP
    >>> evaluate_localization(model, birds, limit=300).methods["decomposition"].summary()
    ... # doctest: +SKIP

    Args:
        model: whose maps are measured, at its cut.
        data: photographs with boxes and labels.
        methods: their names in `whyalike.evaluate.methods`; those that know nothing of the images
            are always measured, too.
        pairing: the reference of each query: the nearest of its class, another of its class by
            lot, or the query itself.
        limit: measure about so many photographs: ten of each class, of classes spread evenly over
            all; by default all.
        seed: of what is random.
        tell: is called as the work goes on.

    Raises:
        DataError: no photograph of the data set can be measured.
        ModelError: a method cannot be had of this model.
        ValueError: a name that is no method, or no pairing.
    """
    chosen = named(methods)
    samples = boxed(data, limit, pairing != "self")
    told = compared(
        model, data, samples, pairing, limit=limit, seed=seed, tell=tell, lacking="none has a box"
    )
    found, partner, pairs = told.photographs, told.partner, told.queries
    half = _first_half(told.labels)
    located: dict[str, list[Any]] = {name: [] for name in chosen}
    sharp = cache(model.sharp)
    for done, i in enumerate(pairs):
        say(tell, "measuring maps", done, len(pairs))
        both = found.both(sharp, int(i), int(partner[i]), seed)
        for name, method in chosen.items():
            located[name].append(_locate(name, method, both, found.boxes[i], found.masks[i]))
    say(tell, "measuring maps", len(pairs), len(pairs))
    return Localization(
        **told.of_pairs,
        methods={name: _stacked(rows, half[pairs]) for name, rows in located.items()},
        recall=float(told.right.mean()),
    )


def _locate(
    name: str,
    method: Method,
    both: Both,
    box: Float[np.ndarray, " 4"],
    mask: Bool[np.ndarray, "H W"] | None,
) -> tuple[np.ndarray, float, float, np.ndarray]:
    try:
        values = method(both)
    except ModelError as error:
        raise ModelError(f"{name}: {error}; leave it out of the methods") from error
    maps = measures.to_image(values, map_size(both.query))[None]
    counts = np.zeros((2, measures.LEVELS), int)
    if mask is not None:
        counts = measures.pixel_counts(maps, mask[None])
    boxes = box[None]
    return (
        measures.box_overlaps(maps, boxes)[0],
        float(measures.pointing(maps, boxes)[0]),
        float(measures.energy(maps, boxes)[0]),
        counts,
    )


def _stacked(rows: list[Any], half: Bool[np.ndarray, " pairs"]) -> Located:
    overlaps, pointing, energy, counts = zip(*rows, strict=True)
    return Located(
        np.stack(overlaps), np.array(pointing), np.array(energy), half, np.sum(counts, axis=0)
    )


def _first_half(labels: np.ndarray) -> Bool[np.ndarray, " n"]:
    """The first half of the classes; of a single class, every second photograph."""
    kinds, of = np.unique(labels, return_inverse=True)
    if len(kinds) < 2:
        return np.arange(len(labels)) % 2 == 0
    first: np.ndarray = of < len(kinds) // 2
    return first
