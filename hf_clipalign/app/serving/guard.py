"""Which requests are answered: those of the page itself, from this machine's own names, without any file in them.

Gradio answers many more: it hands out files of its cache, loads files of other hosts that a request names, forwards to
proxies. None of that is needed here, and what is not on the list below gets the status 404.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ANSWERED = {
    "GET": re.compile(
        r"/(?:|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt"
        r"|thumbnails/\d{1,9}|images/\d{1,9}|ui/app\.(?:js|css)"
        r"|(?:assets|static)/[\w./-]+"
        r"|gradio_api/(?:info|startup-events|queue/data|theme\.css|app_id|heartbeat/\w+))"
    ),
    "POST": re.compile(r"/(?:uploads|gradio_api/(?:queue/join|cancel|reset))"),
}
"""Paths of each method."""

MAX_BODY = 2**20
"""Bytes of a request other than an upload: a query and the positions of sliders."""

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'; object-src 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Stands before an ASGI application.

    Args:
        app (ASGI application): what answers.
        is_local (`bool`): the server is bound to this machine only: then requests must name it as their host, so that
            a page of another site cannot reach it under a name of its own (DNS rebinding).
    """

    def __init__(self, app: Any, is_local: bool) -> None:
        self.app, self.is_local = app, is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self.refusal(scope["method"], scope["path"], headers):
            await answer_json(send, *refusal)
            return
        if scope["method"] == "POST" and scope["path"] != "/uploads":
            body = await read_body(receive, MAX_BODY)
            if body is None or not is_plain(body):
                await answer_json(send, 400, "this request is not one of the page.")
                return
            receive = _replayed(body, receive)
        await self.app(scope, receive, _with_headers(send))

    def refusal(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason for a request that is not answered."""
        if self.is_local and not is_local_host(headers.get("host", "")):
            return 403, "this app answers to 127.0.0.1 and localhost only."
        site = headers.get("sec-fetch-site", "same-origin")
        if method == "POST" and site not in ("same-origin", "none"):
            return 403, "this request comes from another site."
        pattern = ANSWERED.get("GET" if method == "HEAD" else method)
        if pattern is None or not pattern.fullmatch(path) or ".." in path:
            return 404, "there is nothing here."
        return None


def is_local_host(host: str) -> bool:
    """Whether the `Host` of a request names this machine."""
    name = host if host.endswith("]") else host.rsplit(":", 1)[0] if ":" in host else host
    return name.lower() in _LOOPBACK


def is_plain(body: bytes) -> bool:
    """Whether the values of an event are texts and numbers: a file that is described in one would be looked for."""
    if not body:
        return True
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(event, dict):
        return False
    values = event.get("data") or []
    if not isinstance(values, list):
        return False
    return all(value is None or isinstance(value, (str, int, float, bool)) for value in values)


async def read_body(receive: Receive, most: int) -> bytes | None:
    """The body of a request; None if it is longer than `most` bytes."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


async def answer_json(send: Send, status: int, error: str) -> None:
    """Answers with a status and a line."""
    body = json.dumps({"error": error}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **_HEADERS}
    start = {"type": "http.response.start", "status": status, "headers": _encoded(headers)}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Receive:
    is_read = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def extended(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in _encoded(_HEADERS)}
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in own]
            message = {**message, "headers": [*kept, *_encoded(_HEADERS)]}
        await send(message)

    return extended


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
