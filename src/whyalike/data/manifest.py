"""Tables that say what a folder's images are: CSV and Parquet, with a row for each image."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from whyalike.data.dataset import NOTHING, Dataset, KnownPair, Sample
from whyalike.data.lists import MAX_LINE, Line, check_there, shortened
from whyalike.errors import DataError, in_one_line
from whyalike.files import check_input
from whyalike.images import printable

COLUMNS = (
    "path", "label", "split", "camera", "view", "x0", "y0", "x1", "y1", "mask", "pair",
)  # fmt: skip
"""What is understood; columns of other names are metadata."""
VIEWS = ("query", "reference")
"""Columns that a table of pairs has in the place of `path`."""

LACKING = (
    "a manifest is a table (.csv, .parquet) with a column `path` and perhaps label, split, camera, "
    "view, a box x0, y0, x1, y1, mask, pair, and metadata; or, of pairs, with columns `query` and "
    "`reference` and perhaps label, split, and metadata"
)


def manifest(path: Path, name: str) -> Dataset:
    """A table of images that lie in its folder, or below.

    Paths of images and masks are relative to the table's folder and do not lead out of it. A box is
    in pixels of the image, half open. Two rows of the same `pair` show the same.

    A table of pairs has, in the place of `path`, the columns `query` and `reference`, two images
    that show the same, of any two views; what else a row says is of both.

    Raises:
        DataError: it cannot be read, a row is malformed, or an image is missing.
    """
    check_input(path, DataError, LACKING)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{printable(str(path))}: is neither .csv nor .parquet; {LACKING}")
    rows = _csv(path) if path.suffix.lower() == ".csv" else _parquet(path)
    samples: list[Sample] = []
    seen: dict[str, list[tuple[Line, int]]] = {}
    for line, row in rows:
        if "path" not in row:
            seen[f"{line.number}"] = [(line, len(samples)), (line, len(samples) + 1)]
            samples += [_sample(line, _half(line, row, view)) for view in VIEWS]
            continue
        if pair := _text(line, row, "pair"):
            seen.setdefault(pair, []).append((line, len(samples)))
        samples.append(_sample(line, row))
    if not samples:
        raise DataError(f"{printable(str(path))}: has no rows; {LACKING}")
    for pair, members in seen.items():
        if len(members) != 2:
            members[-1][0].refuse(f"pair {shortened(pair)} has {len(members)} rows; it needs two")
    pairs = tuple(KnownPair(one[0][1], one[1][1], True) for one in seen.values())
    files = [one.path for one in samples] + [one.mask for one in samples if one.mask is not None]
    check_there(files, path.parent, "paths are relative to the manifest's folder")
    return Dataset(name, "a manifest", tuple(samples), pairs)


def _half(line: Line, row: Mapping[str, Any], view: str) -> dict[str, Any]:
    """One image of a row of pairs, as a row of its own."""
    if _text(line, row, view) is None:
        line.refuse(f"names no {view}")
    rest = {key: value for key, value in row.items() if key not in VIEWS}
    return rest | {"path": row[view], "view": view}


def _sample(line: Line, row: Mapping[str, Any]) -> Sample:
    folder = line.file.parent
    path, mask = _text(line, row, "path"), _text(line, row, "mask")
    if path is None:
        line.refuse("names no path")
    sides = [row.get(side) for side in ("x0", "y0", "x1", "y1")]
    given = [side for side in sides if side not in (None, "")]
    if given and len(given) != 4:
        line.refuse("a box has x0, y0, x1 and y1, or none of them")
    box = None
    if given:
        x0, y0, x1, y1 = (line.real(side, "a side of a box") for side in given)
        box = line.box(x0, y0, x1, y1)
    view = _text(line, row, "view")
    if view not in (None, "ground", "aerial", *VIEWS):
        line.refuse(f"view is ground or aerial, or query or reference; came {shortened(view)}")
    rest = {key: value for key, value in row.items() if key not in COLUMNS and value is not None}
    return Sample(
        line.below(folder, path),
        _text(line, row, "label"),
        _text(line, row, "split"),
        box,
        None if mask is None else line.below(folder, mask),
        _text(line, row, "camera"),
        view,
        metadata=rest or NOTHING,
    )


def _text(line: Line, row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    if len(str(value)) > 4096:
        line.refuse(f"{column} is longer than 4,096 characters")
    return str(value)


def _csv(file: Path) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Rows by the names in the head, each with the line that it ends in."""

    def texts() -> Iterator[str]:
        number = 0
        while raw := opened.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                Line(file, number).refuse(f"is longer than {MAX_LINE:,} bytes")
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                Line(file, number).refuse("is no text in UTF-8")

    with file.open("rb") as opened:
        reader = csv.reader(texts(), strict=True)
        try:
            head = _head(file, next(reader, []))
            for row in reader:
                line = Line(file, reader.line_num)
                if row and len(row) != len(head):
                    line.refuse(f"has {len(row)} fields, the head {len(head)}")
                if row:
                    yield line, {key: one or None for key, one in zip(head, row, strict=True)}
        except csv.Error as error:
            Line(file, reader.line_num).refuse(f"is no CSV: {error}")


def _parquet(file: Path) -> Iterator[tuple[Line, dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            head = _head(file, opened.schema_arrow.names)
            for one in opened.schema_arrow:
                if pa.types.is_nested(one.type):
                    raise DataError(f"{file}: column {one.name!r} is nested; {LACKING}")
            number = 0
            for batch in opened.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield Line(file, number, unit="row"), {key: row[key] for key in head}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = printable(in_one_line(error))
        raise DataError(f"{printable(str(file))}: cannot be read as Parquet: {reason}") from error


def _head(file: Path, names: list[str]) -> list[str]:
    names = [one.strip() for one in names]
    if "path" not in names and not {*VIEWS} <= {*names}:
        came = ", ".join(map(shortened, names[:20])) or "nothing"
        raise DataError(f"{printable(str(file))}: the head names {came}; {LACKING}")
    if twice := {one for one in names if names.count(one) > 1}:
        raise DataError(f"{printable(str(file))}: there are two columns {shortened(min(twice))}")
    if "path" not in names and (alone := ({*COLUMNS} - {"label", "split"}) & {*names}):
        raise DataError(
            f"{printable(str(file))}: a table of pairs has no column {shortened(min(alone))}; "
            f"{LACKING}"
        )
    return names
