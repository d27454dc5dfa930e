"""A study over the web: a page, its pictures, and answers that are on disk when it says so.

Small on purpose: it gives what the questionnaire lists and takes what answers it, nothing else.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlunsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whyalike.apps.study import pages
from whyalike.apps.study.answers import check_answer
from whyalike.apps.study.questionnaire import PICTURES, Questionnaire
from whyalike.errors import StudyError

LOCAL = ("127.0.0.1", "localhost", "::1")
HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")
"""What a request may call this machine."""
LARGEST_BODY = 4096
MOST_RATERS = 100_000
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer; what the page may do is said in the page, by hashes."""

_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS raters (
  number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, slot INTEGER NOT NULL,
  began TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, finished TEXT
);
CREATE TABLE IF NOT EXISTS answers (
  rater TEXT NOT NULL REFERENCES raters (name), question TEXT NOT NULL,
  answer INTEGER NOT NULL CHECK (answer BETWEEN 1 AND 5), seconds REAL,
  at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (rater, question)
);
"""


class Store:
    """Answers in SQLite: what a call has returned from is on disk.

    Args:
        path: of the database; made where it is missing.
        made: the questionnaire that is answered.

    Raises:
        StudyError: it cannot be used, or has answers to another questionnaire.
    """

    def __init__(self, path: str | Path, made: Questionnaire) -> None:
        self._made, self._lock = made, threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # each commit reaches the disk
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(_TABLES)
            with self._db:
                self._db.execute("INSERT OR IGNORE INTO about VALUES ('study', ?)", (made.id,))
            (study,) = self._db.execute("SELECT value FROM about WHERE name = 'study'").fetchone()
        except (sqlite3.Error, OSError) as error:
            raise StudyError(f"{path}: cannot keep answers: {error}") from error
        if study != made.id:
            raise StudyError(f"{path}: has answers to another questionnaire; give another file")

    def begin(self) -> tuple[str, int]:
        """A new rater's name and slot: the slots come in order, and so in balance."""
        name = secrets.token_hex(12)
        with self._lock, self._db:
            (slot,) = self._db.execute("SELECT count(*) FROM raters").fetchone()
            if slot >= MOST_RATERS:
                raise StudyError("no more raters can take part")
            self._db.execute("INSERT INTO raters (name, slot) VALUES (?, ?)", (name, slot))
        return name, int(slot)

    def rater(self, name: Any) -> tuple[int, bool, dict[str, Any]]:
        """Slot of a rater, whether they have finished, and their answers.

        Raises:
            StudyError: there is no such rater.
        """
        with self._lock:
            found = self._db.execute(
                "SELECT slot, finished IS NOT NULL FROM raters WHERE name = ?", (str(name),)
            ).fetchone()
            if found is None:
                raise StudyError("there is no such rater; load the page again")
            rows = self._db.execute(
                "SELECT question, answer, seconds FROM answers WHERE rater = ?", (str(name),)
            ).fetchall()
        answers = {question: {"answer": a, "seconds": s} for question, a, s in rows}
        return int(found[0]), bool(found[1]), answers

    def answer(self, rater: Any, question: Any, answer: Any, seconds: Any) -> None:
        """Keep an answer, in the place of an earlier one.

        Raises:
            StudyError: no such rater or question, no answer, or the rater has finished.
        """
        given = check_answer(self._made, question, answer, seconds)
        _, finished, _ = self.rater(rater)
        if finished:
            raise StudyError("these answers are finished and stay as they are")
        with self._lock, self._db:
            self._db.execute(
                "INSERT INTO answers (rater, question, answer, seconds) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (rater, question) DO UPDATE SET answer = excluded.answer, "
                "seconds = excluded.seconds, at = CURRENT_TIMESTAMP",
                (rater, question, given.answer, given.seconds),
            )

    def finish(self, rater: Any) -> None:
        """Close a rater's answers.

        Raises:
            StudyError: no such rater, or not all is answered.
        """
        _, finished, answers = self.rater(rater)
        lacking = len(self._made.questions) - len(answers)
        if lacking:
            raise StudyError(f"{lacking} questions are not answered yet")
        if not finished:
            with self._lock, self._db:
                self._db.execute(
                    "UPDATE raters SET finished = CURRENT_TIMESTAMP WHERE name = ?", (rater,)
                )

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


def app(
    made: Questionnaire,
    folder: str | Path,
    store: Store,
    *,
    hosts: Sequence[str] = HOSTS,
    key: str | None = None,
) -> Starlette:
    """The study as a web application.

    Args:
        made: what is asked.
        folder: of the study, for its pictures.
        store: keeps the answers.
        hosts: what a request may call this machine; others are refused (DNS rebinding).
        key: needed to begin, as `?key=...` in the address, where anyone could reach the server.
    """
    src = {file: f"pictures/{file}" for file in pages.pictures(made)}
    bytes_of = {file: (Path(folder) / PICTURES / file).read_bytes() for file in src}
    front = pages.for_server(made)

    async def page(_: Request) -> Response:
        return HTMLResponse(front)

    async def picture(request: Request) -> Response:
        content = bytes_of.get(request.path_params["file"])
        if content is None:
            return _refused("there is no such picture", 404)
        return Response(content, media_type="image/jpeg")

    async def icon(_: Request) -> Response:
        return Response(status_code=204)  # browsers ask for one, and complain of none

    def begin(given: dict[str, Any]) -> dict[str, Any]:
        if given.get("consent") is not True:
            raise StudyError("only who agrees takes part")
        if key is not None and not secrets.compare_digest(
            str(given.get("key")).encode(), key.encode()
        ):
            raise PermissionError("the address lacks its key")
        rater = given.get("rater")
        try:
            slot, finished, answers = store.rater(rater)
        except StudyError:  # a new one, or one of a database that is gone
            rater, _ = store.begin()
            slot, finished, answers = store.rater(rater)
        return {
            "rater": rater,
            "slot": slot,
            "questions": made.for_rater(slot, src)["questions"],
            "answers": answers,
            "finished": finished,
        }

    def answer(given: dict[str, Any]) -> dict[str, Any]:
        store.answer(*(given.get(name) for name in ("rater", "question", "answer", "seconds")))
        return {"saved": True}

    def finish(given: dict[str, Any]) -> dict[str, Any]:
        store.finish(given.get("rater"))
        return {"finished": True}

    return Starlette(
        routes=[
            Route("/", page),
            Route("/favicon.ico", icon),
            Route("/pictures/{file}", picture),
            *(
                Route(f"/{work.__name__}", _taking(work), methods=["POST"])
                for work in (begin, answer, finish)
            ),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={404: _missing, 405: _missing},
    )


def _taking(
    work: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[[Request], Awaitable[Response]]:
    """A route that takes JSON from its own page and says in one line what is wrong with it."""

    async def route(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
            return _refused("answers come from the page of this server", 403)
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return _refused("answers come as application/json", 415)
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    return _refused(f"over {LARGEST_BODY} bytes", 413)
            given = json.loads(body)
            if not isinstance(given, dict):
                raise ValueError
        except (ValueError, RecursionError):
            return _refused("no JSON object", 400)
        except ClientDisconnect:
            return _refused("the connection was closed", 400)
        try:
            return JSONResponse(await run_in_threadpool(work, given))
        except PermissionError as error:
            return _refused(str(error), 403)
        except StudyError as error:
            return _refused(str(error), 422)
        except sqlite3.Error as error:
            return _refused(f"it cannot be kept: {error}", 503)

    return route


def _refused(reason: str, status: int) -> JSONResponse:
    return JSONResponse({"error": reason}, status)


async def _missing(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _refused("there is nothing here" if status == 404 else "not in this way", status)


class _Headers:
    """Adds headers to every answer."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self.inner(scope, receive, with_headers)


def serve(
    made: Questionnaire,
    folder: str | Path,
    answers: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    names: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> None:
    """Ask a study until the process is told to stop (SIGINT, SIGTERM).

    Args:
        made, folder: the study.
        answers: the database; one with answers is gone on with.
        host, port: where to listen; port 0 takes a free one.
        names: what a request may call this machine besides localhost.
        tell: told the address for raters, once it answers.

    Raises:
        StudyError: it cannot listen there, or the answers cannot be kept.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", name):
            raise StudyError(f"a name of this machine is that of a host; came {name!r}")
    local = host in LOCAL
    key = None if local else secrets.token_urlsafe(16)
    store = Store(answers, made)
    try:
        listener = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        store.close()
        raise StudyError(f"cannot listen at {host}:{port}: {error.strerror or error}") from error
    port = listener.getsockname()[1]
    shown = names[0] if names else f"[{host}]" if ":" in host else host
    query = "" if key is None else urlencode({"key": key})
    tell(urlunsplit(("http", f"{shown}:{port}", "/", query, "")))
    tell(f"answers are kept in {answers}; Ctrl-C stops")
    application = app(made, folder, store, hosts=(*HOSTS, *names), key=key)
    settings = uvicorn.Config(
        application, log_level="warning", access_log=False, server_header=False,
        limit_concurrency=200, timeout_keep_alive=15, timeout_graceful_shutdown=10, lifespan="off",
    )  # fmt: skip
    try:
        uvicorn.Server(settings).run(sockets=[listener])
    finally:
        listener.close()
        store.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
