"""Who may see the page: allowed hosts, the token, and the headers that every answer carries.

A page on loopback can be read by any site that a browser visits, if that site's name is made to
point at 127.0.0.1 (DNS rebinding): so the Host header must be one that is allowed. Beyond loopback
a token is needed as well: as a bearer, or once as `?token=`, which becomes a cookie that scripts
cannot read. ASGI only; it knows no view.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "bem_fleet_page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""Of a launch's own report, one self-contained file: styles and pictures inside, no script."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        token: str | None,
        accepts: Callable[[str], bool] | None = None,
    ) -> None:
        self._app = app
        self._accepts = accepts
        self._hosts = frozenset(host.lower() for host in hosts)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        refused = self._refusal(scope)
        await (refused or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if name_of(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This host name is not served here.\n", status_code=421)
        if self._token is None:
            return None
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token")
        if given is not None and self._fits(given):
            return self._signed_in(scope)
        bearer = headers.get("authorization", "").partition(" ")
        if bearer[0].lower() == "bearer" and self._fits(bearer[2]):
            return None
        if self._fits(_cookie(headers)):
            return None
        return PlainTextResponse(
            "This page needs a token: of `fleet.py watch --web` the one that it printed, of "
            "`fleet.py serve` the admin's. Open the address with `?token=TOKEN`, or send "
            "`Authorization: Bearer TOKEN`.\n",
            status_code=401,
            headers={"www-authenticate": 'Bearer realm="bem-fleet"'},
        )

    def _fits(self, given: str) -> bool:
        if self._token is not None and hmac.compare_digest(given.encode(), self._token.encode()):
            return True
        return self._accepts is not None and self._accepts(given)

    def _signed_in(self, scope: Scope) -> Response:
        """The same address without the token, and the cookie that stands for it."""
        left = [
            (k, v) for k, v in parse_qsl(scope["query_string"].decode("latin-1")) if k != "token"
        ]
        # A path that begins with two slashes would be read as another host's name.
        path = "/" + str(scope["path"]).lstrip("/")
        answer = RedirectResponse(f"{path}?{urlencode(left)}" if left else path, status_code=303)
        assert self._token is not None
        answer.set_cookie(
            COOKIE,
            self._token,
            httponly=True,
            samesite="strict",
            secure=scope.get("scheme") == "https",
            path=scope.get("root_path") or "/",
        )
        return answer


def name_of(host: str) -> str:
    """Host header without its port."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[: text.find("]") + 1]
    return text.rpartition(":")[0] if ":" in text else text


def _cookie(headers: Headers) -> str:
    jar = SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""
