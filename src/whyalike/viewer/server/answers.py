"""What is said of a search: rankings, maps, pairs, contrasts, and pages to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from whyalike.difference import Contrast
from whyalike.gallery.snapshot import Entry
from whyalike.images import read_image
from whyalike.viewer import export, results
from whyalike.viewer.export import base64_of, jpeg_url
from whyalike.viewer.server.asked import Asked, RefusedError
from whyalike.viewer.server.pictures import SIZES, listed_picture

if TYPE_CHECKING:
    from whyalike.gallery import Gallery, Hit
    from whyalike.viewer.server.room import Looked, Room


def search(room: Room, asked: Asked) -> dict[str, Any]:
    """Both rankings: by what was asked for, and by the whole photograph."""
    looked, query = room.asked(asked)
    following = room.follow(looked, asked.where)
    hits = following.search(query, asked.k)
    whole = [] if query.is_whole else following.by_whole(asked.k)
    found = {hit.id: Entry.of(hit) for hit in [*hits, *whole]}
    order = {row: index for index, row in enumerate(found)}
    by_region = {hit.id: hit.rank for hit in hits}
    return {
        "images": len(room.gallery),
        "where": asked.where,
        "whole": query.is_whole,
        "photos": [room.photo_of(entry) for entry in found.values()],
        "hits": [_hit(hit, order, hit.rank_without_region) for hit in hits],
        "by_whole": [_hit(hit, order, by_region.get(hit.id)) for hit in whole],
    }


def maps(room: Room, asked: Asked, ids: Sequence[str]) -> dict[str, Any]:
    """What each cell of some photographs carries of the score."""
    _, query = room.asked(asked)
    found = room.references(ids)
    return {
        "maps": {
            entry.id: _map(x.map(query.vector / x.embedding.norm())) for entry, x in found
        }
    }  # fmt: skip


def pair(room: Room, asked: Asked, id: str) -> dict[str, Any]:
    """What the viewer shows of the query and a photograph."""
    looked = room.look(asked.source)
    data = export.viewer_data(room.pair(looked, id).at_hand(), pictures=False)
    data["query"]["src"] = _src(room.query(looked))
    data["reference"]["src"] = _src(room.photo(id))
    return data


def contrast(room: Room, asked: Asked, first: str, second: str) -> dict[str, Any]:
    """Why one photograph stands above another: where on the query, and on both of them."""
    looked, query = room.asked(asked)
    (a, x), (b, y) = room.references([first, second])
    found = Contrast(looked.x, x, y)
    own = found.maps()
    unit = [one.embedding / one.embedding.norm() for one in (x, y)]
    by_region = None if query.is_whole else (query.vector @ (unit[0] - unit[1])).item()
    return {
        "difference": found.difference,
        "bias": found.bias,
        "region": by_region,
        "query": {**room.query(looked), "map": _map(found.map())},
        "photos": [
            {**room.photo_of(entry), "similarity": one.similarity, "map": _map(of)}
            for entry, one, of in zip((a, b), found.pairs, own, strict=True)
        ],
    }


def results_page(room: Room, asked: Asked) -> str:
    """The page of both rankings as one file, which needs no server."""
    looked, query = room.asked(asked)
    following = room.follow(looked, asked.where)
    hits = following.search(query, asked.k)
    whole = () if query.is_whole else following.by_whole(asked.k)
    data = results.results_data(_like(room, following.version), hits, whole, where=asked.where)
    data["query"]["src"] = _picture(room, looked, results.QUERY_SIZE)
    return results.page(data)


def pair_page(room: Room, asked: Asked, id: str) -> str:
    """The page of a pair as one file."""
    looked = room.look(asked.source)
    data = export.viewer_data(room.pair(looked, id).at_hand(), pictures=False)
    data["query"]["src"] = _picture(room, looked, export.PICTURE_SIZE)
    entry = room.entry(id)
    data["reference"]["src"] = _listed(entry.row, export.PICTURE_SIZE)
    return export.page(data)


def _like(room: Room, version: int) -> Gallery:
    if room.gallery.version != version:
        raise RefusedError(409, "the gallery has changed since; search again")
    return room.gallery


def _hit(hit: Hit, order: dict[str, int], other: int | None) -> dict[str, Any]:
    numbers = {"score": hit.score, "similarity": hit.whole, "query_bias": hit.query_bias}
    if not all(math.isfinite(one) for one in numbers.values()):
        raise RefusedError(422, "the region's score is no finite number; ask for a smaller region")
    return {"photo": order[hit.id], "rank": hit.rank, "other": other, **numbers}


def _map(values: torch.Tensor) -> dict[str, Any]:
    array = values.cpu().numpy()
    return {"grid_hw": list(array.shape), "values": base64_of(array, "<f4")}


def _src(shown: dict[str, Any]) -> str:
    """Where its picture is, or one of its shape where it is gone."""
    if shown["missing"]:
        return jpeg_url(None, tuple(shown["size_wh"]), 64)
    if "id" not in shown:
        return str(shown["src"])
    return f"/api/photos/{shown['id']}/picture?size={SIZES[-1]}"


def _picture(room: Room, looked: Looked, longest: int) -> str:
    """The query's picture as a data url."""
    if looked.source.kind == "photo":
        return _listed(room.entry(looked.source.id).row, longest)
    image = read_image(looked.picture or b"")
    return jpeg_url(image, looked.x.frame.size_wh, longest, export.JPEG_QUALITY)


def _listed(row: dict[str, Any], longest: int) -> str:
    try:
        picture = listed_picture(row, longest)
    except RefusedError:  # grey, and the page says that it is gone
        picture = None
    return jpeg_url(picture, tuple(row["size_wh"]), longest, export.JPEG_QUALITY)
