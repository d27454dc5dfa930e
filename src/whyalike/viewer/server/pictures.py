"""Pictures of the files that a gallery lists, read anew and never handed out as they are."""

from __future__ import annotations

import io
import os
from typing import Any

from PIL import Image

from whyalike.errors import ImageError
from whyalike.images import MAX_PIXELS, open_regular_file, pillow_silenced, printable, read_image
from whyalike.viewer.server.asked import RefusedError

SIZES = (240, 480, 1280)
"""Longest sides, in pixels, that may be asked for."""

QUALITY = 84


def is_there(row: dict[str, Any]) -> bool:
    """Whether a row's file is still the one that was indexed, as far as its size and time tell."""
    try:
        return _is_same(os.stat(os.fsdecode(row["file"])), row)
    except (OSError, ValueError):
        return False


def listed_picture(row: dict[str, Any], longest: int) -> Image.Image:
    """The photograph of a row of the gallery, at most so many pixels long.

    Of the file that is open it is checked that it is the one that was indexed, so that nothing is
    shown that has since been put in its place.

    Raises:
        RefusedError: it is gone, has changed, or cannot be read.
    """
    name = printable(row["path"].rpartition("/")[2])
    try:
        with open_regular_file(os.fsdecode(row["file"]), name) as file:
            if not _is_same(os.fstat(file.fileno()), row):
                raise RefusedError(410, f"{name}: has changed since it was indexed")
            return shrunk(_smaller(file, longest) or read_image(file), longest)
    except ImageError as error:
        raise RefusedError(410, str(error)) from error
    except OSError as error:
        raise RefusedError(410, f"{name}: cannot be read: {error.strerror or error}") from error


def shrunk(image: Image.Image, longest: int) -> Image.Image:
    """A copy that is at most so many pixels long."""
    copy = image.convert("RGB") if image.mode != "RGB" else image.copy()
    copy.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return copy


def jpeg(image: Image.Image) -> bytes:
    """The bytes of a JPEG, without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _smaller(file: io.BufferedReader, longest: int) -> Image.Image | None:
    """A JPEG decoded at half its size or less, in as much less time; None for whatever else."""
    try:
        with pillow_silenced():
            image = Image.open(file, formats=("JPEG",))
            if image.width * image.height > MAX_PIXELS or image.mode != "RGB":
                raise ValueError
            image.draft("RGB", (2 * longest, 2 * longest))
    except Exception:  # read_image says what is wrong
        file.seek(0)
        return None
    return read_image(image)


def _is_same(status: os.stat_result, row: dict[str, Any]) -> bool:
    return (status.st_size, status.st_mtime_ns) == (row["bytes"], row["mtime_ns"])
