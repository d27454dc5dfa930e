"""What is trained on: pictures with classes, and the batches that are drawn of them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from whyalike.data.synthetic import digit_scenes
from whyalike.errors import TrainingError
from whyalike.files import Name
from whyalike.images import ImageSource, read_image
from whyalike.preprocess import Preprocess
from whyalike.train.settings import Augment, Settings

SEEN_DIGITS, UNSEEN_DIGITS = (0, 1, 2, 6, 7, 8, 9), (3, 4, 5)


class Sample(Protocol):
    """What a reader of a data set yields: where a photograph is, and of what class."""

    @property
    def path(self) -> Any:
        """A path, or whatever else `read_image` reads."""

    @property
    def label(self) -> Any:
        """Its class, by a name or a number."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Photographs with a class each.

    Args:
        sources: whatever `read_image` reads: paths, arrays.
        labels: the name of the class of each.
    """

    sources: tuple[ImageSource, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.labels) or not self.sources:
            raise TrainingError(
                f"there is at least one picture, and a class of each; came {len(self.sources)} "
                f"pictures and {len(self.labels)} classes"
            )

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        return f"Pictures({len(self):,} of {len(self.classes):,} classes)"

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Pictures:
        """Those that a reader of a data set yields.

        Raises:
            TrainingError: a sample has no class.
        """
        found = [(sample.path, sample.label) for sample in samples]
        without = [path for path, label in found if label is None]
        if without:
            raise TrainingError(
                f"{without[0]} has no class ({len(without):,} of {len(found):,} have none); leave "
                f"such samples out"
            )
        return cls(tuple(path for path, _ in found), tuple(str(label) for _, label in found))

    @classmethod
    def of_files(cls, sources: Name | Iterable[Name]) -> Pictures:
        """Folders, in which the folder of a file is its class, and tables with `path` and `label`.

        Raises:
            TrainingError: a picture has no class.
            GalleryError: nothing is there.
        """
        from whyalike.gallery.listing import list_images  # with LanceDB, which takes its time

        listed = list_images(sources).files
        without = [one.path for one in listed if one.label is None]
        if without:
            raise TrainingError(
                f"{without[0]} has no class ({len(without):,} of {len(listed):,} have none); put "
                f"each class into a folder of its own, or give a table with a column `label`"
            )
        paths = tuple(os.fsdecode(one.file) for one in listed)
        return cls(paths, tuple(str(one.label) for one in listed))

    @classmethod
    def digits(cls, count: int = 12_800, unseen: int = 999) -> tuple[Pictures, Pictures]:
        """Handwritten digits on clutter, to train on and, of other classes, to measure on.

        The digits 0, 1, 2, 6, 7, 8 and 9 in eight positions each are 56 classes to train on; 3, 4
        and 5, upright, in other people's handwriting, are those to measure on. (Nine is no class
        to hold out where six is turned.)

        Args:
            count, unseen: how many pictures of either.
        """
        seen = digit_scenes(count, seed=1, split="train", classes=SEEN_DIGITS, turned=True)
        others = digit_scenes(unseen, seed=2, split="test", classes=UNSEEN_DIGITS)
        first, second = (
            cls(tuple(x.image for x in some), tuple(f"{x.labels[0]:02}" for x in some))
            for some in (seen, others)
        )
        return first, second

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return tuple(sorted(set(self.labels)))

    @cached_property
    def numbers(self) -> Int[Tensor, " n"]:
        """The class of each picture, as a number: its place in `classes`."""
        number = {name: index for index, name in enumerate(self.classes)}
        return torch.tensor([number[label] for label in self.labels])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names and classes, and of pixels where there are no names."""
        found = hashlib.blake2b(digest_size=16)
        for source, label in zip(self.sources, self.labels, strict=True):
            if isinstance(source, str | os.PathLike):
                found.update(os.fsencode(source))
            else:
                found.update(np.asarray(read_image(source)).tobytes())
            found.update(b"\0" + label.encode(errors="surrogateescape") + b"\0")
        return found.hexdigest()

    def hold_out(self, share: float) -> tuple[Pictures, Pictures]:
        """Two parts without a class in common: the last classes by name are those to evaluate on.

        Args:
            share: of the classes that is held out.

        Raises:
            TrainingError: too few are left to train on, or to evaluate on.
        """
        count = round(share * len(self.classes))
        if not 1 <= count <= len(self.classes) - 2:
            raise TrainingError(
                f"of {len(self.classes)} classes, 1 to {len(self.classes) - 2} can be held out; a "
                f"share of {share:g} is {count}"
            )
        held = set(self.classes[-count:])
        return self._only(lambda x: x not in held), self._only(lambda x: x in held)

    def _only(self, wanted: Any) -> Pictures:
        kept = [i for i, label in enumerate(self.labels) if wanted(label)]
        return Pictures(tuple(self.sources[i] for i in kept), tuple(self.labels[i] for i in kept))


def check_trainable(pictures: Pictures) -> None:
    """Refuse data of which no pairs can be made."""
    counts = Counter(pictures.labels)
    if len(counts) < 2 or max(counts.values()) < 2:
        raise TrainingError(
            f"training takes two or more classes, and two or more pictures in one; came {pictures}"
        )


class Batches:
    """Balanced batches: each a function of the settings' seed and of the step, and of no other.

    So a training that goes on at a step draws what it would have drawn.
    """

    def __init__(self, pictures: Pictures, settings: Settings, preprocess: Preprocess) -> None:
        self.pictures = pictures
        self.settings = settings
        self.preprocess = preprocess
        numbers = pictures.numbers.numpy()
        self._of_class = [np.flatnonzero(numbers == c) for c in range(len(pictures.classes))]

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return max(1, len(self.pictures) // self.settings.batch_size)

    def indices(self, step: int) -> Int[np.ndarray, " batch"]:
        """The pictures of a step: some classes by lot, and as many pictures of each by lot.

        Of a class that has too few, some come twice.
        """
        size, per_class = self.settings.batch_size, self.settings.per_class
        random = np.random.default_rng([self.settings.seed, 1, step])
        count = min(size // per_class, len(self._of_class))
        each = size // count
        chosen = random.choice(len(self._of_class), count, replace=False)
        return np.concatenate([_some(random, self._of_class[c], each) for c in chosen])

    def run(
        self, start: int, stop: int, workers: int
    ) -> Iterator[tuple[Float[Tensor, "batch 3 h w"], Int[Tensor, " batch"]]]:
        """Images and classes of the steps from `start` on, read ahead by threads."""
        with ThreadPoolExecutor(workers, "whyalike-train") as pool:
            waiting: list[tuple[Any, list[Future[Tensor]]]] = []
            try:
                for step in range(start, stop):
                    while len(waiting) < 2 and step + len(waiting) < stop:
                        at = step + len(waiting)
                        chosen = self.indices(at)
                        reads = [
                            pool.submit(self._one, int(index), at, place)
                            for place, index in enumerate(chosen)
                        ]
                        waiting.append((chosen, reads))
                    chosen, reads = waiting.pop(0)
                    yield (
                        torch.stack([one.result() for one in reads]),
                        self.pictures.numbers[chosen],
                    )
            finally:
                pool.shutdown(cancel_futures=True)

    def _one(self, index: int, step: int, place: int) -> Float[Tensor, "3 h w"]:
        image = read_image(self.pictures.sources[index])
        random = np.random.default_rng([self.settings.seed, 2, step, place])
        return self.preprocess(augmented(image, self.settings.augment, random))[0]


def augmented(image: Image.Image, augment: Augment, random: np.random.Generator) -> Image.Image:
    """A random view of a picture.

    "crop" takes 0.2 to 1 of the area in a shape of 3:4 to 4:3, as is usual in metric learning.
    """
    if augment == "none":
        return image
    if augment == "crop":
        width, height = image.size
        area = float(random.uniform(0.2, 1)) * width * height
        shape = float(np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3))))
        wide = min(width, max(1, round((area * shape) ** 0.5)))
        high = min(height, max(1, round((area / shape) ** 0.5)))
        left, top = (int(random.integers(0, n + 1)) for n in (width - wide, height - high))
        image = image.crop((left, top, left + wide, top + high))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def prepared(
    pictures: Pictures, preprocess: Preprocess, batch_size: int
) -> Iterator[Float[Tensor, "batch 3 h w"]]:
    """All pictures in order, as they are."""
    for start in range(0, len(pictures), batch_size):
        some = pictures.sources[start : start + batch_size]
        yield torch.stack([preprocess(read_image(source))[0] for source in some])


def _some(random: np.random.Generator, these: np.ndarray, count: int) -> np.ndarray:
    """So many by lot, each as often as any other, give or take one."""
    rounds = [random.permutation(these) for _ in range(-(-count // len(these)))]
    return np.concatenate(rounds)[:count]
