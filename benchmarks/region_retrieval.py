"""Does a region find what is in it? Region search beside the whole image, crops and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import whyalike as wa
from benchmarks import birds, pair_networks
from benchmarks.tables import Table, UnavailableError
from whyalike.evaluate.region_search import WAYS, Compared, Way, compare, query_vectors
from whyalike.evaluate.retrieval import retrieval
from whyalike.geometry import XYXY

QUERIES, GALLERY, K = 225, 900, 10
COLUMNS: dict[Way, str] = {"region": "region", "whole": "whole image", "crop": "crop",
                           "crop with margin": "crop, margin", "mask": "rest masked"}  # fmt: skip
POOLS: dict[str, pair_networks.Pool] = {"GAP": "mean", "GMP": "max", "flatten": "flatten"}


def run(full: bool = False) -> list[Table]:
    """Digits in pairs, and the birds where they are."""
    tables = [on_digits()]
    try:
        tables.append(on_birds(24 if full else 12))
    except UnavailableError as error:
        print(f"region retrieval, birds: skipped: {error}", flush=True)
    return tables


def on_digits() -> Table:
    """Two digits on clutter; the one in the box is asked for."""
    rows = []
    for name, pool in POOLS.items():
        model = pair_networks.model(pool)
        for title, found in digits(model).items():
            rows.append([f"{name}, {title}", *cells(found)])
        rows[-2][0] += f" (R@1 of pairs {_recall(model):.2f})"
    about = f"""\
Scenes of 64 px with two handwritten digits side by side on clutter, and networks of five
convolutions with three poolings that were trained to match scenes with the same two digits:
nothing told them where a digit is. (Behind "flatten" only the head was trained, on the trunk of
GMP, as from random weights it learns nothing in that time.) {QUERIES} scenes of unseen handwriting
ask for the one digit and for the other by its box, in a gallery of {GALLERY} more. Precision@{K}:
the share of the first {K} hits that contain the digit in the box; by chance 0.20 of all scenes,
and 0.18 of those that do not
show the query's two digits. {INTERVALS}"""
    return Table("Region search, digits in pairs", about, ["head", *_columns()], rows)


INTERVALS = """\
In brackets, 95 % of 10,000 bootstrap draws of the queries' photographs. An arrow says that the
region finds more (↑) or less (↓) than that way: the interval of the difference, query by query,
does not hold 0."""


def digits(model: wa.EmbeddingModel) -> dict[str, dict[Way, Compared]]:
    """Every way to ask for a digit, among all scenes and among those of other pairs."""
    asking = pair_networks.scenes(QUERIES, seed=21, split="test")
    shown = pair_networks.scenes(GALLERY, seed=22, split="test")
    pictures = [Image.fromarray(scene.image) for scene in asking]
    twice, boxes, wanted, groups = [], [], [], []
    for index, scene in enumerate(asking):
        for box, label in zip(scene.boxes, scene.labels, strict=True):
            twice.append(pictures[index])
            boxes.append(box)
            wanted.append(label)
            groups.append(index)
    gallery = embedded(model, [Image.fromarray(scene.image) for scene in shown])
    vectors = query_vectors(model, twice, boxes)
    relevant = torch.tensor([[label in scene.labels for scene in shown] for label in wanted])
    same = torch.tensor(
        [[set(scene.labels) == set(asking[i].labels) for scene in shown] for i in groups]
    )
    return {
        "all scenes": compare(vectors, gallery, relevant, k=K, groups=groups),
        "scenes of other pairs": compare(
            vectors, gallery, relevant, k=K, without=same, groups=groups
        ),
    }


def on_birds(per_species: int = 24) -> Table:
    """Photographs of birds, asked for by the bird and by what is beside it."""
    model = wa.load()
    listed = birds.photographs(per_species, 20)
    pictures = [_opened(path) for path, _, _ in listed]
    labels = torch.tensor([label for _, _, label in listed])
    explained = model.explain(pictures)
    gallery = torch.stack([x.embedding for x in explained])
    same, own = labels[:, None] == labels[None], torch.eye(len(labels), dtype=torch.bool)
    beside = [_beside(picture, box) for picture, (_, box, _) in zip(pictures, listed, strict=True)]
    asked: dict[str, Sequence[XYXY | None]] = {
        "a box around the bird": [box for _, box, _ in listed],
        "the background": beside,
    }
    rows = []
    for title, boxes in asked.items():
        kept = [index for index, box in enumerate(boxes) if box is not None]
        vectors = query_vectors(
            model,
            [pictures[i] for i in kept],
            [box for box in boxes if box is not None],
            [explained[i] for i in kept],
        )
        found = compare(vectors, gallery, same[kept], k=K, without=own[kept])
        rows.append([f"{title} ({len(kept)} queries)", *cells(found)])
    chance = (same.sum(1).double() - 1).mean().item() / (len(labels) - 1)
    about = f"""\
{len(listed)} photographs of 20 species and the default network, which was never trained on them.
Precision@{K}: the share of the first {K} other photographs that are of the query's species, by
chance {chance:.3f}. The background is the largest of the four rectangles beside the bird's box,
where it is at least a tenth of the photograph: what it finds of the species is what a search for it
should not. {INTERVALS}"""
    return Table("Region search, birds by species", about, ["asked for by", *_columns()], rows)


def cells(found: dict[Way, Compared]) -> list[str]:
    """One cell for each way."""
    return [_cell(way, found[way]) for way in WAYS]


def embedded(model: wa.EmbeddingModel, pictures: list[Image.Image]) -> Tensor:
    """Embeddings of pictures as they are."""
    assert model.preprocess is not None
    inputs = torch.stack([model.preprocess(picture)[0] for picture in pictures])
    return torch.cat([model.embeddings(some) for some in inputs.split(32)])


def _cell(way: Way, one: Compared) -> str:
    arrow = "" if one.behind.low <= 0 <= one.behind.high else " ↑" if one.behind.low > 0 else " ↓"
    p = one.precision
    return f"{p.mean:.2f} [{p.low:.2f}, {p.high:.2f}]{'' if way == 'region' else arrow}"


def _columns() -> list[str]:
    return [COLUMNS[way] for way in WAYS]


def _recall(model: wa.EmbeddingModel) -> float:
    shown = pair_networks.scenes(GALLERY, seed=22, split="test")
    E = embedded(model, [Image.fromarray(scene.image) for scene in shown])
    return retrieval(E, [pair_networks.pair(scene) for scene in shown], ks=[1]).recall[1]


def _opened(path: Any) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _beside(picture: Image.Image, box: XYXY) -> XYXY | None:
    """The largest rectangle left of, above, right of or below a box, if it is of any size."""
    x0, y0, x1, y1 = np.clip(box, 0, [*picture.size, *picture.size])
    width, height = map(float, picture.size)
    beside = [(0.0, 0.0, x0, height), (0.0, 0.0, width, y0), (x1, 0.0, width, height),
              (0.0, y1, width, height)]  # fmt: skip
    largest = max(beside, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
    area = (largest[2] - largest[0]) * (largest[3] - largest[1])
    return largest if area >= 0.1 * width * height else None
