"""The live page at /fleet beside the API: two applications on one port, each behind its own guard.

The page reads the launches' ledgers and the registry, and is told of this process's traffic. Who
sees it: on loopback, without any token, everyone on this machine, as `fleet.py watch --web`; else
whoever brings the admin's token, once as `?token=` or as a bearer. Where clients need tokens and
there is no admin's, there is no page. What the browser keeps is a key made from the admin's token:
it opens the page and nothing of the API.
"""

from __future__ import annotations

import hashlib
import socket

from starlette.responses import RedirectResponse
from starlette.routing import Match, Mount

from fleet.page.app import create_app
from fleet.page.guard import LOOPBACK
from fleet.serving.guard import App, Receive, Scope, Send
from fleet.serving.server import Server
from fleet.serving.settings import ServingSettings
from fleet.serving.tokens import Secrets

AT = "/fleet"


def with_page(api: App, server: Server, secrets: Secrets) -> App:
    """The API, with the page beside it where somebody may see it."""
    if not secrets.page:
        return api
    page = create_app(
        server.settings.runs,
        server.settings.registry,
        hosts=host_names(server.settings),
        token=page_key(secrets),
        accepts=lambda given: secrets.admin is not None and secrets.right(given) == "admin",
        traffic=lambda: server.traffic.rows(server.shelf.view.table),
    )
    return Beside(api, page)


class Beside:
    """`/fleet` and what is under it goes to the page, everything else to the API."""

    def __init__(self, api: App, page: App) -> None:
        self._api = api
        self._page = Mount(AT, app=page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == AT:
                query = scope["query_string"].decode("latin-1")
                where = f"{scope.get('root_path', '')}{AT}/"
                moved = RedirectResponse(f"{where}?{query}" if query else where, status_code=307)
                await moved(scope, receive, send)
                return
            match, child = self._page.matches(scope)
            if match is not Match.NONE:
                await self._page.handle({**scope, **child}, receive, send)
                return
        await self._api(scope, receive, send)


def host_names(settings: ServingSettings) -> tuple[str, ...]:
    """What the Host header may say."""
    own = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
    return (*LOOPBACK, f"[{own}]" if ":" in own else own, *settings.page_hosts)


def page_key(secrets: Secrets) -> str | None:
    """What the browser's cookie holds: from it nobody finds the token that it was made from."""
    if secrets.admin is None:
        return None
    return hashlib.sha256(f"page\0{secrets.admin}".encode()).hexdigest()
