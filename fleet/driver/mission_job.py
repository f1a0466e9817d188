"""One mission as one Ray Train job: the trainer on the driver's side, the loop on the worker's.

The loop never calls `ray.train.report`: it is a barrier among the workers of a group, who lease
packs of unlike number, and its last message can be lost when a worker is killed. Everything is in
the ledger instead, so a restarted group goes on by leasing what is missing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from fleet.errors import UnfitEnvironmentError
from fleet.policies import Job

MAX_FAILURES = 3
"""Restarts of a worker group after a worker process died."""


@dataclass(kw_only=True, slots=True)
class JobThread:
    """A trainer's `fit` in a thread of the driver, and how it ended."""

    mission: str
    name: str
    job: Job
    """The worker group that was asked for."""
    started: float
    helps: bool = False
    """Whether an idle slot lent it, beside the groups that the mission asked for."""
    thread: threading.Thread = field(init=False)
    error: BaseException | None = None
    ended: bool = False
    noted: bool = False
    """Whether the coordinator has taken note of the end."""
    waits_since: float | None = None
    """Since when its workers could have come up and have not."""

    def give_up(self, reason: str) -> None:
        """Counts as ended from now on; a worker that comes up later finds nothing to lease."""
        self.error = UnfitEnvironmentError(reason)
        self.ended = True


def start_job(
    mission: str,
    job: Job,
    config: Mapping[str, Any],
    *,
    name: str,
    storage: str,
    helps: bool = False,
) -> JobThread:
    """Starts a mission's trainer; `JobThread.ended` turns true when its worker group is gone.

    Args:
        name: fresh for every attempt; a name that Ray has seen would silently resume.
    """
    state = JobThread(mission=mission, name=name, job=job, started=time.monotonic(), helps=helps)
    resources = job.request.as_ray()

    def fit() -> None:
        try:
            import ray
            from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
            from ray.train.torch import TorchTrainer

            from fleet.driver.watching_backend import WatchingTorchConfig
            from fleet.workers.death_notes import DeathNotes

            TorchTrainer(
                mission_loop,
                train_loop_config=dict(config),
                torch_config=WatchingTorchConfig(backend=torch_backend(job)),
                scaling_config=ScalingConfig(
                    num_workers=job.workers,
                    use_gpu=job.request.gpus > 0,
                    resources_per_worker=resources,
                    label_selector=job.request.ray_labels() or None,
                ),
                run_config=RunConfig(
                    name=name,
                    storage_path=storage,
                    failure_config=FailureConfig(max_failures=MAX_FAILURES),
                    checkpoint_config=CheckpointConfig(num_to_keep=1),
                    callbacks=[DeathNotes(name, ray.get_runtime_context().namespace)],
                ),
            ).fit()
        except Exception as error:  # noqa: BLE001 - the coordinator records it
            state.error = state.error or error
        finally:
            state.ended = True

    state.thread = threading.Thread(target=fit, name=f"fit-{name}", daemon=True)
    state.thread.start()
    return state


def torch_backend(job: Job) -> str:
    """What torch's process group of a worker group talks by.

    Gradients go by NCCL where there are GPUs; what the workers agree on (a stop, a lease, a
    checkpoint) lies in main memory, which NCCL alone would refuse. Workers that share no run do
    not talk to each other, and need no NCCL.
    """
    return "cpu:gloo,cuda:nccl" if job.shared and job.request.gpus else "gloo"


def end_jobs(jobs: Sequence[JobThread], *, local: bool) -> None:
    """Ends every trainer that still runs, so that no thread is inside Ray when Ray goes down.

    Train lends no handle to its controllers; on this machine they are found by name among our own
    descendants. On a cluster the job's end takes them along.
    """
    deadline = time.monotonic() + (20.0 if local else 10.0)
    # Again and again: where the stop meets a start, the controller's process may yet have to come.
    while alive := [job for job in jobs if job.thread.is_alive()]:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            names = ", ".join(job.name for job in alive)
            sys.stderr.write(f"still running, left to Ray: {names}\n")
            return
        if local:
            _kill_controllers()
        alive[0].thread.join(timeout=min(0.5, left_s))


def _kill_controllers() -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith("ray::TrainController"):
                process.kill()


def mission_loop(config: dict[str, Any]) -> None:
    """What every worker of the group runs."""
    import ray
    import ray.train
    import torch
    from ray.train.torch import get_device

    from bem.distributed import Share
    from fleet.driver.cluster_nodes import node_name
    from fleet.monitor.mission_log import open_mission_log
    from fleet.workers.job import WorkerJob
    from fleet.workers.preemption import NOTICE, drained
    from fleet.workers.worker import Worker
    from fleet.workers.worker_ledger import connect
    from missions.spec import MissionSpec

    torch.set_num_threads(1)
    job = WorkerJob(**config)
    open_mission_log(job.paths.logs, job.mission)
    ledger = connect(ray.get_runtime_context().namespace)
    rank = ray.train.get_context().get_world_rank()
    here = node_name(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())
    strategy = MissionSpec.model_validate_json(job.spec_json).resources.strategy
    Worker(
        job,
        ledger,
        rank=rank,
        device=get_device(),
        host=here,
        notice=NOTICE,
        drained=drained,
        share=None if strategy == "packed" else Share(strategy),
    ).run()
