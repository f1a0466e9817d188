"""A request lets its model go however it ends, and never waits for ever."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest
from fake_shop import Shop

from bem import load_base
from fleet.serving import answering as answering_module
from fleet.serving.answering import Answering
from fleet.serving.app import build_api
from fleet.serving.errors import DeadlineError
from fleet.serving.guard import Guard
from fleet.serving.local import serving
from fleet.serving.server import Server
from fleet.serving.tokens import Secrets
from fleet.serving.traffic import BASE, Resolved

BODY = {"model": "tiny:P", "prompt": "x", "max_tokens": 400}


@pytest.fixture(scope="module")
def own(shop: Shop) -> Iterator[Server]:
    server = Server(shop.settings(), base=load_base(shop.base.folder))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def held(server: Server) -> int:
    return sum(server.shelf._pins.values())


async def freed(server: Server) -> bool:
    for _ in range(200):
        if held(server) == 0:
            return True
        await asyncio.sleep(0.02)
    return False


def ask(server: Server, body: dict[str, Any], send: Any, receive: Any = None) -> Awaitable[None]:
    """One request, straight to the app."""
    told = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def silent() -> dict[str, Any]:
        if told:
            return told.pop()
        await asyncio.sleep(3600)
        raise AssertionError

    api = build_api(server, Secrets())
    server.outbox.bind(asyncio.get_running_loop())
    guard = Guard(
        api,
        secrets=Secrets(),
        limits=server.settings.limits,
        metrics=server.metrics,
        hosts=("127.0.0.1",),
    )
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    return guard(scope, receive or silent, send)


async def nothing(message: Any) -> None:
    return None


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("more", [{}, {"stream": True}, {"routing": True}])
def test_a_cancelled_request_lets_its_model_go(
    own: Server, after_s: float, more: dict[str, Any]
) -> None:
    """As Ray Serve and a stopping uvicorn do it: the request's task itself is cancelled."""

    async def run() -> bool:
        task = asyncio.ensure_future(ask(own, BODY | more, nothing))
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await freed(own)

    assert asyncio.run(run())


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("more", [{}, {"routing": True}])
def test_a_client_that_leaves_lets_its_model_go(
    own: Server, after_s: float, more: dict[str, Any]
) -> None:
    """Before its answer is whole: nothing but a status is sent, and the request ends in order."""
    sent: list[Any] = []

    async def run() -> bool:
        told = [{"type": "http.request", "body": json.dumps(BODY | more).encode()}]

        async def leaving() -> dict[str, Any]:
            if told:
                return told.pop()
            await asyncio.sleep(after_s)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        task = asyncio.ensure_future(ask(own, {}, send, leaving))
        await asyncio.wait_for(task, 30)
        assert task.cancelling() == 0
        return await freed(own)

    assert asyncio.run(run())
    assert [message.get("status") for message in sent] == [499, None]


def test_a_request_cancelled_while_it_begins_lets_its_model_go(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(asking: Any) -> None:
        await asyncio.sleep(0.2)

    monkeypatch.setattr("fleet.serving.by_adapters.answer", slow)

    async def run() -> bool:
        task = asyncio.ensure_future(ask(own, BODY, nothing))
        while held(own) == 0:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await freed(own)

    assert asyncio.run(run())


def test_a_stream_whose_first_byte_cannot_be_sent_lets_its_model_go(own: Server) -> None:
    async def broken(message: Any) -> None:
        raise OSError("gone")

    async def run() -> bool:
        await asyncio.gather(ask(own, BODY | {"stream": True}, broken), return_exceptions=True)
        return await freed(own)

    assert asyncio.run(run())


def test_an_engine_that_says_nothing_ends_in_a_deadline(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering_module, "GRACE_S", 0.05)

    async def run() -> None:
        waiting = Answering(
            server=own,
            resolved=Resolved(model=BASE, line=BASE, role="base"),
            loaded=None,
            deadline_s=time.monotonic() + 0.05,
        )
        try:
            async for _ in waiting.events():
                raise AssertionError("nothing was asked")
        finally:
            waiting.close()

    with pytest.raises(DeadlineError):
        asyncio.run(run())


Break = Callable[[pytest.MonkeyPatch], None]


def break_route(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("fleet.serving.app.Form", fault)


def break_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> Any:
        raise RuntimeError("secret /path/of/ours")
        yield

    monkeypatch.setattr("fleet.serving.by_planner.plan_answer", fault)


@pytest.mark.parametrize(
    ("broken", "model", "code"), [(break_route, BASE, None), (break_planner, "tiny:A", "failed")]
)
def test_a_fault_has_openai_s_form_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, broken: Break, model: str, code: str | None
) -> None:
    broken(monkeypatch)
    server = Server(shop.settings(), base=load_base(shop.base.folder))
    with serving(server) as url:
        body = {"model": model, "prompt": "find age sefar: sefar job nurse"}
        answer = httpx2.post(f"{url}/v1/completions", json=body)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", code)
    assert "secret" not in answer.text
