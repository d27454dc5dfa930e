"""What is to be indexed: files in folders, by globs, or in a table with labels and metadata."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from whyalike.data import names_data, read
from whyalike.data.folders import ENDINGS, walk
from whyalike.errors import GalleryError
from whyalike.files import check_input
from whyalike.images import printable

TABLES = (".csv", ".parquet")

Name = str | os.PathLike[str]


@dataclass(frozen=True)
class Listed:
    """A file that is to be indexed.

    Args:
        file: its absolute path as the system has it, which need not be text.
        label: its class, where one is known.
        metadata: more columns, by name.
    """

    file: bytes
    label: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A hash of the path: the same file has the same id in every run."""
        return id_of(self.file)

    @property
    def path(self) -> str:
        """The path as text, with what is no text as escapes."""
        return printable(os.fsdecode(self.file))


@dataclass(frozen=True)
class Failed:
    """A file or folder that could not be read, and why."""

    file: bytes
    reason: str

    @property
    def path(self) -> str:
        """The path as text, with what is no text as escapes."""
        return printable(os.fsdecode(self.file))


@dataclass(frozen=True)
class Listing:
    """What was found.

    Args:
        files: each once, in the order of the sources and then of the paths.
        failed: folders that could not be read.
        others: how many files of the folders are no images by their endings.
        columns: names and types of the metadata.
    """

    files: tuple[Listed, ...]
    failed: tuple[Failed, ...] = ()
    others: int = 0
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))


def id_of(file: bytes) -> str:
    """The id of the row of a file, by its absolute path."""
    return hashlib.blake2b(file, digest_size=16).hexdigest()


def absolute(path: Name) -> bytes:
    """An absolute path as the system has it; links in it stay."""
    return os.fsencode(os.path.abspath(os.fspath(path)))


def list_images(sources: Name | Iterable[Name]) -> Listing:
    """List what sources name.

    Args:
        sources: one or more folders, which are walked with their links, each real folder once and
            hidden ones not at all; files; globs, with `**` for any depth; tables (.csv, .parquet)
            with a column `path`, relative to the table's folder, perhaps a column `label`, and more
            of any name, which become metadata; data sets, LAYOUT:PATH as `whyalike.data.read` takes
            them, whose splits, cameras and boxes become metadata. Where nothing else says it, a
            file's label is the name of the folder that it lies in, if that lies below a source.

    Raises:
        GalleryError: a source that names nothing, or a table that cannot be read.
        DataError: a data set that is not whole.
    """
    found: dict[bytes, Listed] = {}
    failed: list[Failed] = []
    others = 0
    columns = pa.schema([])
    for source in [sources] if isinstance(sources, str | os.PathLike) else list(sources):
        for path in _expanded(source):
            if names_data(path):
                walked, fields = _read(path)
                columns = pa.unify_schemas([columns, fields])
            elif os.path.isdir(path):
                walked, troubles, rest = _walk(path)
                failed += troubles
                others += rest
            elif path.lower().endswith(TABLES):
                walked, fields = _table(path)
                columns = pa.unify_schemas([columns, fields])
            else:
                walked = [Listed(absolute(path))]
            for listed in walked:
                # A file that is named twice is one row; what a table says of it goes first.
                if listed.file not in found or listed.metadata:
                    found[listed.file] = listed
    return Listing(tuple(found.values()), tuple(failed), others, columns)


def _expanded(source: Name) -> Iterator[str]:
    path = os.path.expanduser(os.fspath(source))
    if os.path.lexists(path):
        yield path
        return
    if names_data(os.fspath(source)):
        yield os.fspath(source)
        return
    matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
    if not matches:
        raise GalleryError(
            f"{printable(path)}: there is no such file or folder, and nothing matches it; give "
            f"folders, files, globs, or a table (.csv, .parquet) with a column `path`"
        )
    for match in matches:
        if os.path.isdir(match) or match.lower().endswith((*ENDINGS, *TABLES)):
            yield match


def belonging_to(sources: Iterable[Name] | None) -> Callable[[bytes], bool]:
    """Whether a file that may be gone is one that sources name; to None belongs every file.

    Of a glob, it is what matches, or lies below a folder that does; of a data set, what lies below
    its folder.
    """
    if sources is None:
        return lambda file: True
    literal: list[bytes] = []
    patterns: list[tuple[list[str], int | None]] = []
    for source in sources:
        path = os.path.expanduser(os.fspath(source))
        if names_data(os.fspath(source)) and not os.path.lexists(path):
            literal.append(absolute(os.path.expanduser(os.fspath(source).partition(":")[2])))
        elif glob.has_magic(path) and not os.path.lexists(path):
            # What ends in a slash matches folders alone: the file's own name is left out.
            end = -1 if path.endswith(os.sep) else None
            patterns.append((os.fsdecode(absolute(path)).split(os.sep), end))
        else:
            literal.append(absolute(path).rstrip(b"/"))
    below = tuple(root + b"/" for root in literal)
    return lambda file: (
        file.startswith(below)
        or file in literal
        or any(_matches(os.fsdecode(file).split(os.sep)[:end], one) for one, end in patterns)
    )


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the first names of a path match a glob, as `glob` itself does it on what is there."""
    at, end = {0}, len(pattern)  # how much of the pattern the names so far may have met
    for name in (*names, None):
        for here in range(end):
            if here in at and pattern[here] == "**":  # which no name meets as well
                at.add(here + 1)
        if end in at:
            return True
        at = {
            here if pattern[here] == "**" else here + 1
            for here in at
            if name is not None and _meets(name, pattern[here])
        }
    return False


def _meets(name: str, part: str) -> bool:
    if not glob.has_magic(part):
        return name == part
    hidden = name.startswith(".") and not part.startswith(".")
    return not hidden and (part == "**" or fnmatchcase(name, part))


def _walk(root: str) -> tuple[list[Listed], list[Failed], int]:
    """All images below a folder, each with the name of its folder for a label."""
    walked = walk(root)
    files = [Listed(absolute(path), printable(own) or None) for path, own in walked.images]
    failed = [Failed(absolute(name), reason) for name, reason in walked.troubles]
    return files, failed, walked.others


def _read(spec: str) -> tuple[list[Listed], pa.Schema]:
    """The samples of a data set, with what is known of them as metadata."""
    kinds = dict.fromkeys(("split", "camera", "view"), pa.string()) | {"junk": pa.bool_()}
    kinds |= dict.fromkeys(("x0", "y0", "x1", "y1"), pa.float64())
    found = [
        (one, (one.split, one.camera, one.view, one.junk or None, *(one.box_xyxy or (None,) * 4)))
        for one in read(spec)
    ]
    used = [any(known[at] is not None for _, known in found) for at in range(len(kinds))]
    names = list(compress(kinds, used))
    files = [
        Listed(absolute(one.path), one.label, dict(zip(names, compress(known, used), strict=True)))
        for one, known in found
    ]
    return files, pa.schema([pa.field(name, kinds[name]) for name in names])


def _table(path: str) -> tuple[list[Listed], pa.Schema]:
    """The files that a table names, with their metadata."""
    check_input(path, GalleryError, "give a table (.csv, .parquet) with a column `path`")
    as_text = {name: pa.string() for name in ("path", "label")}
    try:
        if path.lower().endswith(".csv"):
            table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=as_text))
        else:
            table = parquet.read_table(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise GalleryError(f"{printable(path)}: cannot be read as a table: {error}") from error
    if "path" not in table.column_names:
        raise GalleryError(
            f"{printable(path)}: a table names its images in a column `path`; it has the columns "
            f"{', '.join(table.column_names)}"
        )
    fields = [_field(path, one) for one in table.schema if one.name not in as_text]
    paths = table["path"].cast(pa.string()).to_pylist()
    labels = table["label"].cast(pa.string()).to_pylist() if "label" in table.column_names else None
    values = [table[one.name].cast(one.type).to_pylist() for one in fields]
    folder = Path(path).parent
    found = []
    for row, name in enumerate(paths):
        if not name:
            raise GalleryError(f"{printable(path)}: row {row + 1} names no path")
        metadata = {one.name: column[row] for one, column in zip(fields, values, strict=True)}
        label = None if labels is None else labels[row]
        found.append(Listed(absolute(folder / name), label, metadata))
    return found, pa.schema(fields)


RESERVED: Sequence[str] = (
    "id", "file", "content", "bytes", "mtime_ns", "embedding", "length", "size_wh", "view_xyxy",
    "dims", "exponent", "taylor", "maps",
)  # fmt: skip
"""The names of a gallery's own columns, besides `path` and `label`."""


def _field(path: str, given: pa.Field) -> pa.Field:
    """A column of metadata, nullable, as plain as it can be kept."""
    name, kind = given.name, given.type
    if name in RESERVED or not name or "." in name or name.startswith("_") or "`" in name:
        raise GalleryError(
            f"{printable(path)}: no column may be called {name!r} (a gallery's own are "
            f"{', '.join(RESERVED)}; names hold no dot and begin with no underscore); rename it"
        )
    if pa.types.is_null(kind) or pa.types.is_dictionary(kind) or pa.types.is_large_string(kind):
        kind = pa.string()
    plain = pa.types.is_primitive(kind) or pa.types.is_string(kind)
    if not plain:
        raise GalleryError(
            f"{printable(path)}: column {name!r} holds {kind}; metadata are numbers, text, dates "
            f"or truth values"
        )
    return pa.field(name, kind)
