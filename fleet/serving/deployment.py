"""Ray Serve: one deployment whose replicas hold the engine and answer HTTP themselves.

HAProxy (it comes with `ray[serve]`) spreads connections over the replicas. What is served changes
inside a replica (`shelf`), so a promotion, a canary or a rollback redeploys nothing; `reconfigure`
changes the canary's share only. A replica whose engine stands still fails its health check and is
replaced.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fleet.errors import UsageError
from fleet.page.app import MAX_LISTENERS
from fleet.serving.app import build_app
from fleet.serving.guard import App
from fleet.serving.haproxy import prepare
from fleet.serving.server import Server
from fleet.serving.settings import ServingSettings
from fleet.serving.tokens import Secrets
from fleet.settings import LaunchSettings, RunPaths

LOG = logging.getLogger("fleet.serving")
APP = "bem"


class EngineReplica:
    """One replica: a `Server` and the API over it."""

    def __init__(self, settings: ServingSettings, secrets: Secrets) -> None:
        self.server = Server(settings)
        self._secrets = secrets
        self.server.start()

    def __serve_build_asgi_app__(self) -> App:
        return build_app(self.server, self._secrets)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Ray Serve tells of a changed `user_config`; it blocks the replica, so nothing loads."""
        self.server.shelf.set_canary_share(float(user_config["canary_share"]))

    def check_health(self) -> None:
        """Raises where the replica should be replaced."""
        problem = self.server.problem()
        if problem:
            raise RuntimeError(problem)


def deploy(settings: ServingSettings, secrets: Secrets, *, shared: bool = False) -> None:
    """Start the application on the Ray that this process has joined.

    Args:
        shared: others may use this Ray.

    Raises:
        UsageError: an application of this name, or at this address, is there already.
    """
    from ray import serve

    if shared:
        refuse_conflicts(
            {name: app.route_prefix for name, app in serve.status().applications.items()}
        )
    from ray.serve.config import HTTPOptions

    serve.start(
        http_options=HTTPOptions(host=settings.host, port=settings.port), logging_config=_quiet()
    )
    if shared:
        _require_address(settings)
    scaling: dict[str, Any] = {"num_replicas": settings.ray.replicas}
    if settings.ray.max_replicas > settings.ray.replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": settings.ray.replicas,
                "max_replicas": settings.ray.max_replicas,
                "target_ongoing_requests": settings.ray.ongoing,
            }
        }
    replica = serve.ingress()(EngineReplica)
    deployment = serve.deployment(
        name="engine",
        # The engine's own queue is the limit: it answers 429 in OpenAI's form. Pages that listen
        # take no place of it.
        max_ongoing_requests=settings.engine.rows + settings.engine.queue + MAX_LISTENERS + 16,
        ray_actor_options={"num_cpus": settings.ray.cpus, "num_gpus": settings.ray.gpus},
        user_config={"canary_share": settings.canary_share},
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=30.0,
        **scaling,
    )(replica)
    application = deployment.bind(settings, secrets)
    try:
        serve.run(application, name=APP, route_prefix="/")
    except BaseException:
        _end_failed(shared=shared)
        raise


def refuse_conflicts(running: Mapping[str, str | None]) -> None:
    """Ray Serve would replace an application of the same name; it is someone's.

    Args:
        running: application -> its route prefix.

    Raises:
        UsageError: `bem` is served there already, or another application stands at `/`.
    """
    at_root = next((name for name, route in running.items() if route in ("", "/")), None)
    taken = APP if APP in running else at_root
    if taken is not None:
        raise UsageError(
            f"Application '{taken}' is served on this Ray at {running[taken] or '/'}: end it first "
            "(serve.delete), or serve elsewhere."
        )


@contextmanager
def serving_on_ray(
    settings: ServingSettings,
    secrets: Secrets,
    *,
    address: str | None = None,
) -> Iterator[str]:
    """Ray, Serve and the application for the length of the block; gives the URL."""
    from fleet.driver.ray_session import ray_session

    settings = settings.model_copy(
        update={"registry": settings.registry.resolve(), "runs": settings.runs.resolve()}
    )
    wanted = settings.ray.max_replicas if address is None else 0
    launch = LaunchSettings(
        paths=RunPaths(root=Path("runs") / "serve"),
        profile="serve",
        command="serve",
        cpus=max(1, round(wanted * settings.ray.cpus)) + 1,
        address=address,
    )
    # HAProxy's sockets stand in it, whose paths must be short; nobody can have made it before.
    folder = Path(tempfile.mkdtemp(prefix="bf-", dir="/tmp"))
    given: tuple[str, ...] = ()
    try:
        given = prepare(folder, os.environ, local=address is None)
        with ray_session(launch):
            deploy(settings, secrets, shared=address is not None)
            try:
                yield f"http://{settings.host}:{settings.port}"
            finally:
                end(shared=address is not None)
    finally:
        for name in given:
            os.environ.pop(name, None)
        shutil.rmtree(folder, ignore_errors=True)


def end(*, shared: bool) -> None:
    """Ends the application; where others may use this Ray, nothing else of Serve."""
    from ray import serve

    if shared:
        serve.delete(APP)
    else:
        serve.shutdown()


def _end_failed(*, shared: bool) -> None:
    """Ends what a failed start left; where that fails too, why the start failed stays the error."""
    try:
        end(shared=shared)
    except Exception as error:  # noqa: BLE001 - told; the caller's own goes on
        LOG.warning("application '%s' may be left on this Ray: %s", APP, error)


def run(settings: ServingSettings, secrets: Secrets, *, address: str | None, ready: Any) -> None:
    """Serve until SIGINT or SIGTERM; `ready(url)` is called once it answers."""
    # Plain flags: a handler that takes a lock may meet the thread that holds it.
    asked: list[int] = []
    up: list[str] = []

    def told(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if not up:  # Serve must not be left half started
            sys.stderr.write(f"{signal.Signals(number).name}: ends once the start is through\n")

    before = {n: signal.signal(n, told) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serving_on_ray(settings, secrets, address=address) as url:
            up.append(url)
            if not asked:
                ready(url)
            while not asked:
                time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_address(settings: ServingSettings) -> None:
    """Serve that is started already keeps its own address and only logs that ours is ignored."""
    from ray.serve.context import _get_global_client

    config = _get_global_client().http_config
    if (config.host, config.port) != (settings.host, settings.port):
        raise UsageError(
            f"Ray Serve on this cluster listens on {config.host}:{config.port} already; give "
            f"--host {config.host} --port {config.port}, not {settings.host}:{settings.port}."
        )


def _quiet() -> Any:
    from ray.serve.schema import LoggingConfig

    return LoggingConfig(enable_access_log=False)
