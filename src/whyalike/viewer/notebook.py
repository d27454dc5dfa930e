"""What a notebook shows of a result: a widget where anywidget is installed, always a figure."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from matplotlib.figure import Figure

from whyalike.errors import ViewError, WhyalikeError

DPI = 140


def widgets() -> Any:
    """The module `whyalike.viewer.widget`, which needs anywidget.

    Raises:
        ViewError: it is not installed.
    """
    try:
        return import_module("whyalike.viewer.widget")
    except ImportError as error:
        raise ViewError(
            f"a view in a notebook needs the package {error.name!r}; install 'whyalike[notebook]'"
        ) from error


def bundle(words: str, widget: Callable[[], Any], figure: Callable[[], Figure]) -> dict[str, Any]:
    """A result by the kinds of things that a front end may show; it takes the first that it can.

    Outside of a notebook there is none but the object's own words. What cannot be shown is left
    out, as showing must never fail.

    Args:
        words: what its repr says.
        widget: makes the widget.
        figure: makes the figure, for front ends that run no widgets and for files at rest.
    """
    if not in_notebook():
        return {}
    found: dict[str, Any] = {}
    try:
        found["image/jpeg"] = jpeg(figure())
    except WhyalikeError as error:
        words = f"{words}\n({error})"
    try:
        found |= widget()._repr_mimebundle_()[0]
    except WhyalikeError as error:
        words = f"{words}\n({error})"
    return {**found, "text/plain": words}


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, not in a terminal or a script."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def jpeg(figure: Figure) -> str:
    """A figure as a notebook holds it: base64 of a JPEG, a tenth as large as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=DPI, pil_kwargs={"quality": 85})
    return base64.b64encode(buffer.getvalue()).decode("ascii")
