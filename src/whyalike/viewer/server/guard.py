"""Who may ask: checked of every request, before anything else looks at it."""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class Access:
    """Who is answered.

    Args:
        hosts: names in the Host header that are this server's own. A page of a stranger whose name
            was made to point here ("DNS rebinding") comes with the stranger's name.
        addresses: whether any address, which is no name, is one as well.
        token: what a client must know; None where only this machine can reach the server.
        port: of the server, by which its cookie is told from those of others on this machine.
    """

    hosts: frozenset[str]
    addresses: bool
    token: str | None
    port: int

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds the token."""
        return f"whyalike-{self.port}"

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower().removesuffix(".")
        return name in self.hosts or (self.addresses and _is_address(name))

    def holds(self, given: str | None) -> bool:
        """Whether a token is the right one; it takes as long for any that is wrong."""
        if self.token is None:
            return True
        return secrets.compare_digest((given or "").encode(), self.token.encode())


def access_to(host: str, port: int, token: str | None, names: frozenset[str]) -> Access:
    """The rules of a server that is bound to a host; `names` are others that it goes by."""
    return Access(LOOPBACK | {host.lower()} | names, not is_loopback(host), token, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound to a host."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


class Guard:
    """An app that answers only to who may ask, and whose answers all have the same headers."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return  # there are no websockets here

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in {**HEADERS, "cache-control": "no-store"}.items()
                        if name.encode() not in given
                    ),
                ]
            await send(message)

        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(send_with_headers, *refusal)
        elif (token := _token_in_address(scope)) is not None:
            await self._welcome(send_with_headers, token)
        elif not self._access.holds(self._given(headers)):
            await _refuse(
                send_with_headers, 401,
                "open the address with the token that `whyalike serve` has printed",
            )  # fmt: skip
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(
        self, scope: Mapping[str, Any], headers: dict[str, list[str]]
    ) -> tuple[int, str] | None:
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._access.knows(hosts[0]):
            names = ", ".join(sorted(self._access.hosts))
            return 403, f"this server answers to the names {names}; open one of these"
        origins = headers.get("origin", [])
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return 403, "only this server's own pages may ask"
        site = headers.get("sec-fetch-site", ["none"])[-1]
        if site not in ("same-origin", "none"):
            # A link from elsewhere may open the page; nothing else may come from there.
            mode = headers.get("sec-fetch-mode", [""])[-1]
            if not (mode == "navigate" and scope["method"] == "GET" and scope["path"] == "/"):
                return 403, "only this server's own pages may ask"
        return None

    def _given(self, headers: dict[str, list[str]]) -> str | None:
        """The token that a request brings, as a bearer's or in the cookie."""
        for value in headers.get("authorization", []):
            kind, _, token = value.partition(" ")
            if kind.lower() == "bearer":
                return token.strip()
        try:
            cookies = SimpleCookie("; ".join(headers.get("cookie", [])))
        except CookieError:
            return None
        found = cookies.get(self._access.cookie)
        return None if found is None else found.value

    async def _welcome(self, send: Send, token: str) -> None:
        """Put the token of the address into a cookie, and leave an address without it behind."""
        if not self._access.holds(token):
            await _refuse(send, 401, "the token is another one; `whyalike serve` has printed it")
            return
        headers = [(b"location", b"/"), (b"content-length", b"0")]
        if self._access.token is not None:
            cookie = f"{self._access.cookie}={token}; HttpOnly; SameSite=Strict; Path=/"
            headers.append((b"set-cookie", cookie.encode()))
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _token_in_address(scope: Mapping[str, Any]) -> str | None:
    if scope["path"] != "/" or scope["method"] != "GET":
        return None
    found = re.fullmatch(rb"token=([A-Za-z0-9._~-]{1,200})", scope["query_string"])
    return None if found is None else found[1].decode()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
