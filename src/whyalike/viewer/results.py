"""One self-contained html file of a search: the query, what was found, and each pair."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from whyalike.errors import GalleryError
from whyalike.images import printable
from whyalike.pair import Pair
from whyalike.viewer.export import (
    base64_of,
    below,
    document,
    jpeg_url,
    starting,
    static,
    viewer_data,
)

if TYPE_CHECKING:
    from whyalike.contributions import Contributions
    from whyalike.gallery import Gallery, Hit, Query

FORMAT = 1
QUERY_SIZE = 640  # longest sides of the photographs, in pixels: there may be twice k of them
HIT_SIZE = 360
QUALITY = 72
ROWS = 10  # of the grid to which the cells of a pair are summed at most, and as many columns
PAIRS = 50  # hits of either ranking whose pair can be opened: some 10 kB each
LONGEST = 200  # characters of one field of metadata that are shown


def results_data(
    gallery: Gallery,
    hits: Sequence[Hit],
    whole: Sequence[Hit] = (),
    *,
    where: str | None = None,
    exact: bool = True,
) -> dict[str, Any]:
    """What the page of results shows of a search: plain json, arrays as little-endian base64.

    A photograph that both rankings have is there once. Its map is v^r · u / |E^r|, u being what
    was searched for, over the hit: what each cell carries of the score. The links of a pair are
    summed to at most 10×10 cells, and are there for the first 50 of each ranking. No network runs.

    Args:
        gallery: that was searched.
        hits: the search, best first; at least one.
        whole: the search by the whole query, to lay beside it; none where `hits` are that.
        where: the condition that both were searched under, to say it.
        exact: False if an index was searched, to say what it misses.

    Raises:
        GalleryError: no hits, or the gallery has changed since the search.
    """
    if not hits:
        raise GalleryError("a page of results needs a hit; the search found none")
    asked = hits[0].query
    found = {hit.id: replace(hit, query=asked) for hit in [*whole, *hits]}
    order = {row: index for index, row in enumerate(found)}
    explained: deque[Contributions | None] = deque([None] * len(found))
    if gallery.manifest.maps != "none":
        explained = deque(gallery.contributions(list(found.values())))
    by_region = {hit.id: hit.rank for hit in hits}
    opened = {hit.id for hit in [*hits[:PAIRS], *whole[:PAIRS]]}
    query = asked.contributions if gallery.manifest.maps == "none" else _coarse(asked.contributions)
    return {
        "format": FORMAT,
        "model": asked.contributions.model,
        "images": len(gallery),
        "where": where,
        "maps": gallery.manifest.maps,
        "approximate": None if exact else str(gallery.approximate),
        "query": _query(asked),
        "whole": asked.is_whole,
        "photos": [
            # Each is let go with its photograph, as there may be thousands.
            _photo(hit, explained.popleft(), query if hit.id in opened else None)
            for hit in found.values()
        ],
        "hits": [
            {
                "photo": order[hit.id],
                "rank": hit.rank,
                "score": hit.score,
                "similarity": hit.whole,
                "other": hit.rank_without_region,
            }
            for hit in hits
        ],
        "by_whole": [
            {
                "photo": order[hit.id],
                "rank": hit.rank,
                "score": hit.score,
                "similarity": hit.score,
                "other": by_region.get(hit.id),
            }
            for hit in whole
        ],
    }


def ranking_data(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What the same page shows of pairs with one query, best first, where there is no gallery.

    The maps are of the references, with bias, so that each adds up to its similarity but for what
    no cell of the reference carries.

    Args:
        pairs: at least one, all with the same query.
    """
    x = pairs[0].query
    small = _coarse(x)
    return {
        "format": FORMAT,
        "model": pairs[0].model,
        "images": len(pairs),
        "where": None,
        "maps": "full",
        "approximate": None,
        "query": {
            **_shown(x),
            "boxes": [],
            "points": [],
            "masks": 0,
            "weights": [],
            "without": [],
            "without_masks": 0,
            "shade": None,
        },
        "whole": True,
        "photos": [
            _found(pair, small if index < PAIRS else None) for index, pair in enumerate(pairs)
        ],
        "hits": [
            {
                "photo": index,
                "rank": index + 1,
                "score": float(pair.similarity),
                "similarity": float(pair.similarity),
                "other": None,
            }
            for index, pair in enumerate(pairs)
        ],
        "by_whole": [],
    }


def module() -> str:
    """The text of both modules in one: what results.js imports stands right above it."""
    return static("viewer.js") + below("results.js")


def page(data: dict[str, Any]) -> str:
    """The whole page of a search as one html file, with the viewer of pairs in it."""
    return document(
        f"Photographs like {data['query']['name']}",
        static("viewer.css") + static("results.css"),
        module() + starting("startPage"),  # one script, so that its policy is one hash
        data,
    )


def _query(asked: Query) -> dict[str, Any]:
    return {
        **_shown(asked.contributions),
        "boxes": [list(box) for box in asked.boxes],
        "points": [list(xy) for xy in asked.points],
        "masks": len(asked.masks),
        "weights": list(asked.weights),
        "without": [list(box) for box in asked.without],
        "without_masks": len(asked.without_masks),
        "shade": _shade(asked),
    }


def _shown(x: Contributions, longest: int = QUERY_SIZE) -> dict[str, Any]:
    return {
        "name": x.name,
        "src": jpeg_url(x.picture, x.frame.size_wh, longest, QUALITY),
        "size_wh": list(x.frame.size_wh),
        "view_xyxy": [float(side) for side in x.frame.view_xyxy],
    }


def _found(pair: Pair, query: Contributions | None) -> dict[str, Any]:
    """A reference of a ranking, with its pair where the query is given."""
    x = pair.reference
    values = pair.overall_map("reference", bias=True).cpu().numpy()
    return {
        **_shown(x, HIT_SIZE),
        "path": x.name,
        "fields": [],
        "missing": False,
        "map": {"grid_hw": list(values.shape), "values": base64_of(values, "<f4")},
        "pair": None if query is None else viewer_data(Pair(query, _coarse(x)), pictures=False),
    }


def _photo(hit: Hit, x: Contributions | None, query: Contributions | None) -> dict[str, Any]:
    picture = hit.picture() if x is None else x.picture
    size_wh = tuple(hit.row["size_wh"])
    found: dict[str, Any] = {
        "name": printable(hit.path.rpartition("/")[2]),
        "path": printable(hit.path),
        "fields": fields_of(hit.label, hit.metadata),
        "src": jpeg_url(picture, size_wh, HIT_SIZE, QUALITY),
        "missing": picture is None,
        "size_wh": list(size_wh),
        "view_xyxy": [float(side) for side in hit.row["view_xyxy"]],
        "map": None,
        "pair": None,
    }
    if x is not None:
        values = x.map(hit.query.vector / x.embedding.norm().cpu()).cpu().numpy()
        found["map"] = {"grid_hw": list(values.shape), "values": base64_of(values, "<f4")}
        if query is not None:
            pair = Pair(query, _coarse(x).to(query.embedding.device))
            found["pair"] = viewer_data(pair, pictures=False)
    return found


def fields_of(label: str | None, metadata: dict[str, Any]) -> list[list[str]]:
    """Names and values of what is known of a photograph, as text to show."""
    fields = {"label": label, **metadata}
    return [[printable(n), _text(v)] for n, v in fields.items() if _is_known(v)]


def _coarse(x: Contributions) -> Contributions:
    h, w = x.frame.grid_hw
    return x.on_grid((min(h, ROWS), min(w, ROWS)))


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    text = printable(f"{value:.6g}" if isinstance(value, float) else str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _shade(asked: Query) -> str | None:
    """A layer over the query: dark where no mask asks, blue where one takes away."""
    layers = []
    if asked.masks:
        layers.append(
            _layer(1 - np.max([np.asarray(m, float) for m in asked.masks], 0), (12, 11, 10))
        )
    if asked.without_masks:
        layers.append(
            _layer(np.max([np.asarray(m, float) for m in asked.without_masks], 0), (33, 88, 201))
        )
    if not layers:
        return None
    for layer in layers[1:]:
        layers[0].alpha_composite(layer)
    buffer = io.BytesIO()
    layers[0].save(buffer, "PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")


def _layer(strength: np.ndarray, rgb: tuple[int, int, int]) -> Image.Image:
    alpha = Image.fromarray((np.clip(strength, 0, 1) * 150).round().astype(np.uint8))
    alpha.thumbnail((HIT_SIZE, HIT_SIZE))
    layer = Image.new("RGBA", alpha.size, rgb)
    layer.putalpha(alpha)
    return layer
