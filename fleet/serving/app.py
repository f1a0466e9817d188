"""The routes: OpenAI's three, health, metrics, and the admin's look inside. FastAPI.

`build_app` is all that a process needs over its `Server`; whoever runs it decides how (uvicorn,
Ray Serve). No route takes a path, and none loads anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Annotated, Any

from fastapi import Body as JsonBody
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import StringConstraints
from starlette.exceptions import HTTPException

from fleet.serving.answering import Answering
from fleet.serving.answers import Answerer
from fleet.serving.asking import Body
from fleet.serving.documents import describe, responses
from fleet.serving.errors import (
    ApiError,
    BadRequestError,
    UnreadyError,
    error_body,
)
from fleet.serving.guard import App, Guard, Receive, Scope, Send, failure
from fleet.serving.live_page import host_names, with_page
from fleet.serving.living.routes import add_feedback
from fleet.serving.presence import WhileThere
from fleet.serving.render import DONE, Choice, Form, sse
from fleet.serving.schemas import ChatBody, CompletionBody
from fleet.serving.server import Server
from fleet.serving.tokens import Secrets
from fleet.serving.traffic import BASE

LOG = logging.getLogger("fleet.serving")
Key = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=256)] | None,
    Header(alias="x-request-key", description="Decides, before `user`, who meets a canary."),
]


def build_app(server: Server, secrets: Secrets) -> App:
    """The guarded app over a started server, and the page at /fleet."""
    api = build_api(server, secrets)
    guarded = Guard(
        api,
        secrets=secrets,
        limits=server.settings.limits,
        metrics=server.metrics,
        hosts=host_names(server.settings),
    )
    return with_page(guarded, server, secrets)


def build_api(server: Server, secrets: Secrets) -> FastAPI:
    """The routes without their guard."""
    answerer = Answerer(server)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        server.outbox.bind(asyncio.get_running_loop())
        yield

    api = FastAPI(
        title="BEM Fleet serving",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        redirect_slashes=False,
    )
    describe(
        api,
        auth=secrets.required,
        max_tokens=server.settings.limits.max_tokens,
        names=answerer.prompts.templated,
    )
    add_feedback(api, server.desk, admin=secrets.admin is not None)
    if secrets.admin is not None:
        _add_admin(api, server)

    @api.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status, error.headers())

    @api.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse(_first_wrong(error).body(), 400)

    @api.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        kind = "invalid_request_error" if error.status_code < 500 else "server_error"
        return JSONResponse(
            error_body(str(error.detail), kind), error.status_code, headers=error.headers
        )

    @api.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> Response:
        """Starlette answers so and raises it again: the guard logs it."""
        told = failure(request.scope["state"]["request_id"])
        return JSONResponse(told.body(), told.status)

    @api.post("/v1/completions", responses=responses("completion"))
    async def completions(
        request: Request, body: Annotated[CompletionBody, JsonBody()], key: Key = None
    ) -> Response:
        """Continue a prompt."""
        return await _answer(request, body, key, chat=False)

    @api.post("/v1/chat/completions", responses=responses("chat"))
    async def chat_completions(
        request: Request, body: Annotated[ChatBody, JsonBody()], key: Key = None
    ) -> Response:
        """Answer a chat."""
        return await _answer(request, body, key, chat=True)

    @api.get("/v1/models", responses=responses("models"))
    async def models() -> Response:
        """Every name that may stand as `model`."""
        return JSONResponse({"object": "list", "data": list_models(server)})

    @api.get("/healthz", responses=responses("health"))
    async def healthz() -> Response:
        """200 while the engine works."""
        problem = server.problem()
        return JSONResponse({"ok": not problem, "problem": problem}, 503 if problem else 200)

    @api.get("/readyz", responses=responses("health"))
    async def readyz() -> Response:
        """200 once what the registry names is loaded."""
        problem = server.problem()
        if server.shelf.view.version < 0:
            problem = problem or "the registry has not been read yet"
        return JSONResponse({"ok": not problem, "problem": problem}, 503 if problem else 200)

    @api.get("/metrics", responses=responses("metrics"))
    async def metrics() -> Response:
        """For Prometheus."""
        page = server.metrics.page(
            server.engine.load, len(server.sessions), server.sessions.num_bytes
        )
        return Response(page, media_type="text/plain; version=0.0.4")

    async def _answer(request: Request, body: Body, key: str | None, *, chat: bool) -> Response:
        if server.shelf.view.version < 0 or server.problem():
            raise UnreadyError("The server is not ready.", retry_after_s=2.0)
        state = request.scope["state"]
        logprobs = body.logprobs is not None and body.logprobs is not False
        answering: Answering | None = None
        async with WhileThere(request) as client:
            answering = await answerer.begin(body, client=state["client"], key=key)
            form = Form(
                answering,
                server.base.tokenizer,
                chat=chat,
                id=state["request_id"],
                created_s=int(time.time()),
            )
            if not body.stream:
                with closing(answering):
                    choices = await _gather(answering)
                    return JSONResponse(form.whole(choices, logprobs=logprobs))
        if client.left or answering is None:
            if answering is not None:
                answering.close()
            return Response(status_code=499)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return Streamed(
            _stream(answering, form, logprobs=logprobs, usage=usage),
            answering,
            read_s=server.settings.limits.body_s,
        )

    return api


class Streamed(StreamingResponse):
    """An answer in events; it lets its model go however it ends, begun or not."""

    def __init__(
        self, events: AsyncIterator[bytes], answering: Answering, *, read_s: float
    ) -> None:
        """`read_s`: how much longer than the answer a client may take to read it."""
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._answering = answering
        self._read_s = read_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._answering.left_s() + self._read_s):
                await super().__call__(scope, receive, send)
        except TimeoutError:  # nothing more can be said to it; the connection is closed
            LOG.warning("a client did not read its answer in time")
        finally:
            self._answering.close()


def _add_admin(api: FastAPI, server: Server) -> None:
    """Routes for whoever runs the server."""

    @api.get("/admin/state", responses=responses("admin"))
    async def state() -> Response:
        """What is served, what is not and why, how busy the engine is."""
        return JSONResponse(describe_state(server))

    @api.post("/admin/refresh", responses=responses("admin"))
    async def refresh() -> Response:
        """Look at the registry now instead of at the next poll."""
        await asyncio.to_thread(server.refresh)
        return JSONResponse(describe_state(server))


async def _gather(answering: Answering) -> list[Choice]:
    choices = [Choice() for _ in range(answering.num_choices)]
    async for told in answering.events():
        choices[told.index].add(told.event)
    return choices


async def _stream(
    answering: Answering, form: Form, *, logprobs: bool, usage: bool
) -> AsyncIterator[bytes]:
    """Server-sent events; a fault after the first one is an event too, and no [DONE] follows."""
    choices = [Choice() for _ in range(answering.num_choices)]
    try:
        async for told in answering.events():
            yield form.chunk(told.index, choices[told.index], told.event, logprobs=logprobs)
        if usage:
            yield form.usage_chunk()
        yield DONE
    except ApiError as error:
        yield sse(error.body())
    finally:
        answering.close()


def _first_wrong(error: RequestValidationError) -> BadRequestError:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "header")]
    kind = str(first["type"])
    if kind == "json_invalid":
        return BadRequestError("The body is not JSON.", code="invalid_json")
    if kind == "extra_forbidden":
        return BadRequestError(
            f"Unknown field '{'.'.join(where)}'.", param=".".join(where), code="unknown_parameter"
        )
    param = ".".join(where) or None
    return BadRequestError(f"{param or 'body'}: {first['msg']}.", param=param, code=kind)


def list_models(server: Server) -> list[dict[str, Any]]:
    """OpenAI's list: the base, every alias and line, every id."""
    view = server.shelf.view
    found = [_model(BASE, server.started_s, {"role": "base"})]
    for name in view.table.names():
        resolved = view.table.resolve(name, "")
        assert resolved is not None
        loaded = view.models[resolved.model]
        more: dict[str, Any] = {
            "id": resolved.model,
            "line": resolved.line,
            "kind": loaded.manifest.kind,
            "verdict": loaded.manifest.lineage.verdict,
        }
        aliases = view.table.lines.get(resolved.line, {})
        if name == resolved.line and "canary" in aliases:
            more |= {"canary": aliases["canary"], "canary_share": view.table.canary_share}
        hints = [h for table in loaded.tables.values() for h in table.hints]
        modes = [m for table in loaded.tables.values() for m in table.modes]
        more |= {"context_hints": hints, "behavioral_modes": modes}
        found.append(_model(name, loaded.created_s, more))
    return found


def _model(name: str, created_s: float, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(created_s),
        "owned_by": "bem-fleet",
        "bem": more,
    }


def describe_state(server: Server) -> dict[str, Any]:
    """For whoever runs the server."""
    view, load = server.shelf.view, server.engine.load
    return {
        "registry_version": view.version,
        "watch_error": server.watch_error,
        "models": sorted(view.models),
        "lines": {line: dict(aliases) for line, aliases in view.table.lines.items()},
        "skipped": dict(view.skipped),
        "swaps": server.shelf.swaps,
        "engine": {name: getattr(load, name) for name in load.__slots__},
        "sessions": {"count": len(server.sessions), "bytes": server.sessions.num_bytes},
    }
