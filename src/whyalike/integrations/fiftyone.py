"""Heat maps for FiftyOne, as a folder that it imports; it is not needed to write that."""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float
from torch import Tensor

from whyalike import draw
from whyalike.contributions import Contributions
from whyalike.errors import OutputFileError
from whyalike.files import write_whole
from whyalike.pair import Pair

SIDE = 256
"""Longest side of a heat map, in pixels; FiftyOne stretches it over its photograph."""


def heatmap(values: Float[Tensor, "h w"], of: Contributions) -> dict[str, Any]:
    """A map as FiftyOne keeps it: a `Heatmap` with signed float32 values and its range.

    The array covers the whole photograph, as FiftyOne's maps do: zero where the network saw
    nothing. The range is symmetric, so that the middle of a diverging colour scale is zero.

    Args:
        values: signed, in units of cosine.
        of: the photograph that it lies on.
    """
    width, height = of.frame.size_wh
    shrink = min(1.0, SIDE / max(width, height))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    drawn = np.nan_to_num(draw.on_photograph(values, of.frame, size)).astype(np.float32)
    peak = float(np.abs(drawn).max(initial=0.0)) or 1.0
    buffer = io.BytesIO()
    np.save(buffer, drawn, allow_pickle=False)
    text = base64.b64encode(zlib.compress(buffer.getvalue())).decode("ascii")
    return {"_cls": "Heatmap", "tags": [], "map": text, "range": [-peak, peak]}


def export_pairs(
    pairs: Iterable[tuple[Pair, str | os.PathLike[str], str | os.PathLike[str]]],
    folder: str | os.PathLike[str],
    *,
    field: str = "whyalike",
) -> int:
    """Write pairs as a data set of two samples each, with their overall maps as heat maps.

    In FiftyOne: `fo.Dataset.from_dir(folder, dataset_type=fo.types.LegacyFiftyOneDataset)`. Each
    sample has the heat map `field`, the pair's `similarity`, its `side`, and the tag `pair-1`, ...
    by which the two are found together. Photographs stay where they are.

    Args:
        pairs: each with the files of its query and its reference.
        folder: new, or with an earlier export, which is replaced.
        field: the name of the heat map.

    Returns:
        How many samples were written.

    Raises:
        OutputFileError: the field's name is none, or the folder cannot be written.
    """
    taken = {"id", "filepath", "tags", "metadata", "similarity", "side"}
    if not field.isidentifier() or field.startswith("_") or field in taken:
        raise OutputFileError(f"a field of FiftyOne is a plain name; came {field!r}")
    samples: list[Mapping[str, Any]] = []
    for number, (pair, query, reference) in enumerate(pairs, 1):
        for side, x, file in (
            ("query", pair.query, query), ("reference", pair.reference, reference),
        ):  # fmt: skip
            values = pair.overall_map("query" if side == "query" else "reference")
            samples.append(
                {
                    "filepath": str(Path(file).resolve()),
                    "tags": [f"pair-{number}"],
                    "side": side,
                    "similarity": pair.similarity,
                    field: heatmap(values, x),
                }
            )
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{place}: cannot be made a folder: {error.strerror}") from error
    content = {
        "samples.json": {"samples": samples},
        "metadata.json": {"media_type": "image", "info": {"made by": "whyalike"}},
    }
    texts = {place / name: json.dumps(one, allow_nan=False) for name, one in content.items()}
    write_whole(list(texts), lambda path, file: _write(file, texts[path]))
    return len(samples)


def _write(file: BinaryIO, text: str) -> None:
    file.write(text.encode("utf-8", "replace"))
