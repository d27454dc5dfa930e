"""The web app: addresses, bodies and statuses around what the room knows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from whyalike.errors import (
    GalleryError,
    ImageError,
    ModelError,
    RegionError,
    WhyalikeError,
    in_one_line,
)
from whyalike.images import printable
from whyalike.viewer.export import static
from whyalike.viewer.server import answers
from whyalike.viewer.server.asked import (
    Asked,
    RefusedError,
    asked_of,
    body_of,
    identifier,
    identifiers,
    page_of,
    where_of,
)
from whyalike.viewer.server.description import describe
from whyalike.viewer.server.pictures import SIZES
from whyalike.viewer.server.room import Room

T = TypeVar("T")

STATIC = {
    **{
        f"{name}.js": "text/javascript"
        for name in (
            "viewer",
            "results",
            "serve",
            "api",
            "state",
            "browse",
            "mark",
            "ranking",
            "contrast",
        )
    },
    **{f"{name}.css": "text/css" for name in ("viewer", "results", "serve")},
}
"""All that is served but pictures and answers."""


@dataclass(frozen=True)
class Bounds:
    """How much is taken at a time.

    Args:
        upload_bytes, upload_pixels: of a photograph that is dropped.
        body_bytes: of any other request.
        uploads: that are received at a time.
        waiting: requests that wait for a thread; more are turned away.
        seconds: in which a body must have come.
    """

    upload_bytes: int = 32 * 2**20
    upload_pixels: int = 50_000_000
    body_bytes: int = 2**18
    uploads: int = 4
    waiting: int = 200
    seconds: float = 60


class Desk:
    """Threads for what takes a while, as many as there are cores, and an end to the queue."""

    def __init__(self, waiting: int) -> None:
        cores = max(2, os.cpu_count() or 1)
        # Each kind has threads of its own: neither a page of pictures nor a network that has much
        # to do keeps a search waiting.
        turns = {"search": cores, "picture": cores, "network": 1}
        self._turns = {kind: asyncio.Semaphore(count) for kind, count in turns.items()}
        self._waiting = waiting
        self._queued = 0

    async def work(self, request: Request, kind: str, task: Callable[[], T]) -> T:
        """Run a task in a thread when its turn comes, if its client is there still."""
        if self._queued >= self._waiting:
            raise RefusedError(503, "too much is being asked at once; try again in a moment")
        self._queued += 1
        try:
            async with self._turns[kind]:
                if await request.is_disconnected():
                    raise ClientDisconnect
                return await asyncio.to_thread(_run, task)
        finally:
            self._queued -= 1


def _run(task: Callable[[], T]) -> T:
    try:
        return task()
    except Exception:
        raise
    except BaseException as error:  # a panic of a library in Rust
        raise RuntimeError(in_one_line(error)) from error


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """A request's body in memory, if it is small enough and comes soon enough."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise RefusedError(413, f"at most {_size(most)} are taken; {_size(int(told))} came")
    parts, length = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                length += len(part)
                if length > most:
                    raise RefusedError(413, f"at most {_size(most)} are taken; more came")
                parts.append(part)
    except TimeoutError as error:
        raise RefusedError(408, "the request took too long to come") from error
    return b"".join(parts)


def make_app(room: Room, bounds: Bounds) -> Starlette:
    """The app around a room."""
    desk = Desk(bounds.waiting)
    receiving = asyncio.Semaphore(bounds.uploads)
    texts = {name: static(name).encode() for name in STATIC}
    page = static("serve.html").encode()

    async def body(request: Request) -> dict[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, "the body is application/json")
        return body_of(await read_body(request, bounds.body_bytes, bounds.seconds))

    async def asked_in(given: dict[str, Any]) -> Asked:
        """A search, once what it needs is there."""
        asked = asked_of(given)
        if room.needs_network(asked.source):
            await network()
        return asked

    async def network() -> None:
        """Wait, in no thread, until the network is loaded, or cannot be."""
        loaded = asyncio.wrap_future(room.want_model())
        await asyncio.wait([loaded])
        loaded.exception()  # the room says it

    async def index(request: Request) -> Response:
        return Response(page, media_type="text/html")

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise RefusedError(404, "there is nothing here")
        headers = {"cache-control": "no-cache"}
        return Response(texts[name], media_type=STATIC[name], headers=headers)

    async def gallery(request: Request) -> Response:
        return JSONResponse(await desk.work(request, "search", room.about))

    async def photos(request: Request) -> Response:
        offset, limit = page_of(dict(request.query_params))
        where = where_of(request.query_params.get("where"))
        task = partial(room.page, offset, limit, where)
        return JSONResponse(await desk.work(request, "search", task))

    async def photo(request: Request) -> Response:
        task = partial(room.photo, identifier(request.path_params["id"]))
        return JSONResponse(await desk.work(request, "search", task))

    async def picture(request: Request) -> Response:
        size = request.query_params.get("size", str(SIZES[0]))
        if size not in map(str, SIZES):
            raise RefusedError(400, f"size is one of {', '.join(map(str, SIZES))}")
        name = identifier(request.path_params["id"])
        task = partial(room.picture, name, int(size))
        if request.url.path.startswith("/api/uploads/"):
            task = partial(room.upload_picture, name)
        content = await desk.work(request, "picture", task)
        headers = {"cache-control": "private, max-age=60"}
        return Response(content, media_type="image/jpeg", headers=headers)

    async def upload(request: Request) -> Response:
        if receiving.locked():
            raise RefusedError(
                503, "too many photographs are coming at once; try again in a moment"
            )
        async with receiving:
            content = await read_body(request, bounds.upload_bytes, bounds.seconds)
            name = request.query_params.get("name", "photograph")
            await network()
            task = partial(room.upload, content, name)
            return JSONResponse(await desk.work(request, "network", task))

    async def query(request: Request) -> Response:
        asked = await asked_in(await body(request))
        task = partial(room.shown, asked.source)
        return JSONResponse(await desk.work(request, "search", task))

    async def search(request: Request) -> Response:
        task = partial(answers.search, room, await asked_in(await body(request)))
        return JSONResponse(await desk.work(request, "search", task))

    async def maps(request: Request) -> Response:
        given = await body(request)
        ids = identifiers(given, "photos", 200)
        task = partial(answers.maps, room, await asked_in(given), ids)
        return JSONResponse(await desk.work(request, "search", task))

    async def pair(request: Request) -> Response:
        given = await body(request)
        one = identifier(given.get("photo"))
        task = partial(answers.pair, room, await asked_in(given), one)
        return JSONResponse(await desk.work(request, "search", task))

    async def contrast(request: Request) -> Response:
        given = await body(request)
        ids = identifiers(given, "photos", 2)
        if len(ids) != 2:
            raise RefusedError(400, "photos are two ids")
        task = partial(answers.contrast, room, await asked_in(given), *ids)
        return JSONResponse(await desk.work(request, "search", task))

    async def export(request: Request) -> Response:
        given = await body(request)
        asked = await asked_in(given)
        task: Callable[[], str] = partial(answers.results_page, room, asked)
        if given.get("photo") is not None:
            task = partial(answers.pair_page, room, asked, identifier(given["photo"]))
        text = await desk.work(request, "search", task)
        # Shown here it would run scripts of its own.
        headers = {"content-disposition": 'attachment; filename="whyalike.html"'}
        return Response(text, media_type="application/octet-stream", headers=headers)

    description = describe(bounds.upload_bytes, SIZES)

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

    def get(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, endpoint, methods=["GET"])

    def post(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, endpoint, methods=["POST"])

    return Starlette(
        routes=[
            get("/", index),
            get("/static/{name}", part),
            get("/api/openapi.json", openapi),
            get("/api/gallery", gallery),
            get("/api/photos", photos),
            get("/api/photos/{id}", photo),
            get("/api/photos/{id}/picture", picture),
            get("/api/uploads/{id}/picture", picture),
            post("/api/uploads", upload),
            post("/api/query", query),
            post("/api/search", search),
            post("/api/maps", maps),
            post("/api/pair", pair),
            post("/api/contrast", contrast),
            post("/api/page", export),
        ],
        exception_handlers={
            RefusedError: _refused,
            WhyalikeError: _said,
            HTTPException: _of_routing,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )


_STATUS = {ImageError: 422, RegionError: 422, GalleryError: 422, ModelError: 409}


def _answer(status: int, message: str) -> Response:
    line = printable(" ".join(message.split()))[:600]
    return JSONResponse({"error": line}, status, {"connection": "close"} if status == 413 else None)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _answer(error.status, str(error))


async def _said(_: Request, error: Exception) -> Response:
    """What whyalike says of bad input; each is one line that says what to do."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 409)
    return _answer(status, str(error))


async def _of_routing(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "there is nothing here" if error.status_code == 404 else error.detail
    response = _answer(error.status_code, message)
    response.headers.update(error.headers or {})
    return response


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _unexpected(_: Request, error: Exception) -> Response:
    return _answer(
        500, f"something went wrong here ({type(error).__name__}); the terminal says more"
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MB" if count >= 2**20 else f"{count / 2**10:.0f} kB"
