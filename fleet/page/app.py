"""The application: addresses to views, views to HTML, and what changed to whoever listens.

A view is made again only when its ledger changed; otherwise the browser's copy is confirmed by its
ETag. Every text passes through the templates' escaping; scripts and styles are files of ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from fleet.errors import FleetError, NotFoundError, StorageError, UsageError
from fleet.ledger.reader import LedgerReader
from fleet.monitor import wording
from fleet.page import changes
from fleet.page.campaign_view import campaign_view
from fleet.page.figures import progress
from fleet.page.fleet_view import fleet_view
from fleet.page.guard import LOOPBACK, REPORT_POLICY, Guard
from fleet.page.mission_view import Look, mission_view
from fleet.page.registry_view import registry_view, said
from fleet.page.run_view import run_view
from fleet.page.traffic import TrafficSource
from fleet.registry.folders import RegistryPaths
from fleet.reporting.compare import compare, side_of
from fleet.settings import REGISTRY_DIR, RunPaths, find_run, list_runs

_HERE = Path(__file__).resolve().parent
_REPORT_STYLE = _HERE.parent.parent / "stats" / "report" / "page.css"
"""The page looks like the report because it uses the report's own style."""
POLL_S = 1.0
SILENCE_S = 15.0
"""A comment is sent after so long without news, so that nobody between takes the line for dead."""
MAX_LISTENERS = 64
MAX_KEPT = 256
"""Pages kept in memory."""


def create_app(
    runs_dir: Path,
    registry_dir: Path = REGISTRY_DIR,
    *,
    hosts: Sequence[str] = LOOPBACK,
    token: str | None = None,
    accepts: Callable[[str], bool] | None = None,
    traffic: TrafficSource | None = None,
) -> FastAPI:
    """The page over the launches of `runs_dir`.

    Args:
        hosts: names that the Host header may have, without ports.
        token: who asks must know it; None asks for none (loopback, or a server that guards itself).
        accepts: says of another token whether it opens the page too; beside `token`, which the
            browser then keeps instead of it.
        traffic: figures of a server that holds the registry's models; None where nobody serves.
    """
    app = FastAPI(title="BEM Fleet", docs_url=None, redoc_url=None, openapi_url=None)
    pages = _Pages(app)
    app.add_middleware(Guard, hosts=hosts, token=token, accepts=accepts)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    listeners = _Listeners()

    def paths_of(run_id: str) -> RunPaths:
        return find_run(runs_dir, run_id)

    @app.get("/", name="fleet")
    def fleet(request: Request, page: int = 1) -> Response:
        view = fleet_view(runs_dir, page)
        return pages.answer(request, "fleet.html", None, lambda: {"view": view, "live": "*"})

    @app.get("/style/report.css", name="report_style")
    def report_style() -> Response:
        return FileResponse(_REPORT_STYLE, media_type="text/css")

    @app.get("/runs/{run_id}", name="campaign")
    def campaign(request: Request, run_id: str) -> Response:
        paths = paths_of(run_id)
        return pages.answer(
            request,
            "campaign.html",
            changes.of_run(paths),
            lambda: {"view": campaign_view(paths), "live": run_id},
        )

    @app.get("/runs/{run_id}/missions/{mission}", name="mission")
    def mission(
        request: Request, run_id: str, mission: str, page: int = 1, metric: str = ""
    ) -> Response:
        paths, look = paths_of(run_id), Look(page=page, metric=metric)
        return pages.answer(
            request,
            "mission.html",
            changes.of_run(paths),
            lambda: {"view": mission_view(paths, mission, look), "live": run_id},
        )

    @app.get("/runs/{run_id}/runs/{run}", name="run")
    def run(request: Request, run_id: str, run: str) -> Response:
        paths = paths_of(run_id)
        return pages.answer(
            request,
            "run.html",
            changes.of_run(paths),
            lambda: {"view": run_view(paths, run), "live": run_id},
        )

    @app.get("/runs/{run_id}/report", name="report")
    def report(run_id: str) -> Response:
        path = paths_of(run_id).report
        if not path.is_file():
            raise NotFoundError(f"Run {run_id} has no report yet.")
        return HTMLResponse(
            path.read_text(encoding="utf-8"), headers={"content-security-policy": REPORT_POLICY}
        )

    @app.get("/registry", name="registry")
    def registry(request: Request) -> Response:
        database = RegistryPaths(root=registry_dir).database
        token = None if traffic is not None else changes.of_folder([], [database])
        return pages.answer(
            request,
            "registry.html",
            token,
            lambda: {"view": registry_view(registry_dir, traffic), "live": "registry"},
        )

    @app.get("/compare", name="compare")
    def compared(request: Request, a: str = "", b: str = "") -> Response:
        names = [paths.run_id for paths in list_runs(runs_dir)]
        found = None
        if a and b:
            with LedgerReader(paths_of(a).ledger) as one, LedgerReader(paths_of(b).ledger) as two:
                found = compare(side_of(one), side_of(two))
        return pages.answer(
            request, "compare.html", None, lambda: {"view": found, "names": names, "a": a, "b": b}
        )

    @app.get("/events", name="events")
    async def events(request: Request, of: str = "*") -> Response:
        def token() -> str:
            if of == "*":
                return changes.of_folder(list_runs(runs_dir))
            if of == "registry":
                told = changes.of_folder([], [RegistryPaths(root=registry_dir).database])
                return told if traffic is None else f"{told} {sum(r.requests for r in traffic())}"
            return changes.of_run(paths_of(of))

        first = await anyio.to_thread.run_sync(token)
        if not listeners.take():
            raise HTTPException(503, "Too many pages listen already.", {"retry-after": "30"})
        return StreamingResponse(
            _news(request, token, first, listeners), media_type="text/event-stream"
        )

    @app.exception_handler(FleetError)
    def failed(request: Request, error: FleetError) -> Response:
        status = 404 if isinstance(error, NotFoundError | UsageError) else 500
        if isinstance(error, StorageError):
            status = 503
        return pages.problem(request, status, str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        answer = pages.problem(request, error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    return app


class _Listeners:
    """How many streams are open."""

    def __init__(self) -> None:
        self._count = 0
        self._guard = threading.Lock()

    def take(self) -> bool:
        with self._guard:
            if self._count >= MAX_LISTENERS:
                return False
            self._count += 1
            return True

    def give_back(self) -> None:
        with self._guard:
            self._count -= 1


async def _news(
    request: Request, token: Callable[[], str], first: str, listeners: _Listeners
) -> AsyncIterator[bytes]:
    """An event whenever the token changes."""
    try:
        last, silent = first, 0.0
        yield f"retry: 3000\ndata: {json.dumps(last)}\n\n".encode()
        while not await request.is_disconnected():
            await asyncio.sleep(POLL_S)
            silent += POLL_S
            now = await anyio.to_thread.run_sync(token)
            if now != last:
                last, silent = now, 0.0
                yield f"data: {json.dumps(now)}\n\n".encode()
            elif silent >= SILENCE_S:
                silent = 0.0
                yield b": nothing new\n\n"
    except FleetError:
        return  # the launch was moved away while somebody watched: the stream ends
    finally:
        listeners.give_back()


class _Pages:
    """Templates, and the pages that were made last."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._kept: OrderedDict[tuple[str, str], tuple[str, bytes, str]] = OrderedDict()
        self._guard = threading.Lock()
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(words=wording, said=said, bars=progress)
        static = [*sorted((_HERE / "static").iterdir()), _REPORT_STYLE]
        self._version = hashlib.sha256(b"".join(p.read_bytes() for p in static)).hexdigest()[:10]

    def answer(
        self,
        request: Request,
        template: str,
        token: str | None,
        make: Callable[[], dict[str, Any]],
    ) -> Response:
        """The page, from memory where the token is that of last time; 304 where the browser has it.

        Args:
            token: what the page depends on; None: make it again.
        """
        root = str(request.scope.get("root_path", ""))
        key = (template, f"{root} {request.url.path}?{request.url.query}")
        with self._guard:
            kept = self._kept.get(key)
        if kept is None or token is None or kept[0] != token:
            body = self._render(request, template, make())
            kept = (token or "", body, f'"{hashlib.sha256(body).hexdigest()[:20]}"')
            with self._guard:
                self._kept[key] = kept
                self._kept.move_to_end(key)
                while len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
        headers = {"etag": kept[2], "cache-control": "no-cache"}
        if kept[2] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(kept[1], media_type="text/html; charset=utf-8", headers=headers)

    def problem(self, request: Request, status: int, text: str) -> Response:
        """An error as a page."""
        body = self._render(request, "problem.html", {"status": status, "text": text})
        return Response(body, status_code=status, media_type="text/html; charset=utf-8")

    def _render(self, request: Request, template: str, fields: dict[str, Any]) -> bytes:
        root = str(request.scope.get("root_path", "")).rstrip("/")

        def link(name: str, **parts: Any) -> str:
            query = parts.pop("query", None)
            path = f"{root}{self._app.url_path_for(name, **parts)}"
            return f"{path}?{_query(query)}" if query else path

        return (
            self._templates.get_template(template)
            .render(link=link, version=self._version, **{"live": "", **fields})
            .encode()
        )


def _query(parts: dict[str, Any]) -> str:
    return urlencode({name: value for name, value in parts.items() if value not in ("", None)})
