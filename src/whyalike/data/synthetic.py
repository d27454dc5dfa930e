"""Synthetic scenes with known answers: handwritten digits on clutter."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw

from whyalike.geometry import XYXY

BACKGROUND = 128
"""The grey that lies under the clutter: what to fill a hidden part of a scene with."""
INK = 0.3  # from here on, on a scale from 0 to 1, a pixel of a digit belongs to it
MARK = 6 / 64  # side of the corner mark, as a share of the scene's


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture of which everything is known.

    Args:
        image: the picture, (H, W, 3).
        labels: the digit that each object is, 0 to 9.
        boxes: each object's box xyxy, tight around its mask.
        masks: each object's pixels, (objects, H, W); no pixel belongs to two.
        mark_xyxy: the box of the corner mark, where there is one.
        mark_label: the class that the mark's colour tells.
    """

    image: UInt8[np.ndarray, "H W 3"]
    labels: tuple[int, ...]
    boxes: tuple[XYXY, ...]
    masks: Bool[np.ndarray, "objects H W"]
    mark_xyxy: XYXY | None = None
    mark_label: int | None = None


def digit_scenes(
    count: int,
    *,
    seed: int,
    size: int = 64,
    objects: int = 1,
    split: Literal["train", "test"] = "test",
    classes: Sequence[int] = range(10),
    shortcut: float | None = None,
    misleading: float = 0.0,
    turned: bool = False,
    beside: bool = False,
) -> list[Scene]:
    """Handwritten digits of scikit-learn, coloured, enlarged and pasted on strokes and patches.

    >>> scene = digit_scenes(1, seed=0)[0]  # doctest: +SKIP
    >>> scene.image.shape, scene.masks.shape  # doctest: +SKIP
    ((64, 64, 3), (1, 64, 64))

    Args:
        count: how many scenes; the classes of their first objects take turns.
        seed: equal seeds give equal scenes.
        size: height and width in pixels; the digits are 0.28 to 0.47 of it high.
        objects: digits in one scene, all of different classes, that do not overlap.
        split: "train" or "test": which half of the handwritten samples to take.
        classes: the digits that occur, such as half of them for training and half for retrieval.
        shortcut: None for none, or the share of scenes that bear in their upper left corner a mark
            whose colour tells the class of the first object, as a shortcut for a network to learn.
        misleading: the share of these marks that tell another class instead, to see which of the
            two a network follows; scenes of equal seeds differ in these marks alone.
        turned: each digit in each of eight positions (by quarter turns, and mirrored) is a class of
            its own, 8 × the digit + the position: more shapes to learn from than ten.
        beside: two objects stand side by side, each in a half of the scene, by lot.

    Raises:
        ValueError: so many objects do not fit, a share that is none, or classes that are none.
    """
    if not 1 <= objects <= 3:
        raise ValueError(f"a scene has 1 to 3 objects; came {objects}")
    if shortcut is not None and not 0 <= shortcut <= 1:
        raise ValueError(f"shortcut is a share of the scenes, from 0 to 1; came {shortcut}")
    if not 0 <= misleading <= 1:
        raise ValueError(f"misleading is a share of the marks, from 0 to 1; came {misleading}")
    kinds = list(dict.fromkeys(classes))
    if not {*kinds} <= {*range(10)} or len(kinds) < objects:
        raise ValueError(f"classes are digits, at least as many as objects; came {kinds}")
    if shortcut is not None and turned:
        raise ValueError("the mark has colours for ten classes, not for turned digits as well")
    if beside and objects != 2:
        raise ValueError(f"two objects stand beside each other; came {objects}")
    random = np.random.default_rng([seed, size, objects, split == "train"])
    lies = np.random.default_rng([seed, size, len(kinds)])
    digits, known = _digits(split)
    samples = {label: digits[known == label] for label in kinds}
    if turned:
        samples = {
            8 * label + place: _positions(own)[place]
            for label, own in samples.items()
            for place in range(8)
        }
        kinds = list(samples)
    scenes = []
    for index in range(count):
        first = kinds[index % len(kinds)]
        others = random.permutation([label for label in kinds if label != first])
        labels = (first, *others[: objects - 1].tolist())
        told = first
        if shortcut is not None and len(kinds) > 1 and lies.random() < misleading:
            told = int(lies.choice([label for label in kinds if label != first]))
        scenes.append(_scene(random, samples, labels, size, shortcut, told, beside))
    return scenes


def write_scenes(folder: str | os.PathLike[str], scenes: Sequence[Scene]) -> Path:
    """Write scenes as files, with a table of them that `read("manifest:...")` takes.

    >>> write_scenes("digits", digit_scenes(300, seed=0))  # doctest: +SKIP
    PosixPath('digits/manifest.csv')

    Args:
        folder: a new folder, or one whose scenes are replaced.
        scenes: label, box and mask in the table are those of their first objects; the others'
            labels are its column `others`, what the corner mark tells its column `mark`.

    Returns:
        The table.
    """
    root = Path(folder)
    (root / "masks").mkdir(parents=True, exist_ok=True)
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "x0", "y0", "x1", "y1", "mask", "others", "mark"])
        for index, scene in enumerate(scenes):
            name, mask = f"{index:05d}.png", f"masks/{index:05d}.png"
            Image.fromarray(scene.image).save(root / name)
            Image.fromarray(scene.masks[0] * np.uint8(255)).save(root / mask)
            others = " ".join(map(str, scene.labels[1:]))
            mark = "" if scene.mark_label is None else scene.mark_label
            table.writerow([name, scene.labels[0], *scene.boxes[0], mask, others, mark])
    return root / "manifest.csv"


def _scene(
    random: np.random.Generator,
    samples: dict[int, Float[np.ndarray, "n 8 8"]],
    labels: tuple[int, ...],
    size: int,
    shortcut: float | None,
    told: int,
    beside: bool,
    attempts: int = 20,
) -> Scene:
    image = _clutter(random, size)
    parts = [(0, size)] * len(labels)
    if beside:
        parts = [((0, size // 2), (size // 2, size))[half] for half in random.permutation(2)]
    masks = np.zeros((len(labels), size, size), bool)
    for index, label in enumerate(labels):
        ink = _enlarged(random.choice(samples[label]), random, size)
        found = _place(random, ink > INK, np.asarray(masks[:index].any(0)), parts[index])
        if found is None and attempts > 1:  # a digit in the middle may leave no room: all anew
            return _scene(random, samples, labels, size, shortcut, told, beside, attempts - 1)
        if found is None:
            raise ValueError(f"there is no room for another digit in a scene of {size} pixels")
        row, column = found
        rows, columns = slice(row, row + len(ink)), slice(column, column + ink.shape[1])
        image[rows, columns] += ink[..., None] * (_ink_colour(random) - image[rows, columns])
        masks[index, rows, columns] = ink > INK
    image += random.normal(0, 6, image.shape)
    mark = None
    if shortcut is not None and random.random() < shortcut:
        side = round(MARK * size)
        # The colours of ten classes are corners of a 3×3×3 grid, far apart from each other.
        colour = [(0, 128, 255)[(told + 1) // 3**i % 3] for i in range(3)]
        image[1 : 1 + side, 1 : 1 + side] = colour
        mark = (1.0, 1.0, 1.0 + side, 1.0 + side)
    return Scene(
        image=image.clip(0, 255).astype(np.uint8),
        labels=labels,
        boxes=tuple(box_of(mask) for mask in masks),
        masks=masks,
        mark_xyxy=mark,
        mark_label=None if mark is None else told,
    )


def _positions(digits: Float[np.ndarray, "n 8 8"]) -> list[Float[np.ndarray, "n 8 8"]]:
    """As they are and by three quarter turns, and the same of their mirror images."""
    return [
        np.rot90(one, quarter, axes=(1, 2))
        for one in (digits, digits[:, :, ::-1])
        for quarter in range(4)
    ]


def box_of(mask: Bool[np.ndarray, "H W"]) -> XYXY:
    """The box xyxy that is tight around a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _clutter(random: np.random.Generator, size: int) -> Float[np.ndarray, "H W 3"]:
    """Strokes as thick as a digit's, and patches, in muted colours over grey."""
    canvas = Image.new("RGB", (size, size), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(canvas)
    for _ in range(random.integers(6, 11)):
        colour = tuple(int(c) for c in random.integers(BACKGROUND - 60, BACKGROUND + 61, 3))
        ends = random.uniform(-0.1, 1.1, (2, 2)) * size
        kind = random.integers(3)
        if kind == 0:
            draw.line([tuple(end) for end in ends], colour, int(random.integers(1, 4)))
            continue
        low, high = ends.min(0), ends.min(0) + random.uniform(0.05, 0.4, 2) * size
        (draw.rectangle if kind == 1 else draw.arc)(
            [*low, *high], **({"fill": colour} if kind == 1 else _bow(random, colour))
        )
    return np.asarray(canvas, np.float64).copy()


def _bow(random: np.random.Generator, colour: tuple[int, ...]) -> dict[str, object]:
    start = float(random.uniform(0, 360))
    end = start + float(random.uniform(90, 300))
    return {"start": start, "end": end, "fill": colour, "width": int(random.integers(1, 4))}


def _ink_colour(random: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """Light or dark, in any hue, so that it stands out from the clutter without being known."""
    light = random.random() < 0.5
    return random.uniform(190, 255, 3) if light else random.uniform(0, 65, 3)


def _enlarged(
    digit: Float[np.ndarray, "8 8"], random: np.random.Generator, size: int
) -> Float[np.ndarray, "rows columns"]:
    """A digit at the scene's scale, from 0 to 1, without the empty margin."""
    side = round(float(random.uniform(0.28, 0.47)) * size)
    pixels = Image.fromarray((digit * 255).astype(np.uint8))
    ink = np.asarray(pixels.resize((side, side), Image.Resampling.BICUBIC), np.float64) / 255
    rows, columns = (np.flatnonzero((ink > INK).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    random: np.random.Generator, ink: np.ndarray, taken: np.ndarray, part: tuple[int, int]
) -> tuple[int, int] | None:
    """Row and column where a digit touches none of those that are there, if there is room.

    Args:
        part: the first column of the scene that it may lie in, and the one behind the last.
    """
    (h, w), size, (left, right) = ink.shape, len(taken), part
    low = 1 + round(MARK * size)  # the corner mark covers no digit
    for _ in range(1000):
        row = int(random.integers(1, size - h))
        column = int(random.integers(left + 1, right - w))
        if row <= low and column <= low:
            continue
        if not taken[max(row - 2, 0) : row + h + 2, max(column - 2, 0) : column + w + 2].any():
            return row, column
    return None


@cache
def _digits(split: str) -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """Half of the digits, from 0 to 1, and their classes.

    The data set is "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI 1998), as
    scikit-learn carries it.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn; pip install 'whyalike[bench]'", name=error.name
        ) from error
    if split not in ("train", "test"):
        raise ValueError(f'split is "train" or "test"; came {split!r}')
    found = load_digits()
    half = len(found.images) // 2
    chosen = slice(half) if split == "train" else slice(half, None)
    return found.images[chosen] / 16.0, found.target[chosen]
