"""Lists that come with data sets, read as a stranger's: whatever is wrong is one line, with where.

A name in a list is a path below a folder, never out of it. Links on disk are followed, as they are
the user's own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from whyalike.errors import DataError
from whyalike.files import check_input
from whyalike.images import printable

MAX_LINE = 1 << 16
"""Bytes of a line: no list has one that is nearly as long."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a list, that knows where it stands.

    Args:
        file: the list.
        number: counted from 1.
        text: what it says.
        unit: what is counted: lines of text, entries of a .mat file, rows of a table.
    """

    file: Path
    number: int
    text: str = ""
    unit: str = "line"

    def refuse(self, what: str) -> NoReturn:
        """Raise that this line is wrong.

        Raises:
            DataError: always.
        """
        raise DataError(f"{printable(str(self.file))}, {self.unit} {self.number}: {what}")

    def fields(self, count: int, form: str, separator: str | None = None) -> list[str]:
        """Its fields, as many as expected.

        Args:
            count: how many.
            form: how the line should look, for who has to mend it.
            separator: between them; by default spaces and tabs.
        """
        found = self.text.split(separator)
        if len(found) != count:
            self.refuse(f'expected "{form}", came {shortened(self.text)}')
        return found

    def whole(self, text: object, what: str, low: int = 0, high: int = 10**9) -> int:
        """A whole number in a range."""
        try:
            value = int(str(text))
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            limits = f"from {low}" + (f" to {high}" if high < 10**9 else "")
            self.refuse(f"{what} is a whole number {limits}; came {shortened(text)}")
        return value

    def real(self, text: object, what: str) -> float:
        """A finite number."""
        try:
            value = float(str(text))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.refuse(f"{what} is a number; came {shortened(text)}")
        return value

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        """A box xyxy that is not empty."""
        if not (x1 > x0 and y1 > y0):
            self.refuse(f"a box needs width and height; came {x0:g},{y0:g},{x1:g},{y1:g}")
        return x0, y0, x1, y1

    def below(self, root: Path, name: object) -> Path:
        """The file that a name means, which lies below a folder by its words alone."""
        text = str(name)
        parts = text.split("/")
        out = not text or text.startswith(("/", "\\")) or ".." in parts or "\0" in text
        if out or "\\" in text or ":" in parts[0] or len(text) > 4096:
            self.refuse(
                f"{shortened(text)} is no path below {printable(str(root))}; names in lists are "
                f"relative, with / between folders, and do not lead out"
            )
        return root / text


def lines(file: Path, lacking: str) -> Iterator[Line]:
    """The lines of a text file, without those that are empty.

    Args:
        file: in UTF-8.
        lacking: what to do where it is not there.

    Raises:
        DataError: the file is not there, or no text; a line is too long.
    """
    check_input(file, DataError, lacking)
    number = 0
    with file.open("rb") as opened:
        while raw := opened.readline(MAX_LINE + 1):
            number += 1
            line = Line(file, number)
            if len(raw) > MAX_LINE:
                line.refuse(f"is longer than {MAX_LINE:,} bytes; this is not the list expected")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                line.refuse("is no text in UTF-8")
            if text:
                yield Line(file, number, text)


def find(
    path: Path, inside: Sequence[str], markers: Sequence[str | tuple[str, ...]], lacking: str
) -> Path:
    """The folder that holds a data set: the one that is named, or one in it.

    Args:
        path: as the user gave it.
        inside: names of folders in it that the archive may have made.
        markers: files and folders that must be there, or one of several.
        lacking: what to download and where to put it.

    Raises:
        DataError: some of them are missing.
    """

    def lacks(folder: Path) -> list[str]:
        several = [(one,) if isinstance(one, str) else one for one in markers]
        return [
            " or ".join(names)
            for names in several
            if not any(os.path.exists(folder / name) for name in names)
        ]

    for folder in (path, *(path / name for name in inside)):
        if not lacks(folder):
            return folder
    if not os.path.isdir(path):
        raise DataError(f"{printable(str(path))}: there is no such folder; {lacking}")
    raise DataError(f"{printable(str(path))}: has no {', no '.join(lacks(path))}; {lacking}")


def missing(paths: Iterable[Path]) -> list[Path]:
    """Those of some files that are not there; one look into each folder."""
    seen: dict[Path, set[str]] = {}
    gone = []
    for path in paths:
        folder = path.parent
        if folder not in seen:
            try:
                seen[folder] = {*os.listdir(folder)}
            except OSError:
                seen[folder] = set()
        if path.name not in seen[folder]:
            gone.append(path)
    return gone


def check_there(paths: Sequence[Path], root: Path, lacking: str) -> None:
    """Raise that files which a list names are missing, if some are.

    Raises:
        DataError: how many, and which is the first.
    """
    if gone := missing(paths):
        raise DataError(
            f"{printable(str(root))}: of {len(paths):,} files that its lists name, {len(gone):,} "
            f"are missing, first {printable(str(gone[0].relative_to(root)))}; {lacking}"
        )


def shortened(text: object, length: int = 80) -> str:
    """A stranger's words as they may be shown: quoted, printable, not too many."""
    words = printable(str(text))
    return repr(words if len(words) <= length else words[: length - 1] + "…")
