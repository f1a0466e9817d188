"""Where things lie and how a launch was asked for. Knows no Ray and imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import NotFoundError, UsageError
from fleet.provenance import code_version

if TYPE_CHECKING:
    from fleet.alerts.config import AlertConfig

RUNS_DIR = Path("runs")
REGISTRY_DIR = Path("registry")
"""Promoted models; beside `runs/`, for one registry serves many launches."""
CHECKPOINT_EVERY_S = 5.0
"""Seconds between checkpoints of a training."""
MIN_FREE_MIB = 512
"""Disk that a launch wants to find free."""
MIN_MEMORY_MIB = 4096
"""Memory that two missions side by side want to find free."""
_RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPaths:
    """The folder of one launch."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def driver_lock(self) -> Path:
        """Held by the process that drives the run."""
        return self.root / "driver.lock"

    @property
    def order(self) -> Path:
        """What the launch was asked for."""
        return self.root / "order.json"

    @property
    def control(self) -> Path:
        """Requests from other terminals to the driver."""
        return self.root / "control"

    @property
    def scores(self) -> Path:
        """Per-example scores, one Parquet file a run, named by content hash."""
        return self.root / "scores"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def alerts(self) -> Path:
        """Alerts as they began and ended, JSON lines."""
        return self.root / "alerts.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def report(self) -> Path:
        return self.root / "report" / "index.html"

    @property
    def result(self) -> Path:
        """The result as one JSON document."""
        return self.root / "result.json"

    def work(self, mission: str) -> Path:
        """Data and artifacts of one mission."""
        return self.root / "work" / mission

    def artifact(self, mission: str, run: str) -> Path:
        """What one run left behind."""
        return self.work(mission) / "artifacts" / run


def check_run_id(run_id: str) -> str:
    """The run id, if it is fit to be a folder's name.

    Raises:
        UsageError: says what is allowed.
    """
    if not _RUN_ID.match(run_id):
        raise UsageError(
            f"Run id {run_id!r}: expected 1-64 letters, digits, '.', '_' or '-', the first a "
            "letter or digit."
        )
    return run_id


def find_run(runs_dir: Path, run_id: str | None) -> RunPaths:
    """The folder of a run, or of the newest one where no id is given.

    Raises:
        NotFoundError: lists what is there.
    """
    known = list_runs(runs_dir)
    if run_id is None:
        if not known:
            raise NotFoundError(
                f"No run in {runs_dir}.", go_on="python fleet.py launch --profile smoke"
            )
        return known[0]
    paths = RunPaths(root=runs_dir / check_run_id(run_id))
    if not paths.ledger.is_file():
        names = ", ".join(item.run_id for item in known[:8]) or "none"
        raise NotFoundError(f"No run {run_id!r} in {runs_dir}. Newest runs: {names}.")
    return paths


def find_ordered(runs_dir: Path, run_id: str | None) -> RunPaths:
    """The folder of a run that was ordered, whether or not its ledger exists yet; newest first.

    Raises:
        NotFoundError: lists what is there.
    """
    if run_id is not None:
        paths = RunPaths(root=(runs_dir / check_run_id(run_id)).absolute())
        if paths.order.is_file() or paths.ledger.is_file():
            return paths
    found = sorted(runs_dir.glob("*/order.json"), key=lambda path: path.stat().st_ctime)
    if run_id is None and found:
        return RunPaths(root=found[-1].parent.absolute())
    names = ", ".join(item.run_id for item in list_runs(runs_dir)[:8]) or "none"
    what = f"run {run_id!r}" if run_id is not None else "run"
    raise NotFoundError(f"No {what} in {runs_dir}. Newest runs: {names}.")


def list_runs(runs_dir: Path) -> list[RunPaths]:
    """All runs, newest first."""
    if not runs_dir.is_dir():
        return []
    found = [RunPaths(root=path.parent) for path in runs_dir.glob("*/ledger.sqlite")]
    return sorted(found, key=lambda paths: paths.ledger.stat().st_ctime, reverse=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchSettings:
    """Everything that decides how a launch is carried out, beside the mission files."""

    paths: RunPaths
    profile: str
    command: str
    """The command that reproduces this launch."""
    cpus: int
    """Worker slots of a local launch."""
    session: str = ""
    """Token of this driver; every process that it starts carries it in its environment."""
    beat: Callable[[], None] = lambda: None
    """Called a few times a second: the driver says that it is alive."""
    address: str | None = None
    """An existing cluster; None starts Ray on this machine."""
    catalog: str = "missions.registry"
    """Module with `load_mission(id)`; the tests lend another one."""
    worker_env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the workers beside our own."""
    code_version_now: Callable[[], str] = code_version
    """Asked again at the end: a tree that is edited during a launch mixes two versions."""
    stale_after_s: float = 30.0
    """A worker silent for this long is shown as stale, for twice as long as lost."""
    grace_s: float = 20.0
    """How long a worker may take to leave after a stop was asked for."""
    storage: str = ""
    """URI to which ledger and scores are copied, and artifacts; empty copies nothing."""
    patience_s: float = 600.0
    """After this wait nodes are kept for a mission, so that smaller ones do not go on overtaking
    it for ever."""
    max_wait_s: float = 1800.0
    """How long a worker group may wait for resources before its mission fails with a reason."""
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    """Seconds between checkpoints of a training; 0 keeps none."""
    alerts: AlertConfig | None = None
    """Thresholds of the alerts; None takes the defaults."""
    max_tries: int = 3
    """Attempts of a pack whose worker dies."""

    @property
    def train_storage(self) -> str:
        """Where Ray Train puts its marks: every node must reach it."""
        if self.storage and self.address is not None:
            return f"{self.storage.rstrip('/')}/{self.paths.run_id}/train"
        return str(self.paths.root / "train")
