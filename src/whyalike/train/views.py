"""What two towers are trained on: places with a photograph from the street and one from above."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from whyalike.data import Dataset
from whyalike.errors import TrainingError
from whyalike.images import ImageSource, read_image
from whyalike.preprocess import Preprocess

Batch = tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 H W"]]
"""From the street and from above."""
KEPT_BYTES = 1 << 30
"""Of inputs that stay in memory, so that each photograph of a small set is read once."""


@dataclass(frozen=True, eq=False)
class Views:
    """Places, each with its two photographs.

    Args:
        ground, aerial: whatever `read_image` reads; the i-th of both are of one place.
    """

    ground: tuple[ImageSource, ...]
    aerial: tuple[ImageSource, ...]

    def __post_init__(self) -> None:
        if len(self.ground) != len(self.aerial) or not self.ground:
            raise TrainingError(
                f"there is at least one place, and two photographs of each; came "
                f"{len(self.ground)} from the street and {len(self.aerial)} from above"
            )

    def __len__(self) -> int:
        return len(self.ground)

    def __repr__(self) -> str:
        return f"Views({len(self):,} places)"

    @classmethod
    def of(cls, data: Dataset) -> Views:
        """The pairs that a data set knows to be of one place; of several of one kind, the best.

        Raises:
            TrainingError: there are none, of a view from the street and one from above.
        """
        found = []
        for pair in data.pairs:
            two = {one.view: one.path for one in (data[pair.first], data[pair.second])}
            if pair.same and pair.kind in (None, "positive") and {*two} == {"ground", "aerial"}:
                found.append((two["ground"], two["aerial"]))
        if not found:
            raise TrainingError(
                f"{data.name}: has no pairs of a view from the street and one from above; give "
                f"cvusa:PATH, cvact:PATH, vigor:PATH, or a table with columns `view` and `pair`"
            )
        return cls(tuple(ground for ground, _ in found), tuple(aerial for _, aerial in found))

    def hold_out(self, share: float) -> tuple[Views, Views | None]:
        """Two parts: the last places are those to evaluate on, none of them for a share of 0.

        Raises:
            TrainingError: none are left to train on.
        """
        kept = len(self) - round(share * len(self))
        if not kept:
            raise TrainingError(
                f"a share of {share:g} of {len(self)} places leaves none to train on"
            )
        if kept == len(self):
            return self, None
        return (
            Views(self.ground[:kept], self.aerial[:kept]),
            Views(self.ground[kept:], self.aerial[kept:]),
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names, and of pixels where there are no names."""
        found = hashlib.blake2b(digest_size=16)
        for source in (*self.ground, *self.aerial):
            if isinstance(source, str | os.PathLike):
                found.update(os.fsencode(source) + b"\0")
            else:
                found.update(np.asarray(read_image(source)).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class ViewBatches:
    """Batches of places: each a function of the seed and of the step, and of no other.

    Args:
        views: to draw from.
        ground, aerial: from a photograph to the input of each tower.
        size: places in a batch.
        seed: of what is drawn.
        turn: whether aerial photographs are turned, panoramas begin anywhere, and both are
            mirrored, by lot.
    """

    views: Views
    ground: Preprocess
    aerial: Preprocess
    size: int
    seed: int
    turn: bool
    _kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return max(1, len(self.views) // self.size)

    def indices(self, step: int) -> np.ndarray:
        """The places of a step: each epoch takes all of them once, but for a last few, by lot."""
        epoch, at = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.views))
        return order[at * self.size : (at + 1) * self.size]

    def run(self, start: int, stop: int, workers: int) -> Iterator[Batch]:
        """The photographs of the steps from `start` on, read ahead by threads."""
        with ThreadPoolExecutor(workers, "whyalike-train") as pool:
            ahead = pool.submit(self.batch, start) if start < stop else None
            try:
                for step in range(start, stop):
                    assert ahead is not None
                    batch = ahead.result()
                    ahead = pool.submit(self.batch, step + 1) if step + 1 < stop else None
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """The photographs of one step."""
        return self._by_lot(self.indices(step), np.random.default_rng([self.seed, 2, step]))

    def all(self) -> Iterator[Batch]:
        """All places in order; by lot, too, but each time by the same."""
        for start in range(0, len(self.views), self.size):
            some = np.arange(start, min(start + self.size, len(self.views)))
            yield self._by_lot(some, np.random.default_rng([self.seed, 4, start]))

    def _by_lot(self, places: np.ndarray, random: np.random.Generator) -> Batch:
        """Photographs of places; turned, begun and mirrored by lot where that is asked for."""
        ground, aerial = self._read(places)
        if not self.turn:
            return ground, aerial
        mirrored = torch.from_numpy(random.random(len(ground)) < 0.5)
        ground = torch.where(mirrored[:, None, None, None], ground.flip(3), ground)
        aerial = torch.where(mirrored[:, None, None, None], aerial.flip(3), aerial)
        begins = random.integers(0, ground.shape[3], len(ground)).tolist()
        ground = torch.stack([one.roll(at, 2) for one, at in zip(ground, begins, strict=True)])
        return ground, turned(aerial, random.uniform(0, 360, len(aerial)))

    def _read(self, places: np.ndarray) -> Batch:
        """What a network takes, of photographs that are kept as 8 bits for the next time."""
        both = [self._place(int(i)) for i in places]
        ground, aerial = (torch.stack(views) for views in zip(*both, strict=True))
        return self.ground.normalised(ground), self.aerial.normalised(aerial)

    def _place(self, index: int) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "3 H W"]]:
        if index not in self._kept:
            ground = self.ground.pixels(read_image(self.views.ground[index]))[0]
            aerial = self.aerial.pixels(read_image(self.views.aerial[index]))[0]
            if (len(self._kept) + 1) * (ground.numel() + aerial.numel()) > KEPT_BYTES:
                return ground, aerial
            self._kept[index] = ground, aerial
        return self._kept[index]


def turned(aerial: Float[Tensor, "n 3 h w"], degrees: np.ndarray) -> Float[Tensor, "n 3 h w"]:
    """Photographs from above, each turned clockwise about its centre; what is bared is mean grey.

    Args:
        aerial: inputs of a network, whose zero is the mean colour.
        degrees: for each.
    """
    theta = [
        [[math.cos(a), math.sin(a), 0.0], [-math.sin(a), math.cos(a), 0.0]]
        for a in np.radians(degrees).tolist()
    ]
    grid = affine_grid(torch.tensor(theta), list(aerial.shape), align_corners=False)
    return grid_sample(aerial, grid, mode="bilinear", align_corners=False)
