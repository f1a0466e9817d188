"""Starts Ray for one launch, or joins a cluster, and takes it down again.

Token authentication is on, the dashboard listens on loopback, and a local launch never attaches
to somebody else's Ray on the same machine. Knows nothing of missions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fleet.driver.cluster_nodes import live_nodes, possible_nodes
from fleet.driver.leftovers import SESSION_VARIABLE
from fleet.driver.signals import sigterm_held
from fleet.driver.working_directory import PATTERNS, check_size
from fleet.errors import UnfitEnvironmentError, first_line
from fleet.policies import Node
from fleet.redaction import redactor
from fleet.settings import LaunchSettings

MAX_LOG_BYTES = 2 << 20
"""Of each Ray log file that is kept."""
_KEPT_LOGS = ("worker-", "raylet", "gcs_server", "dashboard.log")
_TRAIN_ENVIRONMENT = {
    # The end of a loop is seen at the next poll (2 s by default). Polls at 0.1 s cost 2.3 % of a
    # core a mission (measured); nothing waits for them, since the loop never calls report().
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A job on deck waits for its slot as long as the missions before it take.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "604800",
    # Shows each mission by name on the dashboard's Train page.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # Mission files may name folders relative to where the user stands.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_LOCAL_ENVIRONMENT = {
    # One machine is not preempted node by node; the watcher costs a process a mission.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


_START_ERRORS = (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError)


def _is_start_error(error: Exception) -> bool:
    """Whether Ray means that it did not start; it raises a bare Exception for a late raylet."""
    return isinstance(error, _START_ERRORS) or type(error) is Exception


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySession:
    """A running Ray as the coordinator uses it."""

    namespace: str
    dashboard: str
    """URL, or empty where there is none."""
    nodes: tuple[Node, ...]
    """At the start; on a cluster also those that its autoscaler may add."""
    startup_s: float
    local: bool

    def nodes_now(self) -> tuple[Node, ...]:
        """The nodes as they stand: on a cluster they come and go."""
        return self.nodes if self.local else possible_nodes()


@contextlib.contextmanager
def ray_session(settings: LaunchSettings) -> Iterator[RaySession]:
    """Ray for the length of a launch. Who handles SIGTERM goes on to handle it.

    Raises:
        UnfitEnvironmentError: Ray does not start, or the address does not answer.
    """
    started = time.monotonic()
    for name, value in _TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if settings.session:
        # Every process that is started from here on can be told by it, even when we are gone.
        os.environ[SESSION_VARIABLE] = settings.session
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if settings.address is None:
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    import ray

    _check_authentication()
    namespace = f"bem-fleet-{settings.paths.run_id}"
    folder: Path | None = None
    shared: dict[str, Any] = {
        "namespace": namespace,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    try:
        with sigterm_held(), _daemons_apart():
            if settings.address is None:
                _remove_orphans()
                folder, context = _start_local(settings, shared)
            else:
                context = ray.init(
                    address=settings.address, job_config=_job_config(settings, ship=True), **shared
                )
    except Exception as error:
        if not _is_start_error(error):
            raise
        where = "on this machine" if settings.address is None else f"at {settings.address}"
        raise UnfitEnvironmentError(
            f"Ray did not start {where}: {first_line(error)}",
            log=str(settings.paths.logs / "ray"),
            go_on="python fleet.py doctor",
        ) from None
    try:
        url = f"http://{context.dashboard_url}" if context.dashboard_url else ""
        yield RaySession(
            namespace=namespace,
            dashboard=url,
            nodes=live_nodes() if settings.address is None else possible_nodes(),
            startup_s=time.monotonic() - started,
            local=settings.address is None,
        )
    finally:
        try:
            ray.shutdown()
        except KeyboardInterrupt:  # a second Ctrl-C; Ray must be gone before its folder is removed
            ray.shutdown()
            raise
        finally:
            os.environ.pop(SESSION_VARIABLE, None)
            if folder is not None:
                _keep_logs(folder, settings.paths.logs / "ray")


def _check_authentication() -> None:
    """Refuses a driver that imported Ray before this module had set the authentication mode.

    Ray reads `RAY_AUTH_MODE` once, when it is imported. The daemons that such a driver starts
    would ask for tokens that the driver does not send, and only a timeout would tell of it.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    asked = os.environ["RAY_AUTH_MODE"]
    if is_token_auth_enabled() != (asked.lower() == "token"):
        raise UnfitEnvironmentError(
            f"Ray was imported before the launch, without RAY_AUTH_MODE={asked}: set it in the "
            "environment of the process, or import ray after the launch has begun",
            go_on="RAY_AUTH_MODE=token python ...",
        )


def _start_local(settings: LaunchSettings, shared: Mapping[str, Any]) -> tuple[Path, Any]:
    """Ray in a private folder. On a crowded machine its daemons may miss their own start limits:
    one second try, announced.
    """
    import ray

    for last in (False, True):
        # Short: the path of a Unix socket below it may have 107 characters at most.
        folder = Path(tempfile.mkdtemp(prefix=f"bf-{os.getpid()}-", dir="/tmp"))
        try:
            context = ray.init(
                address="local",
                num_cpus=settings.cpus,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                _temp_dir=str(folder),
                job_config=_job_config(settings, ship=False),
                **shared,
            )
        except Exception as error:
            ray.shutdown()
            _keep_logs(folder, settings.paths.logs / "ray")
            if last or not _is_start_error(error):
                raise
            sys.stderr.write(f"Ray did not start ({first_line(error)}); trying once more\n")
        else:
            return folder, context
    raise AssertionError("unreachable: the last try returns or raises")


@contextlib.contextmanager
def _daemons_apart() -> Iterator[None]:
    """Processes started inside get a process group of their own, and SIGTERM reaches them.

    `timeout`, batch systems and init systems send SIGTERM to the whole group. Ray's daemons would
    die of it before the driver has recorded anything, and take the driver with them. The driver
    itself holds SIGTERM back meanwhile.
    """
    before = subprocess.Popen.__init__

    def start(self: Any, *arguments: Any, **named: Any) -> None:
        named.setdefault("process_group", 0)
        prepare = named.get("preexec_fn")

        def in_child() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            if prepare is not None:
                prepare()

        before(self, *arguments, **named | {"preexec_fn": in_child})

    subprocess.Popen.__init__ = start  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = before  # type: ignore[method-assign]


def worker_environment(settings: LaunchSettings) -> Mapping[str, str]:
    """Environment of every Ray process of the launch: one thread, no network for tokenizers."""
    return {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **settings.worker_env,
    }


def _job_config(settings: LaunchSettings, *, ship: bool) -> Any:
    from ray.job_config import JobConfig

    environment: dict[str, Any] = {"env_vars": dict(worker_environment(settings))}
    if ship:
        # A local launch imports the working tree as it stands; a cluster gets a copy of it.
        check_size(Path.cwd())
        environment["working_dir"] = str(Path.cwd())
        environment["excludes"] = PATTERNS
    return JobConfig(
        runtime_env=environment,
        metadata={"bem_fleet_run": settings.paths.run_id, "profile": settings.profile},
    )


def _keep_logs(folder: Path, target: Path) -> None:
    """Copies what Ray's processes said (the end of each file) and removes the session's folder."""
    for source in sorted(folder.glob("session_2*/logs/*")):
        if not source.is_file() or not source.name.startswith(_KEPT_LOGS):
            continue
        with source.open("rb") as stream:
            skipped = max(0, source.stat().st_size - MAX_LOG_BYTES)
            stream.seek(skipped)
            if skipped:
                stream.readline()  # the rest of a line: half a secret would not be known as one
            content = redactor().text(stream.read().decode("utf-8", "replace")).encode()
        # Lines such as `:job_id:01000000` mark who writes; a file of nothing else says nothing.
        if all(line.startswith(b":") for line in content.splitlines()):
            continue
        target.mkdir(parents=True, exist_ok=True)
        (target / source.name).write_bytes(content)
    for _ in range(20):  # a daemon that is on its way out may still write there
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _remove_orphans() -> None:
    """Removes the folders of drivers that were killed."""
    for folder in Path("/tmp").glob("bf-*-*"):
        owner = folder.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
