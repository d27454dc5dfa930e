"""The API in words that a program reads: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whyalike import __version__
from whyalike.viewer.server.asked import MASK_SIDE, MOST_HITS, MOST_OFFSET, MOST_PARTS, MOST_WHERE

Schema = dict[str, Any]

_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_COORDINATE: Schema = {"type": "number", "minimum": -1e9, "maximum": 1e9}


def describe(upload_bytes: int, sizes: Sequence[int]) -> Schema:
    """All that can be asked, and what is answered."""
    size = {"name": "size", "in": "query", "schema": {"enum": [str(one) for one in sizes]}}
    where = {"name": "where", "in": "query", "schema": {"type": "string", "maxLength": MOST_WHERE}}
    pages = [
        _query("offset", {"type": "integer", "minimum": 0, "maximum": MOST_OFFSET}),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 200}),
        where,
    ]
    name = _query("name", _TEXT)
    image = {
        "image/*": {"schema": {"type": "string", "format": "binary", "maxLength": upload_bytes}}
    }
    paths = {
        "/api/gallery": _get("The gallery, and whether its model is loaded.", "Gallery"),
        "/api/photos": _get("Photographs in the gallery's order.", "Page", pages, (422,)),
        "/api/photos/{id}": _get("One photograph.", "Photo", [_id()], (404,)),
        "/api/photos/{id}/picture": _get(
            "A JPEG of a photograph.", None, [_id(), size], (404, 410)
        ),
        "/api/uploads/{id}/picture": _get("A JPEG of an upload.", None, [_id(), size], (404,)),
        "/api/uploads": _post(
            "Look at a photograph; it is held in memory alone.",
            "Query",
            image,
            [name],
            (408, 409, 413, 422),
        ),
        "/api/query": _asking("Look at a query.", "Query", {}),
        "/api/search": _asking("Both rankings of a search.", "Results", {}),
        "/api/maps": _asking(
            "What each cell of photographs carries of the score.",
            "Maps",
            {"photos": {"type": "array", "items": _ID, "maxItems": 200}},
        ),
        "/api/pair": _asking("What the viewer shows of a pair.", "Pair", {"photo": _ID}),
        "/api/contrast": _asking(
            "Why one photograph stands above another.",
            "Contrast",
            {
                "photos": {
                    "type": "array",
                    "items": _ID,
                    "minItems": 2,
                    "maxItems": 2,
                    "uniqueItems": True,
                }
            },
        ),
        "/api/page": _asking(
            "A search, or a pair with `photo`, as one file of html.", None, {}, {"photo": _ID}
        ),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "whyalike serve",
            "version": __version__,
            "description": "A gallery to look around in. Arrays are little-endian base64.",
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _schemas() -> Schema:
    size = {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}
    box = {"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4}
    values = _object({"grid_hw": size, "values": _TEXT})
    photo = {
        "id": _ID,
        "name": _TEXT,
        "path": _TEXT,
        "fields": {"type": "array", "items": {"type": "array", "items": _TEXT}},
        "missing": {"type": "boolean"},
        "size_wh": size,
        "view_xyxy": box,
    }
    query = {
        "query": _source(),
        **{name: photo[name] for name in ("name", "missing", "size_wh", "view_xyxy")},
        "src": _TEXT,
        "grid_hw": size,
    }
    hits = {
        "type": "array",
        "items": _object(
            {
                "photo": _COUNT,
                "rank": _COUNT,
                "other": {"type": ["integer", "null"]},
                "score": _NUMBER,
                "similarity": _NUMBER,
                "query_bias": _NUMBER,
            }
        ),
    }
    return {
        "Error": _object({"error": _TEXT}),
        "Photo": _object(photo),
        "Page": _object(
            {
                "total": _COUNT,
                "offset": _COUNT,
                "photos": {"type": "array", "items": _object(photo)},
            }
        ),
        "Gallery": _object(
            {
                "images": _COUNT,
                "network": _TEXT,
                "maps": {"enum": ["none", "full", "pq"]},
                "columns": {"type": "object", "additionalProperties": _TEXT},
                "version": _COUNT,
                "model": {"enum": ["loading", "ready", "failed"]},
                "problem": {"type": ["string", "null"]},
            }
        ),
        "Query": _object(query),
        "Results": _object(
            {
                "images": _COUNT,
                "where": {"type": ["string", "null"]},
                "whole": {"type": "boolean"},
                "photos": {"type": "array", "items": _object(photo)},
                "hits": hits,
                "by_whole": hits,
            }
        ),
        "Maps": _object({"maps": {"type": "object", "additionalProperties": values}}),
        "Pair": {"type": "object", "required": ["format", "similarity", "query", "reference"]},
        "Contrast": _object(
            {
                "difference": _NUMBER,
                "bias": _NUMBER,
                "region": {"type": ["number", "null"]},
                "query": _object({**query, "map": values}),
                "photos": {
                    "type": "array",
                    "items": _object({**photo, "similarity": _NUMBER, "map": values}),
                },
            }
        ),
    }


def _source() -> Schema:
    return {
        "oneOf": [
            _object({kind: _ID}, extra=False) for kind in ("photo", "upload")
        ]
    }  # fmt: skip


def _asked(own: Schema, optional: Schema) -> Schema:
    """The body of a search, and what is asked of it beside."""
    box = {"type": "array", "items": _COORDINATE, "minItems": 4, "maxItems": 4}
    point = {"type": "array", "items": _COORDINATE, "minItems": 2, "maxItems": 2}
    side = {"type": "integer", "minimum": 1, "maximum": MASK_SIDE}
    mask = _object(
        {
            "size_wh": {"type": "array", "items": side, "minItems": 2, "maxItems": 2},
            "runs": {"type": "array", "items": _COUNT},
        },
        extra=False,
    )
    parts: Schema = {
        name: {"type": ["array", "null"], "items": items, "maxItems": MOST_PARTS}
        for name, items in (("boxes", box), ("points", point), ("masks", mask), ("without", box))
    }
    return {
        "type": "object",
        "required": ["query", *own],
        "properties": {
            "query": _source(),
            **parts,
            "where": {"type": ["string", "null"], "maxLength": MOST_WHERE},
            "k": {"type": "integer", "minimum": 1, "maximum": MOST_HITS},
            **own,
            **optional,
        },
    }


def _object(properties: Schema, *, extra: bool = True) -> Schema:
    found: Schema = {"type": "object", "required": [*properties], "properties": properties}
    return found if extra else {**found, "additionalProperties": False}


def _id() -> Schema:
    return {"name": "id", "in": "path", "required": True, "schema": _ID}


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}


def _answers(summary: str, schema: str | None, statuses: Sequence[int]) -> Schema:
    if schema is None:
        kinds = "image/jpeg" if "JPEG" in summary else "application/octet-stream"
        content: Schema = {kinds: {"schema": {"type": "string", "format": "binary"}}}
    else:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refused = {
        str(status): {"description": "one line that says why", "content": error}
        for status in sorted({400, 401, 403, 405, 503, *statuses})
    }
    return {"200": {"description": summary, "content": content}, **refused}


def _get(
    summary: str,
    schema: str | None,
    parameters: Sequence[Schema] = (),
    statuses: Sequence[int] = (),
) -> Schema:
    return {
        "get": {
            "summary": summary,
            "parameters": [*parameters],
            "responses": _answers(summary, schema, statuses),
        }
    }


def _post(
    summary: str,
    schema: str | None,
    content: Schema,
    parameters: Sequence[Schema],
    statuses: Sequence[int],
) -> Schema:
    return {
        "post": {
            "summary": summary,
            "parameters": [*parameters],
            "requestBody": {"required": True, "content": content},
            "responses": _answers(summary, schema, statuses),
        }
    }


def _asking(
    summary: str, schema: str | None, own: Schema, optional: Schema | None = None
) -> Schema:
    content = {"application/json": {"schema": _asked(own, optional or {})}}
    return _post(summary, schema, content, [], (404, 408, 409, 410, 413, 415, 422))
