"""A trial whose worker group trains together (`ddp`, `fsdp`): the one case of a trainer in a trial.

The trial's own process holds next to nothing and waits; see `fleet.sweep.resources` for why. The
group's first worker records the score.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fleet.plan import plan_campaign
from fleet.policies import Job
from missions.spec import MissionSpec


def train_in_group(
    spec: MissionSpec, config: Mapping[str, Any], job: Mapping[str, Any], *, name: str
) -> None:
    """Starts the worker group of one trial and waits for its end.

    Args:
        config: the trial, as Tune was given it.
        job: a `SweepJob` as plain data.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from fleet.driver.mission_job import torch_backend
    from fleet.driver.watching_backend import WatchingTorchConfig
    from fleet.sweep.tuning import MAX_FAILURES

    group = _group_of(spec)
    TorchTrainer(
        trial_loop,
        train_loop_config={"trial": dict(config), "job": dict(job)},
        torch_config=WatchingTorchConfig(backend=torch_backend(group)),
        scaling_config=ScalingConfig(**group_scaling(group)),
        run_config=RunConfig(
            # Fresh: a name that Ray Train has seen would silently resume.
            name=f"trial-{name[:16]}-{time.time_ns()}",
            storage_path=job["train_storage"],
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    ).fit()


def group_scaling(group: Job) -> dict[str, Any]:
    """The worker group of a trial in Ray Train's words."""
    return {
        "num_workers": group.workers,
        "use_gpu": group.request.gpus > 0,
        "resources_per_worker": group.request.as_ray(),
        "label_selector": group.request.ray_labels() or None,
    }


def trial_loop(config: dict[str, Any]) -> None:
    """What every worker of the group runs."""
    from ray.train.torch import get_device

    from bem.distributed import Share
    from fleet.sweep.tuning import SweepJob, make_bench, parse_trial
    from fleet.workers.worker_ledger import connect

    order = SweepJob(**config["job"])
    spec = MissionSpec.model_validate_json(order.spec_json)
    strategy = spec.resources.strategy
    assert strategy != "packed", "a trial that trains by itself starts no group"
    share = Share(strategy)
    row = make_bench(order, spec, get_device(), share=share).run(parse_trial(config["trial"]))
    if share.leads:
        connect(order.namespace).call("record_trial", row)
    share.close()  # where only this process failed, the others wait for it


def _group_of(spec: MissionSpec) -> Job:
    """The mission's worker group, as the confirmation will have it."""
    return plan_campaign([spec], run_id="", profile="", code_version="").works[0].job
