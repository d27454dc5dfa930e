"""A server around a small gallery, in a thread, and clients that say exactly what they like."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

import whyalike as wa
from whyalike.viewer.server.running import serve


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        """What it says."""
        return json.loads(self.content)


@dataclass(frozen=True)
class Client:
    """Of one server."""

    address: str
    token: str | None = None

    @property
    def port(self) -> int:
        """Of the server."""
        return urlsplit(self.address).port or 0

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; the path goes as it is, a dict as JSON, bytes and iterators as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = dict(headers or {})
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        if self.token is not None:
            given.setdefault("Authorization", f"Bearer {self.token}")
        connection.putrequest(
            method or ("GET" if body is None else "POST"), path,
            skip_host="Host" in given, skip_accept_encoding=True,
        )  # fmt: skip
        if isinstance(body, bytes):
            given.setdefault("Content-Length", str(len(body)))
        elif body is not None:
            given["Transfer-Encoding"] = "chunked"
        for name, value in given.items():
            for one in value.split("\n"):
                connection.putheader(name, one)
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # an answer may come before all has been sent
            connection.endheaders(body, encode_chunked="Transfer-Encoding" in given)
        found = connection.getresponse()
        answer = Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        connection.close()
        return answer

    def photos(self, **query: Any) -> list[dict[str, Any]]:
        """What the gallery lists."""
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return self.ask(f"/api/photos?limit=200&{asked}").json()["photos"]


@contextmanager
def serving(
    path: Path, load: Callable[[], wa.EmbeddingModel], port: int = 0, **options: Any
) -> Iterator[Client]:
    """A server of a gallery, stopped at the end."""
    made = serve(lambda: wa.Gallery.open(path), load, port=port, **options)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield Client(made.address.partition("?")[0], made.token)
    finally:
        made.server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def png(image: Image.Image) -> bytes:
    """A file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
