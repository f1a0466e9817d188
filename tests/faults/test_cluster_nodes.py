"""Three unlike nodes that this machine plays: who lands where, and what the loss of one does.

Ray starts once for the module. The GPUs are numbers that Ray counts; the nodes, their processes
and the end of one are real.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.driver.launch import Order, carry_out
from fleet.errors import FleetError
from fleet.ledger.reader import LedgerReader
from fleet.states import RunState

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.timeout(600),
]
ROOT = Path(__file__).resolve().parents[2]
FAKES = ROOT / "tests" / "fleet"
MIB = 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without slots, a node with two GPUs, one with a label, one with a licence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "a-token-of-the-tests-0123456789abcdef")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        made = Cluster()
        made.add_node(num_cpus=0, memory=512 * MIB, dashboard_host="127.0.0.1")
        made.nodes = {  # type: ignore[attr-defined]
            "gpu": made.add_node(
                num_cpus=2, num_gpus=2, memory=2048 * MIB, labels={"market": "on-demand"}
            ),
            "spot": made.add_node(num_cpus=1, memory=1024 * MIB, labels={"market": "spot"}),
            "licence": made.add_node(num_cpus=1, memory=1024 * MIB, resources={"licence": 1}),
        }
        yield made
        made.shutdown()
        # Ray leaves files and sockets open: collected here, where their warnings are expected.
        del made
        gc.collect()


def launch(
    cluster: Any,
    folder: Path,
    run_id: str,
    *overrides: str,
    missions: tuple[str, ...] = ("F1", "F2", "F3"),
    profile: str = "laptop",
    catalog: str = "fake_catalog",
) -> FleetError | None:
    order = Order(
        missions=missions,
        arms=(),
        profile=profile,
        overrides=overrides,
        run_id=run_id,
        dry_run=False,
        as_json=True,
        require_promotion=False,
        address=cluster.address,
        cpus=0,
        runs_dir=folder,
        catalog=catalog,
        worker_env={"PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}"},
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            carry_out(order)
        except FleetError as error:
            return error
    return None


def where(reader: LedgerReader, mission: str) -> list[str]:
    """First letters of the ids of the nodes on which a mission's workers came up."""
    return [attempt.host.rpartition("/")[2] for attempt in reader.attempts(mission)]


def test_each_mission_lands_on_its_node(cluster: Any, tmp_path: Path) -> None:
    error = launch(
        cluster,
        tmp_path,
        "placed",
        "F1:resources={cpus: 1, gpus: 1/2, memory_mib: 256}",
        "F2:resources={cpus: 1, memory_mib: 256, labels: {market: spot}}",
        "F3:resources={cpus: 1, memory_mib: 256, custom: {licence: 1}}",
    )
    assert error is None, error
    with LedgerReader(tmp_path / "placed" / "ledger.sqlite") as reader:
        places = {name: set(where(reader, name)) for name in ("F1", "F2", "F3")}
        assert {row.state for row in reader.runs()} == {RunState.DONE}
    expected = {"F1": "gpu", "F2": "spot", "F3": "licence"}
    assert places == {name: {cluster.nodes[kind].node_id[:8]} for name, kind in expected.items()}


def test_the_five_missions_land_on_their_nodes(cluster: Any, tmp_path: Path) -> None:
    """The real ones, short, on three unlike nodes; every figure is there and finite."""
    node_of = {"A": "spot", "B": "licence", "C": "gpu", "D": "gpu", "E": "spot"}
    wants = {
        "spot": "labels: {market: spot}",
        "licence": "custom: {licence: 1}",
        "gpu": "labels: {market: on-demand}",
    }
    error = launch(
        cluster,
        tmp_path,
        "five",
        *(
            f"{name}:resources={{cpus: 1, memory_mib: 256, {wants[kind]}}}"
            for name, kind in node_of.items()
        ),
        missions=tuple(node_of),
        profile="smoke",
        catalog="missions.registry",
    )
    assert error is None, error
    with LedgerReader(tmp_path / "five" / "ledger.sqlite") as reader:
        places = {name: set(where(reader, name)) for name in node_of}
        assert {row.state for row in reader.runs()} == {RunState.DONE}
        campaign = reader.latest("campaign")
    assert places == {name: {cluster.nodes[kind].node_id[:8]} for name, kind in node_of.items()}
    assert campaign is not None
    assert "INVALID" not in campaign["verdicts"].values(), campaign["verdicts"]


def test_what_no_node_has_is_refused_with_numbers(cluster: Any, tmp_path: Path) -> None:
    started = time.monotonic()
    error = launch(cluster, tmp_path, "refused", "F2:resources={gpus: 4, memory_mib: 256}")
    assert error is not None
    assert error.exit_code == 4
    assert "Mission F2 asks for 1 CPU, 4 GPU, 256 MiB a worker; the largest node" in str(error)
    assert "has 2 CPU, 2 GPU, 2,048 MiB" in str(error)
    assert time.monotonic() - started < 60


def test_the_runs_of_a_lost_node_move_and_no_others(
    cluster: Any, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    extra = cluster.add_node(num_cpus=1, memory=1024 * MIB, labels={"zone": "b"})
    lost = cluster.add_node(num_cpus=1, memory=1024 * MIB, labels={"zone": "a"})
    ledger = tmp_path / "lost" / "ledger.sqlite"
    gone: list[float] = []

    def take_away() -> None:
        """As soon as the mission on it has a run done and another under way."""
        while not gone:
            time.sleep(0.3)
            if not ledger.is_file():
                continue
            with contextlib.suppress(FleetError), LedgerReader(ledger) as reader:
                states = {row.state for row in reader.runs("F1")}
                if {RunState.DONE, RunState.RUNNING} <= states:
                    gone.append(time.time())
                    cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=take_away)
    thread.start()
    error = launch(
        cluster,
        tmp_path,
        "lost",
        # Either of the two, the lost one first: it is emptier than the others of its label.
        "F1:resources={cpus: 1, memory_mib: 256, labels: {zone: 'in(a, b)'}, workers: 2}",
        "F1:params.pack_s=4",
        "F1:seeds=[0,1,2,3,4,5]",
        "F2:resources={cpus: 1, memory_mib: 256, labels: {market: spot}}",
        "F2:params.pack_s=6",
        "F3:resources={cpus: 1, memory_mib: 256, custom: {licence: 1}}",
        "F3:params.pack_s=6",
    )
    gone = gone or [0.0]
    thread.join()
    assert error is None, error
    with LedgerReader(ledger) as reader:
        assert {row.state for row in reader.runs()} == {RunState.DONE}
        attempts = reader.attempts("F1")
        died = [a for a in attempts if a.outcome == "worker_died"]
        assert [a.host.rpartition("/")[2] for a in died] == [lost.node_id[:8]]
        # The other worker of the same mission went on, undisturbed; the pack that was lost is on
        # the node that is left.
        moved = min(a.started_at for a in attempts if a.started_at > gone[0])
        record_property("node_moved_s", round(moved - gone[0], 1))
        assert where(reader, "F1").count(extra.node_id[:8]) >= 1
        tries = {pack.pack: pack.tries for pack in reader.packs()}
        assert sorted(tries.values()) == [1] * (len(tries) - 1) + [2]
        for name in ("F2", "F3"):
            assert len(reader.attempts(name)) == 1
