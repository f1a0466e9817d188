"""Mission A by two workers that share each run, and what is refused elsewhere."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fleet.catalog import resolve_all
from fleet.errors import ConfigError, FleetError
from fleet.policies import Cause
from fleet.workers.shared_group import FollowerLedger
from missions.errors import SpecError

HERE = Path(__file__).resolve().parent


def run(folder: Path, *strategies: str) -> None:
    ended = subprocess.run(
        [sys.executable, str(HERE / "shared_worker.py"), str(folder), *strategies],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def results(folder: Path, strategy: str, attempts: int = 1) -> dict[str, tuple[str, float, int]]:
    """Run -> (digest of its scores, last loss, parameters trained)."""
    with closing(sqlite3.connect(folder / strategy / "run" / "ledger.sqlite")) as cx:
        rows = cx.execute("SELECT run, scores_digest, figures_json, cost_json FROM results")
        found = {
            name: (digest, json.loads(figures)["final_loss"], json.loads(cost)["trainable_params"])
            for name, digest, figures, cost in rows
        }
        assert not cx.execute("SELECT * FROM runs WHERE state != 'DONE'").fetchall()
        if attempts == 1:
            assert not cx.execute("SELECT * FROM events WHERE level != 'info'").fetchall()
        assert cx.execute("SELECT count(*) FROM attempts").fetchone() == (attempts,)
    return found


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    run(folder, "packed", "fsdp", "fsdp-struck")
    return folder


def agree(one: dict[str, tuple[str, float, int]], other: dict[str, tuple[str, float, int]]) -> None:
    assert one.keys() == other.keys()
    for name, (digest, loss, count) in one.items():
        assert other[name][0] == digest
        assert other[name][1] == pytest.approx(loss, rel=1e-5)
        assert other[name][2] == count


def test_two_workers_with_a_sharded_base_give_the_scores_of_one(packed: Path) -> None:
    agree(results(packed, "packed"), results(packed, "fsdp"))


def test_a_group_goes_on_where_one_stood_that_lost_a_worker(packed: Path) -> None:
    """To the same bits, and not as a failure of the runs that were at work."""
    found = results(packed, "fsdp-struck", attempts=2)
    assert found == results(packed, "fsdp")
    root = packed / "fsdp-struck" / "run"
    with closing(sqlite3.connect(root / "ledger.sqlite")) as cx:
        told = [text for (text,) in cx.execute("SELECT text FROM events ORDER BY id")]
        levels = {level for (level,) in cx.execute("SELECT level FROM events")}
    assert any(re.search(r"training stage \w*experts goes on at step 3", text) for text in told)
    assert levels == {"info", "warning"}
    work = root / "work" / "A"
    assert not list(work.rglob("follower-1/checkpoints")), "the leader writes alone"
    assert not list(work.glob("checkpoints/*")), "what is done is forgotten"


@pytest.mark.slow
def test_two_workers_by_ddp_give_the_scores_of_one(packed: Path) -> None:
    run(packed, "ddp")
    agree(results(packed, "packed"), results(packed, "ddp"))


@pytest.mark.parametrize("mission", ["B", "C", "D", "E"])
def test_a_mission_that_cannot_share_a_run_says_so(mission: str) -> None:
    overrides = ("resources.strategy=ddp", "resources.workers=2")
    with pytest.raises((ConfigError, SpecError)) as raised:
        resolve_all([mission], profile="smoke", overrides=overrides, catalog="missions.registry")
    assert "resources.strategy: 'ddp'" in str(raised.value)
    assert "Allowed: packed." in str(raised.value)


def test_a_follower_that_fails_takes_the_group_down() -> None:
    class Port:
        """The ledger's port as far as a follower is lent it."""

        begin_attempt = heartbeat = end_attempt = event = None

    class Second:
        rank = 1

    follower = FollowerLedger(Port(), Second())  # type: ignore[arg-type]
    with pytest.raises(FleetError, match="A-planner-s0: worker 1 of the group failed: train"):
        follower.fail_run("a", "A-planner-s0", cause=Cause.ERROR, reason="train: x", traceback="")
