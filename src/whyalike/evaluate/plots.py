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
from matplotlib.ticker import PercentFormatter
from PIL import Image

from whyalike.evaluate import correspondence, methods

NOTHING = {*methods.ALWAYS, *correspondence.ALWAYS}


def curves(
    x: Sequence[float] | np.ndarray,
    lines: Mapping[str, Any],
    xlabel: str,
    ylabel: str,
    **axes: Any,
) -> str:
    """Lines over one axis, by name, as the data URL of a picture; dotted what knows nothing.

    `axes` is what else is set of the axes, such as xlim.
    """
    with _plot() as (ax, urls):
        for at, (name, values) in enumerate(lines.items()):
            style = ":" if name in NOTHING else ("-", "--", "-.")[at // 10 % 3]
            ax.plot(x, values, style, lw=1.4, label=name)
        ax.set(xlabel=xlabel, ylabel=ylabel, **axes)
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


def bars(
    names: Sequence[str],
    shares: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    ylabel: str,
) -> str:
    """A bar for each share, with its interval, as the data URL of a picture."""
    with _plot() as (ax, urls):
        colours = ["#c4400c", "#e89a6f", "#b9b4ac", "#86a6e0", "#2158c9"]
        middle = [colours[2]] * len(names)
        ends = [
            [share - low, high - share]
            for share, (low, high) in zip(shares, intervals, strict=True)
        ]
        ax.bar(
            range(len(names)),
            shares,
            0.62,
            color=colours if len(names) == len(colours) else middle,
            yerr=np.clip(np.array(ends).T, 0, None),
            error_kw={"lw": 1.2, "capsize": 4, "ecolor": "#1b1917"},
        )
        for at, (share, (_, high)) in enumerate(zip(shares, intervals, strict=True)):
            label = f"{100 * share:.1f} %"
            ax.annotate(
                label, (at, high), (0, 4), textcoords="offset points", ha="center", fontsize=9
            )
        ax.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8)
        ax.set_ylim(0, min(1.12, max(high for _, high in intervals) * 1.15))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.set_ylabel(ylabel)
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
