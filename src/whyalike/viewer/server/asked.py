"""What a client asks for, checked: nothing else of a request goes further."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from whyalike.geometry import XY, XYXY

IDENTIFIER = re.compile(r"[0-9a-f]{32}")
"""A row of the gallery, and an upload, by its content."""

MOST_PARTS = 32
MOST_HITS = 100
MOST_WHERE = 1000
MOST_OFFSET = 2**40
MASK_SIDE = 512
LARGEST = 1e9
"""Of a coordinate: what is larger lies on no photograph, and its square is still finite."""


class RefusedError(Exception):
    """A request that is answered by a status and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Source:
    """The photograph that is searched by: a row of the gallery, or an upload."""

    kind: str
    id: str


@dataclass(frozen=True, eq=False)
class Asked:
    """A search, as `Gallery.search` takes it; masks are stretched over the photograph."""

    source: Source
    boxes: tuple[XYXY, ...]
    points: tuple[XY, ...]
    masks: tuple[np.ndarray, ...]
    without: tuple[XYXY, ...]
    where: str | None
    k: int


def body_of(content: bytes) -> dict[str, Any]:
    """A request's body, which is an object of JSON."""
    try:
        found = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "the body is no JSON") from error
    if not isinstance(found, dict):
        raise RefusedError(400, "the body is an object of JSON")
    return found


def asked_of(body: dict[str, Any]) -> Asked:
    """A search."""
    return Asked(
        source_of(body),
        _several(body, "boxes", _numbers(4)),
        _several(body, "points", _numbers(2)),
        _several(body, "masks", mask_of),
        _several(body, "without", _numbers(4)),
        where_of(body.get("where")),
        _whole(body.get("k", 20), "k", 1, MOST_HITS),
    )


def source_of(body: dict[str, Any]) -> Source:
    """Which photograph is the query."""
    query = body.get("query")
    if isinstance(query, dict) and len(query) == 1:
        kind, name = next(iter(query.items()))
        if kind in ("photo", "upload"):
            return Source(kind, identifier(name))
    raise RefusedError(400, 'query is {"photo": ID} or {"upload": ID}')


def identifier(name: Any) -> str:
    """The id of a photograph, or of an upload."""
    if isinstance(name, str) and IDENTIFIER.fullmatch(name):
        return name
    raise RefusedError(400, "an id is 32 digits, 0-9 and a-f")


def identifiers(body: dict[str, Any], key: str, most: int) -> list[str]:
    """Ids of photographs, each once."""
    found = body.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise RefusedError(400, f"{key} is a list of at most {most} ids")
    return list(dict.fromkeys(identifier(one) for one in found))


def where_of(given: Any) -> str | None:
    """A condition in SQL; none where it is empty."""
    if given is None:
        return None
    if not isinstance(given, str) or len(given) > MOST_WHERE:
        raise RefusedError(400, f"where is a text of at most {MOST_WHERE} characters")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(400, "where is no text") from error
    return given.strip() or None


def page_of(query: dict[str, str]) -> tuple[int, int]:
    """Offset and limit of a page."""
    return (
        _whole(query.get("offset", "0"), "offset", 0, MOST_OFFSET),
        _whole(query.get("limit", "60"), "limit", 1, 200),
    )


def mask_of(given: Any) -> np.ndarray:
    """A mask: `size_wh`, and runs of 0 and 1 in turn, row by row, from the upper left."""
    form = {"size_wh", "runs"}
    if not isinstance(given, dict) or set(given) != form or not isinstance(given["runs"], list):
        raise RefusedError(400, 'a mask is {"size_wh": [W, H], "runs": [N, ...]}')
    size, runs = given["size_wh"], given["runs"]
    if not isinstance(size, list) or len(size) != 2:
        raise RefusedError(400, "a mask's size_wh is [width, height]")
    width, height = (_whole(side, "a mask's side", 1, MASK_SIDE) for side in size)
    counts = [_whole(run, "a run", 0, width * height) for run in runs]
    if sum(counts) != width * height:
        raise RefusedError(400, "a mask's runs add up to its width times its height")
    turns = np.arange(len(counts)) % 2 == 1
    return np.repeat(turns, counts).reshape(height, width)


def _several(body: dict[str, Any], key: str, one: Callable[[Any], Any]) -> tuple[Any, ...]:
    found = body.get(key)
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) > MOST_PARTS:
        raise RefusedError(400, f"{key} is a list of at most {MOST_PARTS}")
    return tuple(one(part) for part in found)


def _numbers(count: int) -> Callable[[Any], tuple[float, ...]]:
    form = "[x1, y1, x2, y2]" if count == 4 else "[x, y]"

    def read(given: Any) -> tuple[float, ...]:
        if isinstance(given, list) and len(given) == count and all(map(_is_number, given)):
            return tuple(float(one) for one in given)
        raise RefusedError(400, f"a {'box' if count == 4 else 'point'} is {form} in pixels")

    return read


def _is_number(given: Any) -> bool:
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return abs(given) <= LARGEST and math.isfinite(given)


def _whole(given: Any, name: str, least: int, most: int) -> int:
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,15}", given):
        given = int(given)
    if isinstance(given, float) and given.is_integer():
        given = int(given)  # JSON knows no whole numbers
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise RefusedError(400, f"{name} is a whole number from {least} to {most}")
    return given


def _no_number(name: str) -> float:
    raise ValueError(name)
