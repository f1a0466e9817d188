"""Feedback moves a shadow; what is served moves by the registry's aliases alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import pytest
from living_shop import (
    BATCH,
    CHANGED,
    EVERY,
    KNOWN,
    LINE,
    LivingShop,
    answer,
    settled,
    status,
    teach,
    wait_for,
)

from bem.data import Encoded
from fleet.page.registry_view import said
from fleet.registry.checking import check
from fleet.registry.reader import RegistryReader
from fleet.registry.shown import print_model, shown
from fleet.serving.living.shadow import Shadow
from fleet.serving.living.spool import Spool
from fleet.serving.server import Server

Opened = Callable[..., AbstractContextManager[tuple[Server, httpx2.Client]]]
POISON = dict.fromkeys(KNOWN, "(no)")
ROUNDS = 12


def follow_registry(server: Server) -> None:
    """The shelf has taken over what the registry says now."""
    wait_for(lambda: server.catalog.version() == server.shelf.view.version)


def until(
    shop: LivingShop, server: Server, http: httpx2.Client, action: str, answers: dict[str, str]
) -> dict[str, Any]:
    """Teaches round by round until a canary run ends so."""
    for _ in range(ROUNDS):
        wanted = EVERY * round_of(server) + EVERY
        assert all(one.status_code == 202 for one in teach(http, answers, EVERY))
        state = settled(server, wanted)
        assert state["state"] == "learning", state
        if state["last_canary"]["action"] == action:
            return state
    raise AssertionError(f"no {action} in {ROUNDS} rounds: {status(server)}")


def round_of(server: Server) -> int:
    learners = server.desk.status()["learners"]
    return int(learners[LINE]["counts"]["learned"]) // EVERY if learners else 0


def test_feedback_teaches_and_only_aliases_move_answers(living: LivingShop, opened: Opened) -> None:
    with opened(living) as (server, http):
        before = answer(http, f"{LINE}@champion", [*KNOWN, *CHANGED])
        assert before[: len(KNOWN)] == list(KNOWN.values())
        page = http.get("/metrics").text
        assert 'bem_serving_feedback_total{outcome="quarantined"} 0.0' in page
        assert 'bem_serving_online_canary_total{action="promote"} 0.0' in page

        until(living, server, http, "promote", CHANGED)
        first = living.aliases()
        assert first["champion"] == living.model
        assert first["canary"] != living.model
        follow_registry(server)
        assert answer(http, f"{LINE}@champion", [*KNOWN, *CHANGED]) == before

        learned: list[str] = []
        for _ in range(ROUNDS):
            until(living, server, http, "promote", CHANGED)
            follow_registry(server)
            learned = answer(http, f"{LINE}@canary", list(CHANGED))
            if learned == list(CHANGED.values()):
                break
        assert learned == list(CHANGED.values())
        taught = living.aliases()["canary"]

        until(living, server, http, "promote", CHANGED)
        assert living.aliases()["champion"] == taught  # a further passed run
        follow_registry(server)
        assert answer(http, f"{LINE}@champion", [*KNOWN, *CHANGED]) == [
            *KNOWN.values(),
            *CHANGED.values(),
        ]
        page = http.get("/metrics").text
        assert 'bem_serving_feedback_total{outcome="learned"} 0.0' not in page

    with RegistryReader(living.registry) as reader:
        assert check(reader).problems == ()
        row = reader.resolve(taught)
        lineage = reader.manifest(row).lineage
        document = shown(reader, row)
        told = [said(link) for link in reader.decisions()]
    assert row.verdict == "online canary"
    assert row.forced == "a trial: it has learnt nothing"  # inherited: the start was forced
    assert lineage.figures[0].estimate == 1.0
    kinds = [link["kind"] for link in document["decisions"]]
    assert kinds.count("online_update") >= 2  # as the model, and as the one promoted
    assert "8 feedback" in document["decisions"][0]["reason"]
    print_model(document)
    assert any(f"{taught} is champion" in line for line in told)  # what the page says


def test_poison_rolls_back_and_is_never_served(living: LivingShop, opened: Opened) -> None:
    with opened(living) as (server, http):
        before = answer(http, LINE, list(KNOWN))
        state = until(living, server, http, "rollback", POISON)
        assert living.aliases() == {"champion": living.model}
        assert answer(http, LINE, list(KNOWN)) == before
        told = living.decisions("online_rollback")[-1]
        with RegistryReader(living.registry) as reader:
            assert "went back" in said(reader.decisions()[-1])
        assert told["canary"] is None
        assert told["quarantined"] == state["counts"]["quarantined"] >= EVERY
        assert state["shadow"]["feedback"] == 0  # forgotten, not only undone

        # With a canary of its own in the traffic: it goes too.
        until(living, server, http, "promote", CHANGED)
        canary = living.aliases()["canary"]
        champion = living.aliases()["champion"]
        follow_registry(server)
        until(living, server, http, "rollback", POISON)
        told = living.decisions("online_rollback")[-1]
        promoted = [one["promoted"] for one in living.decisions("online_update")]
        assert "canary" not in living.aliases()
        assert told["canary"] is not None
        if promoted == [None]:  # the first poisoned run did not pass as well
            assert told["canary"] == canary
            assert living.aliases()["champion"] == champion


def test_a_restart_goes_on_from_the_registry(living: LivingShop, opened: Opened) -> None:
    with opened(living) as (server, http):
        until(living, server, http, "promote", CHANGED)
        canary = living.aliases()["canary"]
        reached = status(server)["shadow"]
    with opened(living) as (server, http):
        teach(http, CHANGED, 1)
        wait_for(lambda: status(server)["state"] == "learning", lambda: str(status(server)))
        again = status(server)
    assert again["from"] == again["own_canary"] == canary
    assert again["shadow"] == reached  # origin, its score, counts
    told = living.decisions("online_start")[-1]
    assert told["model"] == canary
    assert "begin anew" in told["reason"]


def test_a_person_who_moves_an_alias_is_followed(living: LivingShop, opened: Opened) -> None:
    with opened(living) as (server, http):
        until(living, server, http, "promote", CHANGED)
        with living.writer() as registry:
            registry.drop_canary(LINE, reason="worse on long prompts", actor="a person")
        teach(http, CHANGED, 2)
        wait_for(lambda: len(living.decisions("online_start")) == 2, lambda: str(status(server)))
        wait_for(lambda: status(server)["from"] == living.model)
        assert status(server)["own_canary"] is None


def test_feedback_to_any_replica_reaches_the_one_learner(
    living: LivingShop, opened: Opened
) -> None:
    with opened(living) as (second, other):
        with opened(living) as (first, http):
            assert teach(http, CHANGED, 1)[0].status_code == 202  # here it begins
            for number in range(1, EVERY):
                told = teach(other if number % 2 else http, CHANGED, 1)[0]
                assert told.status_code == 202, told.text
            settled(first, EVERY)
            assert status(first)["here"]
            assert second.desk._learners == {}  # one learner, in one process
            wait_for(lambda: status(second)["last_canary"] is not None)
            seen = status(second)
            assert (seen["here"], seen["state"]) == (False, "learning")
            assert seen["counts"] == status(first)["counts"]
            assert len(living.decisions("online_start")) == 1
            teach(other, CHANGED, 1)  # less than a batch: it waits
        assert status(second)["state"] == "ended"
        teach(other, CHANGED, EVERY - 1)  # the next one takes over, with what waited
        assert settled(second, EVERY)["here"]
    assert len(living.decisions("online_start")) == 2


def test_a_learner_that_fails_hides_none_that_works(
    living: LivingShop, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Shadow.learn
    waiting: list[int] = []
    with opened(living) as (first, http), opened(living) as (second, other):
        spool = Spool(living.registry, LINE, base=first.base.digest, most=99)

        def fails(*_: Any) -> list[bool]:
            raise RuntimeError("out of memory")

        def watched(shadow: Shadow, items: Any) -> list[bool]:
            waiting.append(len(spool))
            return learn(shadow, items)

        monkeypatch.setattr(Shadow, "learn", fails)
        teach(http, CHANGED, BATCH)
        wait_for(lambda: first.desk._learners[LINE].has_left, lambda: str(status(first)))
        assert len(spool) == BATCH  # it was not lost with the learner
        refused = teach(http, CHANGED, 1)[0]
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "learner_failed")
        assert (status(first)["state"], status(first)["here"]) == ("failed", True)

        monkeypatch.setattr(Shadow, "learn", watched)
        with opened(living) as (third, taker):
            assert teach(taker, CHANGED, EVERY - BATCH - 1)[0].status_code == 202
            wait_for(lambda: status(third)["state"] == "learning")
            wait_for(lambda: status(first)["state"] == "learning", lambda: str(status(first)))
            assert not status(first)["here"]
            assert teach(http, CHANGED, 1)[0].status_code == 202
            settled(third, EVERY)  # with what the failed one left
            assert all(many >= BATCH for many in waiting)  # removed only once learned from
            assert len(spool) == 0
        # Nobody learns now; the first one may again.
        teach(http, CHANGED, EVERY)
        assert settled(first, EVERY)["here"]
        assert not status(second)["here"]
        del other


def test_what_waits_is_kept_for_whoever_learns_next(
    living: LivingShop, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(living) as (server, http):
        spool = Spool(living.registry, LINE, base=server.base.digest, most=99)
        other = Spool(living.registry, LINE, base="another", most=99)
        item = Encoded(prompt_ids=(5, 6), target_ids=(7, 2), id="a", cluster="feedback")
        assert [spool.put(item), spool.put(item)] == [1, 2]
        assert spool.folder.stat().st_mode & 0o077 == 0
        assert spool.take(3).items == ()
        assert spool.take(2).items == (item, item)
        spool.done(spool.take(2).names)
        other.put(item)
        (spool.folder / "waiting" / "0-x.json").write_text("{")
        assert spool.take(2).items == ()
        assert "another base" in caplog.text
        assert len(spool) == 0
        spool.put(item)
        assert (spool.clear(), len(spool)) == (1, 0)
        del http
