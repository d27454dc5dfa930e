"""Ways to ask for a part of a photograph, side by side: is the vector of a region worth it?

Section VII-B.1 of Zhu, Yang, Chen (IEEE TIP 2021) lets people judge; here the truth is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from whyalike.contributions import Contributions
from whyalike.errors import ModelError
from whyalike.evaluate.retrieval import Interval, bootstrap, nearest, precision_at_k
from whyalike.geometry import XYXY
from whyalike.model import EmbeddingModel

Way = Literal["region", "whole", "crop", "crop with margin", "mask"]
WAYS: tuple[Way, ...] = get_args(Way)
MARGIN = 0.25
"""Of a box's width and height, on each side, for "crop with margin"."""


@dataclass(frozen=True)
class Compared:
    """Precision@k of one way to ask, and how far the region's vector is ahead of it.

    Args:
        precision: the mean over queries with its interval.
        behind: the mean of the region's precision minus this way's, query by query. Above 0, the
            region is better; where the interval holds 0, it cannot be told.
    """

    precision: Interval
    behind: Interval


def query_vectors(
    model: EmbeddingModel,
    photographs: Sequence[Image.Image],
    boxes: Sequence[XYXY],
    explained: Sequence[Contributions] | None = None,
) -> dict[Way, Float[Tensor, "q d"]]:
    """What each way asks with, for a box of each photograph.

    "region" is Σ v under the box, from one run of the network on the whole photograph; "whole" is
    E and does not look at the box; "crop" embeds the box alone, at the size of a photograph, "crop
    with margin" what is a quarter of it around it, too; "mask" embeds the photograph with all
    outside the box in the colour that is 0 to the network.

    Args:
        model: with a preprocess.
        photographs: in RGB.
        boxes: xyxy in pixels, one for each.
        explained: the photographs' contributions, where they are at hand.

    Raises:
        ModelError: the model has no preprocess.
    """
    if model.preprocess is None:
        raise ModelError("crops are made of photographs, for which the model needs a Preprocess")
    if explained is None:
        explained = model.explain(list(photographs))
    pairs = list(zip(photographs, boxes, strict=True))
    grey = tuple(round(255 * value) for value in _mean_rgb(model))
    return {
        "region": torch.stack([x.within(b) for x, b in zip(explained, boxes, strict=True)]).cpu(),
        "whole": torch.stack([x.embedding for x in explained]).cpu(),
        "crop": _embedded(model, [_crop(image, box, 0) for image, box in pairs]),
        "crop with margin": _embedded(model, [_crop(image, box, MARGIN) for image, box in pairs]),
        "mask": _embedded(model, [_masked(image, box, grey) for image, box in pairs]),
    }


def compare(
    vectors: dict[Way, Float[Tensor, "q d"]],
    gallery: Float[Tensor, "n d"],
    relevant: Bool[Tensor, "q n"],
    *,
    k: int = 10,
    without: Bool[Tensor, "q n"] | None = None,
    groups: Sequence[object] | None = None,
) -> dict[Way, Compared]:
    """Precision@k of each way to ask, with bootstrap intervals over the queries.

    Args:
        vectors: of the queries, as `query_vectors` makes them.
        gallery: embeddings of what is searched.
        relevant: which of the gallery is right for a query.
        k: hits that are looked at.
        without: what of the gallery a query is not to be ranked with, such as itself.
        groups: queries that are not independent of each other, as of one photograph.
    """
    found = {
        way: precision_at_k(_hits(u, gallery, relevant, k, without), k)
        for way, u in vectors.items()
    }
    return {
        way: Compared(
            bootstrap(values, groups=groups), bootstrap(found["region"] - values, groups=groups)
        )
        for way, values in found.items()
    }


def _hits(
    u: Float[Tensor, "q d"],
    gallery: Float[Tensor, "n d"],
    relevant: Bool[Tensor, "q n"],
    k: int,
    without: Bool[Tensor, "q n"] | None,
) -> Bool[Tensor, "q k"]:
    """Whether each of the first k hits is right."""
    most = 0 if without is None else int(without.sum(1).max())
    ranks: Int[Tensor, "q deep"] = nearest(u, gallery, k + most)
    right = relevant.gather(1, ranks)
    if without is None:
        return right
    kept = ~without.gather(1, ranks)
    place = kept.cumsum(1) - 1  # the rank among those that stay
    hits = torch.zeros(len(u), k, dtype=torch.bool)
    rows, columns = (kept & (place < k)).nonzero(as_tuple=True)
    hits[rows, place[rows, columns]] = right[rows, columns]
    return hits


@torch.no_grad()
def _embedded(model: EmbeddingModel, images: list[Image.Image]) -> Float[Tensor, "q d"]:
    assert model.preprocess is not None
    found = []
    for start in range(0, len(images), 32):
        some = torch.stack([model.preprocess(image)[0] for image in images[start : start + 32]])
        found.append(model.embeddings(some).cpu())
    return torch.cat(found)


def _crop(image: Image.Image, box: XYXY, margin: float) -> Image.Image:
    """A box and what is around it, as far as the photograph goes."""
    x0, y0, x1, y1 = box
    wide, high = margin * (x1 - x0), margin * (y1 - y0)
    left, top = max(0, round(x0 - wide)), max(0, round(y0 - high))
    right, bottom = min(image.width, round(x1 + wide)), min(image.height, round(y1 + high))
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _masked(image: Image.Image, box: XYXY, grey: tuple[int, ...]) -> Image.Image:
    """The photograph, all grey outside a box."""
    part = _crop(image, box, 0)
    hidden = Image.new("RGB", image.size, grey)
    hidden.paste(part, (max(0, round(box[0])), max(0, round(box[1]))))
    return hidden


def _mean_rgb(model: EmbeddingModel) -> tuple[float, ...]:
    assert model.preprocess is not None
    mean = model.preprocess.mean
    return mean if model.preprocess.channels == "RGB" else mean[::-1]
