"""One way to name a data set: LAYOUT:PATH."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from whyalike.data import folders, manifest, objects, people, places
from whyalike.data.dataset import Dataset
from whyalike.data.lists import shortened
from whyalike.errors import DataError

LAYOUTS: dict[str, Callable[[Path, str], Dataset]] = {
    "cub": objects.cub,
    "cars": objects.cars,
    "sop": objects.products,
    "inshop": objects.inshop,
    "market1501": people.market1501,
    "lfw": people.lfw,
    "fiw": people.fiw,
    "casia": folders.casia,
    "cvusa": places.cvusa,
    "cvact": places.cvact,
    "vigor": places.vigor,
    "folder": folders.folder,
    "manifest": manifest.manifest,
}


def read(spec: str) -> Dataset:
    """Read a data set in the layout in which it unpacks.

    >>> read("cub:CUB_200_2011")  # doctest: +SKIP

    Args:
        spec: LAYOUT:PATH, such as "cub:PATH", "market1501:PATH", "folder:PATH" or "manifest:FILE".

    Raises:
        DataError: another layout; something is missing, with what to download and where to put it;
            a list has a malformed line, with its number.
    """
    layout, colon, path = spec.partition(":")
    if not colon or layout not in LAYOUTS:
        near = difflib.get_close_matches(layout.lower(), LAYOUTS, 1)
        hint = f"; did you mean {near[0]}:PATH?" if near else ""
        raise DataError(
            f"a data set is named LAYOUT:PATH, with a layout of {', '.join(LAYOUTS)}; came "
            f"{shortened(spec)}{hint}"
        )
    if not path or "\0" in path:
        raise DataError(f"{shortened(spec)}: names no path behind the colon")
    return LAYOUTS[layout](Path(os.path.expanduser(path)), spec)


def names_data(text: str) -> bool:
    """Whether a text names a data set: it begins with a layout, and is no file or folder."""
    layout, colon, _ = text.partition(":")
    return bool(colon) and layout in LAYOUTS and not os.path.lexists(text)
