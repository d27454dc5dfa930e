"""Photographs as the network sees them, their boxes, and who is compared with whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
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
from whyalike.evaluate.methods import Both
from whyalike.evaluate.pairing import Pairing, partners
from whyalike.gallery.manifest import fingerprint
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


def boxed(data: Dataset, limit: int | None, labelled: bool) -> list[Sample]:
    """The samples with boxes, or some of them: ten of each class, of classes spread evenly."""
    return some([one for one in data if one.box_xyxy], limit, labelled)


def some(
    data: Iterable[Sample], limit: int | None, labelled: bool, each: int = PER_CLASS
) -> list[Sample]:
    """Samples that are no junk, or so many of them: ten of each class, of classes spread evenly."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is 1 or more; came {limit}")
    samples = [one for one in data if not one.junk and (one.label or not labelled)]
    if limit is None or limit >= len(samples):
        return samples
    sizes = Counter(one.label or "" for one in samples)

    def spread(number: int) -> list[str]:
        kinds = sorted(sizes)
        return [kinds[i * len(kinds) // number] for i in range(number)]

    def held(kinds: list[str], most: int) -> int:
        return sum(min(sizes[kind], most) for kind in kinds)

    enough = (n for n in range(-(-limit // each), len(sizes)) if held(spread(n), each) >= limit)
    kinds = spread(next(enough, len(sizes)))
    most = next(m for m in range(1, limit + 1) if held(kinds, m) >= limit)
    room = dict.fromkeys(kinds, most)
    taken = []
    for one in samples:
        if room.get(one.label or "", 0):
            room[one.label or ""] -= 1
            taken.append(one)
    return taken[:limit]


class Photographs:
    """Photographs that can be read and whose box, if any, is in view: embeddings, boxes, masks.

    Of one without a box, all of it is the object.
    """

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
            say(tell, "embedding photographs", start, len(samples))
            taken = [self._take(sample) for sample in samples[start : start + BATCH]]
            if tensors := [one for one in taken if one is not None]:
                self.E.append(model.embeddings(torch.stack(tensors)).float().cpu())
        say(tell, "embedding photographs", len(samples), len(samples))

    def _seen(self, path: str) -> tuple[Float[Tensor, "3 H W"], XYXY, tuple[int, int]]:
        """A photograph as the network sees it, what part of it that is, and its size."""
        image = read_image(path)
        return *self._preprocess(image), image.size

    def _take(self, sample: Sample) -> Float[Tensor, "3 H W"] | None:
        try:
            tensor, view_xyxy, size_wh = self._see(str(sample.path))
            size_hw = map_size(tensor)
            box = on_input(sample.box_xyxy or view_xyxy, view_xyxy, size_hw)
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
        x, y = self.tensor(query), self.tensor(reference)
        known = lambda: (self.explained(query), self.explained(reference))  # noqa: E731
        return Both(self._model, sharp, x, y, seed=seed, explained=known)

    def tensor(self, i: int) -> Float[Tensor, "3 H W"]:
        """What the network sees of a photograph."""
        return self._see(str(self.samples[i].path))[0]

    def explained(self, i: int) -> Contributions:
        """What the cells of a photograph give.

        Partners are often near by, so the last ones are kept, unless they hold activations.
        """
        if i in self._explained:
            return self._explained[i]
        made = self._model.explain(self.tensor(i))
        if made.at_hand:
            if len(self._explained) >= 2 * BATCH:
                self._explained.pop(next(iter(self._explained)))
            self._explained[i] = made
        return made


@dataclass(frozen=True, eq=False, kw_only=True)
class OfPairs:
    """What was measured of pairs of one data set's photographs.

    Args:
        data: the data set.
        queries, references: the photographs of each pair.
        pairing, limit, seed: as they were asked for.
        model: that made the maps.
        left_out: photographs that could not be measured, and why.
    """

    data: Dataset
    queries: tuple[Sample, ...]
    references: tuple[Sample, ...]
    pairing: Pairing
    limit: int | None
    seed: int
    model: EmbeddingModel
    left_out: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.queries)

    def settings(self, **chosen: str) -> dict[str, Any]:
        """For a report: what was asked for, and of which model."""
        return {
            "data": self.data.name,
            **chosen,
            "pairs": self.pairing,
            "limit": "all" if self.limit is None else self.limit,
            "seed": self.seed,
            **{f"model, {name}": value for name, value in fingerprint(self.model).items()},
            "threads": torch.get_num_threads(),
        }


@dataclass(frozen=True, eq=False)
class Compared:
    """Photographs, and who is compared with whom.

    Args:
        photographs: that could be read.
        queries: indices of those that have a partner.
        partner: of each photograph, the index of its reference; −1 for none.
        right: whether its nearest other one is of its class.
        of_pairs: what the results of an evaluation begin with.
    """

    photographs: Photographs
    queries: Int[np.ndarray, " pairs"]
    partner: Int[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    of_pairs: dict[str, Any]

    @property
    def labels(self) -> np.ndarray:
        """Of each photograph; "" where it has none."""
        return np.array([one.label or "" for one in self.photographs.samples])


def compared(
    model: EmbeddingModel,
    data: Dataset,
    samples: list[Sample],
    pairing: Pairing,
    *,
    limit: int | None,
    seed: int = 0,
    tell: Tell | None = None,
    lacking: str = "it has none",
) -> Compared:
    """Read and embed photographs, and choose the reference of each.

    Args:
        samples: of the data set, as many as `limit` asked for.
        lacking: what is said where there are no samples.

    Raises:
        DataError: none can be measured, or no two are of one class.
    """
    found = Photographs(model, samples, tell)
    if not found.samples:
        reasons = "; ".join(sorted({reason for _, reason in found.left_out})) or lacking
        raise DataError(f"{printable(data.name)}: no photograph can be measured: {reasons}")
    labels = np.array([one.label or "" for one in found.samples])
    partner, right = partners(torch.cat(found.E), labels, pairing, seed=seed)
    if not (partner >= 0).any():
        raise DataError(f"{printable(data.name)}: no two photographs are of one class")
    lone = [str(found.samples[i].path) for i in np.flatnonzero(partner < 0)]
    left_out = *found.left_out, *((path, "no other photograph is of its class") for path in lone)
    queries = np.flatnonzero(partner >= 0)
    of_pairs = {
        "data": data,
        "queries": tuple(found.samples[i] for i in queries),
        "references": tuple(found.samples[i] for i in partner[queries]),
        "pairing": pairing,
        "limit": limit,
        "seed": seed,
        "model": model,
        "left_out": left_out,
    }
    return Compared(found, queries, partner, right, of_pairs)


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


def say(tell: Tell | None, what: str, done: int, total: int) -> None:
    """Tell how far the work is, if somebody wants to know."""
    if tell is not None:
        tell(what, done, total)
