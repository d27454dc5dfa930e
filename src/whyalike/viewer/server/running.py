"""The server's process: its socket, its address, and how it stops."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from whyalike.errors import WhyalikeError
from whyalike.viewer.server.app import Bounds, make_app
from whyalike.viewer.server.guard import Guard, access_to, is_loopback
from whyalike.viewer.server.room import Room

if TYPE_CHECKING:
    from whyalike.gallery import Gallery
    from whyalike.model import EmbeddingModel

GRACE = 10
"""Seconds in which answers that were begun are finished, when the server is told to stop."""

CONNECTIONS = 400


@dataclass(frozen=True)
class Serving:
    """A server that is bound to its port, and not yet running.

    Args:
        address: to open in a browser, with the token where there is one.
        token: what other machines must know.
        server: uvicorn's.
        room: what it answers from.
    """

    address: str
    token: str | None
    server: uvicorn.Server
    room: Room
    bound: socket.socket

    def run(self) -> None:
        """Answer until SIGINT or SIGTERM comes; then finish what was begun."""
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal again when it has stopped: it has done its work by then.
            before = {one: signal.signal(one, _stopped) for one in (signal.SIGINT, signal.SIGTERM)}
        else:
            before = {}
        try:
            asyncio.run(self.server.serve(sockets=[self.bound]))
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
            self.bound.close()

    def leave(self) -> None:
        """End the process where the network is still being loaded; else do nothing.

        Python would cut its thread off in the middle of native code, which aborts the process.
        """
        if self.room.is_loading:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def serve(
    reopen: Callable[[], Gallery],
    load: Callable[[], EmbeddingModel],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    names: tuple[str, ...] = (),
    bounds: Bounds | None = None,
) -> Serving:
    """A local web app around a gallery.

    Bound to an address that other machines can reach, it asks for a token, which is made here
    where none is given. What they say to one another is not encrypted.

    Args:
        reopen: opens the gallery, now and when it has changed.
        load: loads its model, in a thread, while the gallery can be looked through already.
        host, port: where to listen; port 0 is any that is free.
        token: that clients must know; letters, digits and ._~- .
        names: other names that this server goes by in the Host header.
        bounds: how much is taken at a time.

    Raises:
        WhyalikeError: it cannot listen there; the gallery cannot be opened.
    """
    bounds = bounds or Bounds()
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    room = Room(reopen, load, bounds.upload_pixels)
    bound = _bound(host, port)
    port = bound.getsockname()[1]
    access = access_to(host, port, token, frozenset(name.lower() for name in names))
    config = uvicorn.Config(
        Guard(make_app(room, bounds), access),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )
    return Serving(_address(host, port, token), token, uvicorn.Server(config), room, bound)


def _bound(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise WhyalikeError(f"--host {host}: is no address of this machine: {error}") from error
    try:
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise WhyalikeError(
            f"{host}:{port} cannot be listened at: {reason}; give another --port, or --port 0 for "
            f"any that is free"
        ) from error
    return bound


def _address(host: str, port: int, token: str | None) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{shown}]" if ":" in shown else shown
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")


def _stopped(_: int, __: Any) -> None:
    """By now there is nothing left to stop."""
