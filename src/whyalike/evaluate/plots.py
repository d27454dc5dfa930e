"""Curves and photographs for the pages of evaluations."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Plot
from PIL import Image

from whyalike.evaluate import correspondence, methods

NOTHING = {*methods.ALWAYS, *correspondence.ALWAYS}


def curves(
    x: Sequence[float] | np.ndarray, lines: Mapping[str, Any], xlabel: str, ylabel: str
) -> str:
    """Lines over one axis, by name, as the data URL of a picture; dotted what knows nothing."""
    with _plot() as (ax, urls):
        for at, (name, values) in enumerate(lines.items()):
            style = ":" if name in NOTHING else ("-", "--", "-.")[at // 10 % 3]
            ax.plot(x, values, style, lw=1.4, label=name)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return urls[0]


def scatter(points: Mapping[str, tuple[Any, Any]], xlabel: str, ylabel: str) -> str:
    """Points by name, and the line where both axes are one, as the data URL of a picture."""
    with _plot() as (ax, urls):
        for name, (x, y) in points.items():
            ax.plot(np.ravel(x), np.ravel(y), ".", ms=3, alpha=0.6, label=name)
        ax.axline((0, 0), slope=1, color="0.6", lw=0.8)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return urls[0]


@contextmanager
def _plot() -> Iterator[tuple[Any, list[str]]]:
    plot = Plot(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(plot)
    ax = plot.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    urls: list[str] = []
    yield ax, urls
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    urls.append(_url(buffer, "png"))


def jpeg(picture: Image.Image) -> str:
    """A photograph as a data URL."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=80)
    return _url(buffer, "jpeg")


def _url(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
