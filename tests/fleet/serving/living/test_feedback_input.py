"""What is refused, and how; whose aliases a learner follows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import pytest
from living_shop import CHANGED, LINE, LivingShop, teach

from bem import load_base
from fleet.errors import StorageError
from fleet.serving import trial
from fleet.serving.living.learner import Learner
from fleet.serving.living.source import Place, follow
from fleet.serving.living.spool import Spool
from fleet.serving.server import Server
from fleet.serving.tokens import ADMIN_VARIABLE, TOKENS_VARIABLE, read_secrets

Opened = Callable[..., AbstractContextManager[tuple[Server, httpx2.Client]]]
GOOD = {"model": LINE, "prompt": "send: i", "completion": "(j)"}


def test_bad_feedback_is_refused_in_openais_form(living: LivingShop, opened: Opened) -> None:
    base = load_base(living.base_folder)
    trial.register(
        living.registry, "adapter", "P", trial.adapter(base, 1, kind="lora", rank=2), base=base
    )
    living.fields["living"] = {"tokens": 32}
    with opened(living) as (server, http):

        def told(**changes: Any) -> tuple[int, Any]:
            answer = http.post("/v1/feedback", json=GOOD | changes)
            return answer.status_code, answer.json()["error"]["code"]

        assert told(model="nobody") == (404, "model_not_found")
        assert told(model="base") == (400, "not_online")
        assert told(model="P") == (400, "not_online")
        assert told(prompt="a" * 500) == (400, "bad_feedback")
        assert told(prompt="")[0] == told(completion="")[0] == 400
        assert told(completion=False)[0] == told(request_id="")[0] == 400
        assert told(path="/etc/passwd") == (400, "unknown_parameter")
        assert told(prompt="a" * (1 << 21))[0] == 413
        assert server.desk.status()["learners"] == {}  # nothing of it started one


def test_a_full_queue_says_when_to_come_back(living: LivingShop, opened: Opened) -> None:
    living.fields["living"] = {"queue": 1}
    with opened(living) as (server, http):
        spool = Spool(living.registry, LINE, base=server.base.digest, most=1)
        idle = Learner(living.registry, spool, load_base, server.metrics, queue=1)  # type: ignore[arg-type]
        server.desk._learners[LINE] = idle
        first, second = teach(http, CHANGED, 2)
        assert first.status_code == 202
        assert second.status_code == 429
        assert second.json()["error"]["code"] == "feedback_queue_full"
        assert int(second.headers["retry-after"]) >= 1


def test_the_event_loop_goes_on_while_a_learner_begins(
    living: LivingShop, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning verifies a model, which takes seconds; nobody else waits for it."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> Any:
        begun.set()
        assert go_on.wait(30)
        raise StorageError(f"{living.registry}: a file that nobody outside should hear of")

    boss = "admin-token-0123456789"
    secrets = read_secrets(None, None, {ADMIN_VARIABLE: boss})
    with opened(living, secrets) as (_, http), ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr("fleet.serving.living.learner.find_start", slow)
        told = pool.submit(http.post, "/v1/feedback", json=GOOD)
        assert begun.wait(30)
        headers = {"Authorization": f"Bearer {boss}"}
        try:
            asked = http.get("/v1/feedback/status", headers=headers, timeout=5)
            assert asked.json()["learners"] == {}
            assert http.get("/healthz", timeout=5).status_code == 200
        finally:
            go_on.set()
        answer = told.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "learner_unready")
    assert "registry" not in answer.text


def test_tokens(living: LivingShop, opened: Opened) -> None:
    client, boss = "client-token-0123456789", "admin-token-0123456789"
    secrets = read_secrets(None, None, {TOKENS_VARIABLE: client, ADMIN_VARIABLE: boss})
    with opened(living, secrets) as (_, http):

        def get(token: str | None) -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return http.get("/v1/feedback/status", headers=headers).status_code

        assert http.post("/v1/feedback", json=GOOD).status_code == 401
        headers = {"Authorization": f"Bearer {client}"}
        made = http.post("/v1/feedback", json=GOOD | {"request_id": "r1"}, headers=headers)
        assert (made.status_code, made.json()["id"]) == (202, "r1")
        assert [get(None), get(client), get(boss)] == [401, 403, 200]


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        ({"champion": "a", "canary": "b"}, Place(champion="a", own_canary="b")),
        ({"champion": "b", "previous": "a"}, Place(champion="b", own_canary=None)),
        ({"champion": "a"}, None),
        ({"champion": "c", "canary": "b"}, None),
        ({"champion": "a", "canary": "c"}, None),
    ],
)
def test_whose_alias_it_is(aliases: dict[str, str], expected: Place | None) -> None:
    assert follow(Place(champion="a", own_canary="b"), aliases) == expected
