"""What two robots show: explanations of one pair, or rankings for one region of a photograph."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from whyalike import draw
from whyalike.errors import ImageError, ModelError, RegionError, StudyError
from whyalike.evaluate.methods import METHODS, Both, named
from whyalike.gallery import Gallery, Hit
from whyalike.geometry import XYXY, Frame
from whyalike.images import printable, read_image
from whyalike.model import EmbeddingModel

SIDE = 420
"""Longest side of a picture of the questionnaire, in pixels."""
HIT_SIDE = 240
LARGEST_TABLE = 10_000_000
RANKINGS = ("region", "whole", "crop")
"""Rankings that can be compared: by the region's own vector (the paper's VII-B), by the whole
photograph, and by the region cut out as a photograph of its own."""

Tell = Callable[[str], None]
"""Told what was left out, and why."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two robots show of one thing, as pictures with words for each.

    Args:
        first, second: the methods, by name.
        shared: what both were given, where that is shown by itself.
        options: what the first and the second show.
        about: of what it is.
    """

    first: str
    second: str
    shared: Sequence[tuple[Image.Image, str]]
    options: tuple[Sequence[tuple[Image.Image, str]], Sequence[tuple[Image.Image, str]]]
    about: Mapping[str, Any]

    @property
    def alike(self) -> bool:
        """Whether both show the same, so that nothing can be compared."""
        first, second = ([one.tobytes() for one, _ in side] for side in self.options)
        return first == second


def explanations(
    model: EmbeddingModel,
    pairs: Sequence[tuple[str, str]],
    methods: Sequence[str],
    *,
    share: float = 0.02,
    seed: int = 0,
    left_out: Tell | None = None,
) -> Iterator[Comparison]:
    """The first method beside each of the others, on the same pairs (the paper's VI-B).

    Args:
        model: that is explained.
        pairs: files of queries and references.
        methods: two or more, by the names of `whyalike.evaluate.methods`.
        share: of the pixels of each photograph that stay as they are.
        seed: of the method "random".
        left_out: told of pairs that cannot be read, or on which two methods show the same.

    Raises:
        StudyError: methods that there are not, or fewer than two.
    """
    check_explanations(methods)
    if model.preprocess is None:
        raise ModelError("to read photographs, the model needs a Preprocess; give it one")
    functions = named(methods)
    sharp = cache(model.sharp)
    tell = left_out or (lambda _: None)
    for query, reference in pairs:
        try:
            sides = [_seen(model, file) for file in (query, reference)]
        except ImageError as error:
            tell(str(error))
            continue
        (x, q_frame, q), (y, r_frame, r) = sides
        shown = {}
        for method in methods:
            parts = []
            for mine, other, frame, picture, side in (
                (x, y, q_frame, q, "first"),
                (y, x, r_frame, r, "second"),
            ):
                values = functions[method](Both(model, sharp, mine, other, seed=seed))
                placed = Frame(frame.size_wh, frame.view_xyxy, (values.shape[0], values.shape[1]))
                drawn = draw.highlight(picture, values, placed, share=share)
                parts.append((drawn, f"the {side} photograph, and where it looked"))
            shown[method] = parts
        about = {"query": _name(query), "reference": _name(reference)}
        for other_method in methods[1:]:
            made = Comparison(
                methods[0], other_method, (), (shown[methods[0]], shown[other_method]), about
            )
            if made.alike:
                tell(f"{about['query']}: {methods[0]} and {other_method} show the same")
            else:
                yield made


def rankings(
    gallery: Gallery,
    regions: Sequence[tuple[str, XYXY]],
    methods: Sequence[str] = ("region", "whole"),
    *,
    k: int = 5,
    left_out: Tell | None = None,
) -> Iterator[Comparison]:
    """The best of a gallery for a region, by the first method and by each other (VII-B).

    Args:
        gallery: that is searched, opened with its model.
        regions: files, and a box of each in its pixels.
        methods: two or more of `RANKINGS`.
        k: photographs of each ranking; the query itself is left out.
        left_out: told of queries that cannot be read, or for which two rankings are the same.

    Raises:
        StudyError: methods that there are not, or fewer than two.
    """
    check_rankings(methods)
    if k < 1:
        raise StudyError(f"a ranking shows one photograph at least; came k={k}")
    tell = left_out or (lambda _: None)
    for file, box in regions:
        try:
            picture = read_image(file)
            found = {one: _ranked(gallery, file, picture, box, one, k) for one in methods}
        except (ImageError, RegionError) as error:
            tell(f"{_name(file)}: {error}")
            continue
        shown = {
            one: [(_small(image, HIT_SIDE), f"rank {at}") for at, image in enumerate(hits, 1)]
            for one, hits in found.items()
        }
        if min(map(len, shown.values())) < k:
            tell(f"{_name(file)}: fewer than {k} other photographs can be shown")
            continue
        shared = [(_marked(picture, box), "the photograph that was looked for, its region marked")]
        about = {"query": _name(file), "region": list(box)}
        for other in methods[1:]:
            made = Comparison(methods[0], other, shared, (shown[methods[0]], shown[other]), about)
            if made.alike:
                tell(f"{about['query']}: {methods[0]} and {other} find the same")
            else:
                yield made


def read_table(file: str | Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table (.csv) that has some columns; files are below the table's folder.

    Columns "query" and "reference" are files; the others are left as they are.

    Raises:
        StudyError: it cannot be read, or lacks a column or a value.
    """
    path = Path(file)
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise StudyError(f"{path}: is too large for a table of pairs")
        with path.open(newline="", encoding="utf-8-sig") as opened:
            table = csv.DictReader(opened)
            lacking = [one for one in columns if one not in (table.fieldnames or ())]
            if lacking:
                raise StudyError(
                    f"{path}: has no column {lacking[0]!r}; it needs {', '.join(columns)}"
                )
            rows = [(table.line_num, {one: row[one] or "" for one in columns}) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path}: cannot be read as a table: {error}") from error
    for line, row in rows:
        for name, value in row.items():
            if not value.strip():
                raise StudyError(f"{path}, line {line}: {name} is empty")
            if name in ("query", "reference"):
                row[name] = str(path.parent / value)
    if not rows:
        raise StudyError(f"{path}: has no rows")
    return [row for _, row in rows]


def pairs_of_table(file: str | Path) -> list[tuple[str, str]]:
    """The pairs of a table with columns query and reference."""
    return [(row["query"], row["reference"]) for row in read_table(file, ("query", "reference"))]


def regions_of_table(file: str | Path) -> list[tuple[str, XYXY]]:
    """The regions of a table with columns query, x0, y0, x1, y1, in pixels."""
    found = []
    for row in read_table(file, ("query", "x0", "y0", "x1", "y1")):
        try:
            x0, y0, x1, y1 = (float(row[name]) for name in ("x0", "y0", "x1", "y1"))
        except ValueError as error:
            raise StudyError(f"{file}: {row['query']}: a box is four numbers: {error}") from error
        found.append((row["query"], (x0, y0, x1, y1)))
    return found


def pairs_of_gallery(gallery: Gallery, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Photographs of a gallery, each with the other one that is most like it."""
    files = gallery.files()
    if len(files) < 2:
        raise StudyError("pairs of a gallery need two photographs at least")
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    pairs = []
    for at in sorted(chosen):
        hits = gallery.search(files[at], k=2)
        best = next(hit for hit in hits if hit.file != files[at])
        pairs.append((files[at], best.file))
    return pairs


def check_explanations(methods: Sequence[str]) -> None:
    """Refuse methods of which `explanations` could compare no two, before a network is loaded."""
    _check_methods(methods, METHODS)


def check_rankings(methods: Sequence[str]) -> None:
    """The same for `rankings`."""
    _check_methods(methods, RANKINGS)


def _check_methods(methods: Sequence[str], known: Any) -> None:
    unknown = [one for one in methods if one not in known]
    if unknown:
        raise StudyError(f"a method is one of {', '.join(known)}; came {unknown[0]!r}")
    if len(set(methods)) < 2 or len(set(methods)) < len(methods):
        raise StudyError(f"two different methods are compared; came {', '.join(methods) or 'none'}")


def _seen(model: EmbeddingModel, file: str) -> tuple[Any, Frame, Image.Image]:
    """A photograph as the network sees it, where that lies on it, and it as it is shown."""
    assert model.preprocess is not None
    image = read_image(file)
    tensor, view_xyxy = model.preprocess(image)
    tensor = tensor.to(next(model.net.parameters()).device)
    return tensor, Frame(image.size, view_xyxy, (1, 1)), _small(image, SIDE)


def _ranked(
    gallery: Gallery, file: str, picture: Image.Image, box: XYXY, method: str, k: int
) -> list[Image.Image]:
    """The best k photographs but the query, in order."""
    match method:
        case "region":
            hits: list[Hit] = gallery.search(picture, region=box, k=k + 1)
        case "whole":
            hits = gallery.search(picture, k=k + 1)
        case _:
            cut = picture.crop(tuple(round(side) for side in box))  # type: ignore[arg-type]
            hits = gallery.search(cut, k=k + 1)
    own = Path(file).resolve()
    shown = [hit.picture() for hit in hits if Path(hit.file).resolve() != own]
    return [one for one in shown if one is not None][:k]


def _marked(picture: Image.Image, box: XYXY) -> Image.Image:
    small = _small(picture, SIDE)
    scale = small.width / picture.width
    corners = [side * scale for side in box]
    pen = ImageDraw.Draw(small)
    pen.rectangle(corners, outline=(20, 18, 16), width=5)
    pen.rectangle([c + o for c, o in zip(corners, (1, 1, -1, -1), strict=True)],
                  outline=(255, 214, 26), width=3)  # fmt: skip
    return small


def _small(picture: Image.Image, longest: int) -> Image.Image:
    small = picture.convert("RGB")
    small = small.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return small


def _name(file: str) -> str:
    return printable(Path(file).name)
