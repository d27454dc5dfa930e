"""A pair as a picture in TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from whyalike import draw
from whyalike.geometry import XY, XYXY
from whyalike.pair import Pair

DPI = 160


def add_pair(
    writer: Any,
    tag: str,
    pair: Pair,
    step: int | None = None,
    *,
    points: Sequence[XY] = (),
    regions: Sequence[XYXY] = (),
) -> None:
    """Write a pair's figure, and its similarity as a curve, to TensorBoard.

    >>> add_pair(writer, "faces", pair, step)  # doctest: +SKIP

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or what has its `add_image` and
            `add_scalar`.
        tag: the name of both.
        pair: to show.
        step: of the training.
        points, regions: of the query, as in `pair.save`.
    """
    made = draw.figure(pair, points=points, regions=regions)
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=DPI)
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    writer.add_image(tag, pixels, step, dataformats="HWC")
    writer.add_scalar(f"{tag}/similarity", pair.similarity, step)
