"""Do maps lie on the object? Tables I and II of the paper, and what its successors ask for.

Of each photograph with a box, the map is that of a query whose reference is another photograph of
its class (Zhu, Yang, Chen, IEEE TIP 2021, section VI-A).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.data import Dataset, Sample
from whyalike.errors import DataError, ImageError, ModelError
from whyalike.evaluate import measures
from whyalike.evaluate.methods import USUAL, Both, Method, named
from whyalike.evaluate.pairing import Pairing, partners
from whyalike.geometry import XYXY
from whyalike.images import printable, read_image
from whyalike.model import EmbeddingModel

SIDE = 128
"""Boxes are looked for at no more pixels a side: a larger input is shrunk by a whole number."""
PER_CLASS = 10
"""Where not all photographs are taken, so many of each class."""
BATCH = 32

Tell = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


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


@dataclass(frozen=True, eq=False)
class Localization:
    """Of every method, where its maps lie on one data set.

    Args:
        data: the data set.
        queries, references: the photographs of each pair.
        methods: by name.
        pairing: how references were chosen.
        limit, seed: as they were asked for.
        recall: share of the photographs whose nearest other one is of their class (R@1).
        left_out: photographs that could not be measured, and why.
        model: that made the maps.
    """

    data: Dataset
    queries: tuple[Sample, ...]
    references: tuple[Sample, ...]
    methods: dict[str, Located]
    pairing: Pairing
    limit: int | None
    seed: int
    recall: float
    model: EmbeddingModel
    left_out: tuple[tuple[str, str], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.queries)


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
    found = _Measured(model, _boxed(data, limit, pairing != "self"), tell)
    if not found.samples:
        reasons = "; ".join(sorted({reason for _, reason in found.left_out})) or "none has a box"
        raise DataError(f"{printable(data.name)}: no photograph can be measured: {reasons}")
    labels = np.array([one.label or "" for one in found.samples])
    partner, right = partners(torch.cat(found.E), labels, pairing, seed=seed)
    pairs = np.flatnonzero(partner >= 0)
    if not len(pairs):
        raise DataError(f"{printable(data.name)}: no two photographs are of one class")
    lone = [found.samples[i] for i in np.flatnonzero(partner < 0)]
    half = _first_half(labels)
    located: dict[str, list[Any]] = {name: [] for name in chosen}
    sharp = cache(model.sharp)
    for done, i in enumerate(pairs):
        _tell(tell, "measuring maps", done, len(pairs))
        both = found.both(sharp, int(i), int(partner[i]), seed)
        for name, method in chosen.items():
            located[name].append(_locate(name, method, both, found.boxes[i], found.masks[i]))
    _tell(tell, "measuring maps", len(pairs), len(pairs))
    return Localization(
        data=data,
        queries=tuple(found.samples[i] for i in pairs),
        references=tuple(found.samples[i] for i in partner[pairs]),
        methods={name: _stacked(rows, half[pairs]) for name, rows in located.items()},
        pairing=pairing,
        limit=limit,
        seed=seed,
        recall=float(right.mean()),
        model=model,
        left_out=(
            *found.left_out,
            *((str(one.path), "no other photograph is of its class") for one in lone),
        ),
    )


def _boxed(data: Dataset, limit: int | None, labelled: bool) -> list[Sample]:
    """The samples with boxes, or some of them: ten of each class, of classes spread evenly."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is 1 or more; came {limit}")
    samples = [one for one in data if one.box_xyxy and not one.junk and (one.label or not labelled)]
    if limit is None or limit >= len(samples):
        return samples
    sizes = Counter(one.label or "" for one in samples)

    def spread(number: int) -> list[str]:
        kinds = sorted(sizes)
        return [kinds[i * len(kinds) // number] for i in range(number)]

    def held(kinds: list[str], most: int) -> int:
        return sum(min(sizes[kind], most) for kind in kinds)

    enough = (
        n for n in range(-(-limit // PER_CLASS), len(sizes)) if held(spread(n), PER_CLASS) >= limit
    )
    kinds = spread(next(enough, len(sizes)))
    most = next(m for m in range(1, limit + 1) if held(kinds, m) >= limit)
    room = dict.fromkeys(kinds, most)
    taken = []
    for one in samples:
        if room.get(one.label or "", 0):
            room[one.label or ""] -= 1
            taken.append(one)
    return taken[:limit]


class _Measured:
    """Photographs that can be read and whose box is in view: embeddings, boxes, masks."""

    def __init__(self, model: EmbeddingModel, samples: list[Sample], tell: Tell | None) -> None:
        self.samples: list[Sample] = []
        self.left_out: list[tuple[str, str]] = []
        self.E: list[Tensor] = []
        self.boxes: list[Float[np.ndarray, " 4"]] = []
        self.masks: list[Bool[np.ndarray, "H W"] | None] = []
        if model.preprocess is None:
            raise ModelError("to read photographs, the model needs a Preprocess; give it one")
        self._preprocess = model.preprocess
        self._model = model
        self._see = lru_cache(4 * BATCH)(self._seen)
        self._explained: dict[int, Contributions] = {}
        for start in range(0, len(samples), BATCH):
            _tell(tell, "embedding photographs", start, len(samples))
            taken = [self._take(sample) for sample in samples[start : start + BATCH]]
            if tensors := [one for one in taken if one is not None]:
                self.E.append(model.embeddings(torch.stack(tensors)).float().cpu())
        _tell(tell, "embedding photographs", len(samples), len(samples))

    def _seen(self, path: str) -> tuple[Float[Tensor, "3 H W"], XYXY, tuple[int, int]]:
        """A photograph as the network sees it, what part of it that is, and its size."""
        image = read_image(path)
        return *self._preprocess(image), image.size

    def _take(self, sample: Sample) -> Float[Tensor, "3 H W"] | None:
        assert sample.box_xyxy is not None
        try:
            tensor, view_xyxy, size_wh = self._see(str(sample.path))
            size_hw = map_size(tensor)
            box = on_input(sample.box_xyxy, view_xyxy, size_hw)
            if box[2] - box[0] <= 0 or box[3] - box[1] <= 0:
                raise ImageError("its box lies outside of what the network sees")
            mask = None
            if sample.mask is not None:
                mask = read_mask(sample.mask, size_wh, view_xyxy, size_hw)
        except ImageError as error:
            self.left_out.append((str(sample.path), str(error)))
            return None
        self.samples.append(sample)
        self.boxes.append(box)
        self.masks.append(mask)
        return tensor

    def both(
        self, sharp: Callable[[], EmbeddingModel], query: int, reference: int, seed: int
    ) -> Both:
        """A pair, read again if need be: a data set need not fit into memory."""
        x, y = (self._see(str(self.samples[i].path))[0] for i in (query, reference))
        known = lambda: (self._explain(query), self._explain(reference))  # noqa: E731
        return Both(self._model, sharp, x, y, seed=seed, explained=known)

    def _explain(self, i: int) -> Contributions:
        """Partners are often near by, so the last ones are kept, unless they hold activations."""
        if i in self._explained:
            return self._explained[i]
        made = self._model.explain(self._see(str(self.samples[i].path))[0])
        if made.at_hand:
            if len(self._explained) >= 2 * BATCH:
                self._explained.pop(next(iter(self._explained)))
            self._explained[i] = made
        return made


def map_size(tensor: Float[Tensor, "3 H W"]) -> tuple[int, int]:
    """Height and width at which maps of an input are measured: at most 128 a side."""
    height, width = tensor.shape[1:]
    shrink = -(-max(height, width) // SIDE)
    return height // shrink, width // shrink


def on_input(box_xyxy: XYXY, view_xyxy: XYXY, size_hw: tuple[int, int]) -> Float[np.ndarray, " 4"]:
    """A box of a photograph in pixels of what the network saw of it, cut off at its border."""
    x0, y0, x1, y1 = view_xyxy
    limits = np.array([size_hw[1], size_hw[0]] * 2, float)
    scale = limits / np.array([x1 - x0, y1 - y0] * 2)
    moved: np.ndarray = np.clip((np.array(box_xyxy) - (x0, y0, x0, y0)) * scale, 0, limits)
    return moved


def read_mask(
    file: Path, size_wh: tuple[int, int], view_xyxy: XYXY, size_hw: tuple[int, int]
) -> Bool[np.ndarray, "H W"]:
    """The mask of a photograph of some size over what the network saw of it.

    Raises:
        ImageError: it cannot be read, or is not of the photograph's size.
    """
    mask = read_image(file).convert("L")
    if mask.size != size_wh:
        (w, h), (mw, mh) = size_wh, mask.size
        raise ImageError(f"its mask has {mw}×{mh} pixels, the photograph {w}×{h}")
    seen = mask.resize(size_hw[::-1], Image.Resampling.BOX, box=view_xyxy)
    return np.asarray(seen) >= 128


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


def _tell(tell: Tell | None, what: str, done: int, total: int) -> None:
    if tell is not None:
        tell(what, done, total)
