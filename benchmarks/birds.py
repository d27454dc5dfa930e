"""Photographs of birds with their boxes, where they are at hand: never a part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import whyalike as wa
from benchmarks.pairs import Pairs, matched
from benchmarks.tables import UnavailableError
from whyalike.data import read

BESIDE = Path(__file__).parents[2] / "shared" / "data" / "cub_dev"


def folder() -> Path:
    """CUB-200-2011 (Wah et al., 2011), or a part of it in the same layout.

    Raises:
        UnavailableError: it is neither where the variable WHYALIKE_CUB says nor beside the project.
    """
    named = os.environ.get("WHYALIKE_CUB")
    found = Path(named).expanduser() if named else BESIDE
    if not (found / "bounding_boxes.txt").is_file():
        raise UnavailableError(
            "no photographs of birds: set WHYALIKE_CUB to a folder in the layout of CUB-200-2011"
        )
    return found


def pairs(model: wa.EmbeddingModel, per_species: int = 10, species: int = 20) -> Pairs:
    """The first photographs of the first species, each with the nearest one of its species.

    Settings are chosen on the first half of the species, and reported on the second.
    """
    assert model.preprocess is not None
    images, boxes, labels = [], [], []
    for path, box, label in photographs(per_species, species):
        with Image.open(path) as file:
            photograph = file.convert("RGB")
        tensor, (x0, y0, x1, y1) = model.preprocess(photograph)
        height, width = tensor.shape[1:]
        scale = np.array([width / (x1 - x0), height / (y1 - y0)] * 2)
        images.append(tensor)
        boxes.append((np.array(box) - (x0, y0, x0, y0)) * scale)
        labels.append(label)
    limits = [width, height] * 2
    inside = np.clip(np.array(boxes), 0, limits)
    return matched(model, torch.stack(images), inside, torch.tensor(labels), retrieved=False)


def photographs(
    per_species: int, species: int
) -> list[tuple[Path, tuple[float, float, float, float], int]]:
    """Path, box xyxy in pixels of the file, and number of the species."""
    birds = read(f"cub:{folder()}")
    number = {label: at for at, label in enumerate(birds.labels[:species])}
    counts, found = dict.fromkeys(number, 0), []
    for bird in birds:
        if counts.get(bird.label, per_species) < per_species:
            counts[bird.label] += 1
            found.append((bird.path, bird.box_xyxy, number[bird.label]))
    return found
