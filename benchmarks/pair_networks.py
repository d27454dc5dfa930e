"""Networks that learned which pairs of digits scenes show, and never where a digit is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Literal

import whyalike as wa
from benchmarks.trained import FOLDER
from whyalike.data.synthetic import Scene, digit_scenes
from whyalike.train import DIGITS, Pictures, train

Pool = Literal["mean", "max", "flatten"]
SCENES, EPOCHS = 5400, 8


def model(pool: Pool) -> wa.EmbeddingModel:
    """A small network with such a pooling; the first call trains it, for some minutes."""
    folder = FOLDER / f"pairs-{pool}-1"
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = replace(DIGITS, pool=pool, epochs=EPOCHS)
    train(
        _pictures(),
        folder,
        settings,
        progress=lambda now: print(now.epoch, flush=True) if now.epoch else None,
    )
    return wa.load(str(folder))


@cache
def _pictures() -> Pictures:
    """Of the handwriting that is there to train on; scenes match where both digits are the same."""
    found = scenes(SCENES, seed=11, split="train")
    return Pictures(tuple(scene.image for scene in found), tuple(pair(scene) for scene in found))


def scenes(count: int, seed: int, split: Literal["train", "test"]) -> list[Scene]:
    """Two digits side by side on clutter, either on the left."""
    return digit_scenes(count, seed=seed, objects=2, split=split, beside=True)


def pair(scene: Scene) -> str:
    """The two digits, whichever is on the left."""
    return "{}{}".format(*sorted(scene.labels))
