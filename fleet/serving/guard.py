"""Before any route: who asks, how often, how much and how slowly. Plain ASGI.

The whole body is read here, within bounds of size and time, so that no route waits for a client. It
refuses what is nested too deeply, or is not UTF-8, before anything parses it. Every request is
counted and gets an id. Where no token is needed, a site that a browser visits could make its name
point at this machine (DNS rebinding) and ask with what the browser lends it: so there the Host
header must be a name of this server. Knows no model.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from fleet.page.guard import name_of
from fleet.serving.errors import (
    ApiError,
    BadRequestError,
    BusyError,
    FailedError,
    ForbiddenError,
    SlowClientError,
    TooLargeError,
    UnauthorizedError,
)
from fleet.serving.metrics import Metrics
from fleet.serving.rates import Buckets
from fleet.serving.settings import LimitSettings
from fleet.serving.tokens import Secrets

LOG = logging.getLogger("fleet.serving")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz")
"""Without a token and without a bucket: whoever watches must get through."""
ADMIN = ("/admin/", "/v1/feedback/status")
"""Paths that begin so need the admin's token."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Guard:
    """Wraps an app."""

    def __init__(
        self,
        app: App,
        *,
        secrets: Secrets,
        limits: LimitSettings,
        metrics: Metrics,
        hosts: Iterable[str],
    ) -> None:
        """
        Args:
            hosts: names that the Host header may say where no token is needed.
        """
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._secrets = secrets
        self._limits = limits
        self._metrics = metrics
        self._buckets = Buckets(per_minute=limits.requests_per_minute, burst=limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        request_id = uuid.uuid4().hex
        status = 500
        begun = whole = False

        async def told(message: Message) -> None:
            nonlocal status, begun, whole
            if message["type"] == "http.response.body":
                whole = not message.get("more_body", False)
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            client = self._admit(scope)
            body = await self._body(scope, receive)
            scope["state"] = {**scope.get("state", {}), "client": client, "request_id": request_id}
            await self._app(scope, _replay(body, receive), told)
        except ApiError as error:
            await refuse(told, error)
        except Exception:
            LOG.exception("request %s failed", request_id)
            if begun and not whole:
                raise
            if not begun:
                await refuse(told, failure(request_id))
        finally:
            self._metrics.request(scope["path"], status, time.monotonic() - began_s)

    def _admit(self, scope: Scope) -> str:
        """What stands for the client.

        Raises:
            UnauthorizedError, ForbiddenError, BusyError: it is not let in.
        """
        if not self._secrets.required and name_of(_header(scope, b"host")) not in self._hosts:
            raise _WrongHostError("This host name is not served here.", code="host_not_served")
        path = scope["path"]
        if path in OPEN:
            return "anonymous"
        token = _bearer(scope)
        right = self._secrets.right(token)
        if path.startswith(ADMIN) and self._secrets.admin is not None:
            if right != "admin":
                error = UnauthorizedError if right == "nobody" else ForbiddenError
                raise error("This needs the admin's token.", code="admin_only")
        elif right == "nobody":
            said = "No bearer token." if token is None else "Wrong bearer token."
            raise UnauthorizedError(said, code="invalid_api_key")
        client = self._secrets.name(token) if self._secrets.required else "anonymous"
        wait_s = self._buckets.take(client)
        if wait_s > 0:
            raise BusyError(
                f"Too many requests; the next one is free in {wait_s:.1f} s.",
                code="rate_limit_exceeded",
                retry_after_s=wait_s,
            )
        return client

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        most = self._limits.body_bytes
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            raise TooLargeError(f"The body has {int(length)} bytes; at most {most}.")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise BadRequestError("The client left before its request was complete.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise TooLargeError(f"The body has more than {most} bytes.")
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise SlowClientError(
                f"The request was not complete after {self._limits.body_s:g} s."
            ) from None
        body = b"".join(parts)
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if body and kind != b"application/json":
                raise _WrongTypeError("Send JSON, with Content-Type: application/json.")
            _require_utf8(body)
            if depth(body, self._limits.json_depth):
                raise BadRequestError(
                    f"The body is nested deeper than {self._limits.json_depth} levels."
                )
            _require_text(body)
        return body


class _WrongTypeError(BadRequestError):
    status = 415


class _WrongHostError(BadRequestError):
    status = 421


def failure(request_id: str) -> FailedError:
    """What is said of a fault that nobody foresaw."""
    return FailedError(f"Something failed here; it is logged as {request_id}.")


def depth(body: bytes, most: int) -> bool:
    """Whether JSON is nested deeper than `most`, without parsing it."""
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    level = 0
    for byte in _STRINGS.sub(b"", body).translate(None, _NOT_BRACKETS):
        level += 1 if byte in b"[{" else -1
        if level > most:
            return True
    return False


def _require_utf8(body: bytes) -> None:
    """Python's parser would also guess UTF-16 and UTF-32, which `depth` does not read."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequestError("The body is not UTF-8.", code="invalid_encoding") from None
    if b"\0" in body or body.startswith(b"\xef\xbb\xbf"):
        raise BadRequestError(
            "The body begins with a byte order mark or holds a zero byte: send plain UTF-8.",
            code="invalid_encoding",
        )


def _require_text(body: bytes) -> None:
    """Half a surrogate pair is valid in JSON and no text: nothing further on could encode it."""
    if not _SURROGATE.search(body):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequestError("The body holds half a surrogate pair.") from None
    except ValueError:
        return  # no JSON: the route says so


async def refuse(send: Send, error: ApiError) -> None:
    """An error as a whole response."""
    content = json.dumps(error.body()).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    if isinstance(error, TooLargeError | SlowClientError):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _header(scope: Scope, wanted: bytes) -> str:
    """The first header of this name; empty where there is none."""
    found = (value for name, value in scope["headers"] if name == wanted)
    return next(found, b"").decode("latin-1")


def _bearer(scope: Scope) -> str | None:
    kind, _, token = _header(scope, b"authorization").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then whatever follows: the client leaving."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
