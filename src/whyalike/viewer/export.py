"""One self-contained html file of a pair, and the data that it shows."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from whyalike.page import page as framed

if TYPE_CHECKING:
    from torch import Tensor

    from whyalike.contributions import Contributions
    from whyalike.pair import Match, Pair

FORMAT = 1
PICTURE_SIZE = 1280  # longest side of an embedded photograph, in pixels
JPEG_QUALITY = 88
HALF_PEAK = 32768.0  # float16 ends at 65504; below 6e-5, nine decades lower, it loses precision
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_START = """
{function}(
  /** @type {{HTMLElement}} */ (document.querySelector("main")),
  JSON.parse(document.querySelector("script[type='application/json']")?.textContent ?? "{{}}"),
{more});
"""


def viewer_data(pair: Pair, *, pictures: bool = True) -> dict[str, Any]:
    """What the viewer's module shows of a pair: plain json, arrays as little-endian base64.

    The links between cells, v^q_ij·v^r_xy / (|E^q||E^r|), go either as the (nq, nr) matrix or as
    its two factors, (nq, d) and (nr, d), whichever is smaller; `value = scale × stored`, for
    factors `scale × q·r`; `peak` is the largest |value| of a cell's map. The maps, (h, w) row by
    row, are float32. Where maps are shared among like cells, a photograph has how much each of its
    cells takes of each, (n, n), for the maps that the module computes.

    Args:
        pair: with all v at hand.
        pictures: False leaves the photographs out, for who has them elsewhere.
    """
    similarity = float(pair.similarity)
    return {
        "format": FORMAT,
        "model": pair.model,
        "similarity": similarity,
        "terms": {name: float(value) for name, value in pair.terms._asdict().items()},
        "query": _photograph(pair, "query", pictures),
        "reference": _photograph(pair, "reference", pictures),
        "links": _links(pair),
        "matches": [
            {
                "query_xyxy": [float(x) for x in match.query_xyxy],
                "reference_xyxy": [float(x) for x in match.reference_xyxy],
                "value": float(match.value),
                "share": float(match.share) if math.isfinite(match.share) else None,
            }
            for match in _worth_a_line(pair.matches(k=10))
        ],
    }


def page(data: dict[str, Any]) -> str:
    """The whole page of a pair as one html file."""
    title = f"Why are {data['query']['name']} and {data['reference']['name']} alike?"
    return document(
        title,
        static("viewer.css"),
        static("viewer.js") + starting("mount", "{ headingLevel: 1 }"),
        data,
    )


def static(name: str) -> str:
    """The text of a file that the page is made of."""
    return (files("whyalike.viewer") / "static" / name).read_text(encoding="utf-8")


def below(name: str, imports: int = 1) -> str:
    """The text of a module that stands below those that it imports from, in one script.

    Args:
        name: of its file.
        imports: how many modules those are.
    """
    text, gone = _IMPORT.subn("", static(name))
    assert gone == imports
    return text


def starting(function: str, *more: str) -> str:
    """What starts a page's script: a call with the page's element, its data and what is added."""
    return _START.format(function=function, more="".join(f"  {one},\n" for one in more))


def document(
    title: str,
    css: str,
    module: str,
    data: dict[str, Any],
    allow: Sequence[str] = ("img-src data:",),
) -> str:
    """One html file of the viewer's: style, module and data."""
    body = f'<main></main>\n<script type="application/json">{_inert(data)}</script>'
    return framed(title, css, body, module=module, kind="wa-page", allow=allow)


def _photograph(pair: Pair, side: Literal["query", "reference"], picture: bool) -> dict[str, Any]:
    image = pair.query if side == "query" else pair.reference
    frame = image.frame
    data: dict[str, Any] = {
        "name": image.name,
        "src": jpeg_url(image.picture, frame.size_wh) if picture else "",
        "size_wh": list(frame.size_wh),
        "view_xyxy": [float(x) for x in frame.view_xyxy],
        "grid_hw": list(frame.grid_hw),
        "overall": base64_of(_array(pair.overall_map(side, bias=False)), "<f4"),
        "overall_bias": base64_of(_array(pair.overall_map(side, bias=True)), "<f4"),
    }
    sharing = _sharing(image)
    if sharing is not None:
        scale = _half_scale(sharing)
        data["sharing"] = {"scale": scale, "matrix": base64_of(sharing / scale, "<f2")}
    return data


def _sharing(image: Contributions) -> np.ndarray | None:
    """How much each cell takes of each, (n, n), where maps are shared."""
    return None if image.affinity is None else _array(image.affinity.matrix()[0])


def _links(pair: Pair) -> dict[str, Any]:
    query, reference = _factor(pair.query), _factor(pair.reference)
    (nq, d), nr = query.shape, len(reference)
    peak = _peak(query, reference, _sharing(pair.query), _sharing(pair.reference))
    if (nq + nr) * d < nq * nr:
        q_scale, r_scale = _half_scale(query), _half_scale(reference)
        return {
            "encoding": "factors",
            "rank": d,
            "scale": q_scale * r_scale,
            "peak": peak,
            "query": base64_of(query / q_scale, "<f2"),
            "reference": base64_of(reference / r_scale, "<f2"),
        }
    matrix = query @ reference.T
    scale = _half_scale(matrix)
    return {
        "encoding": "matrix",
        "scale": scale,
        "peak": peak,
        "matrix": base64_of(matrix / scale, "<f2"),
    }


def _peak(
    query: np.ndarray,
    reference: np.ndarray,
    by_query: np.ndarray | None,
    by_reference: np.ndarray | None,
    rows: int = 256,
) -> float:
    """The largest |value| of the maps of all cells of both images, without ever holding them all.

    Args:
        query, reference: v of the cells, whose products are the links.
        by_query, by_reference: how the maps over either image are shared.
    """
    largest = []
    for of, over, by in ((query, reference, by_reference), (reference, query, by_query)):
        drawn = over if by is None else by @ over
        parts = (of[start : start + rows] for start in range(0, len(of), rows))
        largest.append(max(float(np.abs(part @ drawn.T).max()) for part in parts))
        if by_query is None and by_reference is None:
            break  # one's maps are the other's, turned
    return max(largest)


def _worth_a_line(matches: list[Match]) -> list[Match]:
    """Those with at least a twentieth of the strongest: weaker lines only hide it."""
    return [match for match in matches if abs(match.value) >= abs(matches[0].value) / 20]


def _factor(image: Contributions) -> np.ndarray:
    """V / |E|, one row for each cell: (n, d) in float64."""
    values = _array(image.values).astype(np.float64)
    norm = float(np.linalg.norm(_array(image.embedding).astype(np.float64)))
    return values.reshape(-1, values.shape[-1]) / norm


def _half_scale(values: np.ndarray) -> float:
    """The divisor that brings the largest value to the upper end of float16's range."""
    peak = float(np.abs(values).max(initial=0.0))
    return peak / HALF_PEAK if peak > 0 else 1.0


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def base64_of(values: np.ndarray, dtype: str) -> str:
    """An array's bytes, row by row, of a little-endian type."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def jpeg_url(
    picture: Image.Image | None,
    size_wh: tuple[int, int],
    longest: int = PICTURE_SIZE,
    quality: int = JPEG_QUALITY,
) -> str:
    """A photograph as a data url, at most so many pixels long; grey where there is none."""
    if picture is None:
        shrink = min(1.0, longest / max(size_wh))
        w, h = (max(1, round(side * shrink)) for side in size_wh)
        picture = Image.new("RGB", (w, h), (128, 128, 128))
    picture = picture.convert("RGB")
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _inert(data: dict[str, Any]) -> str:
    """Json that a script element holds without ever ending it, whatever a file is called."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ascii: U+2028 is escaped
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
