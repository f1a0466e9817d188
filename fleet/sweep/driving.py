"""A mission's sweep from the driver's side: begin it, and settle it when it has ended.

Knows the plan, the ledger's client and the thread that Tune runs in; when to begin is the
coordinator's to say.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Sequence

from fleet.errors import UnfitEnvironmentError
from fleet.plan import MissionWork, settled
from fleet.policies import Node
from fleet.settings import LaunchSettings
from fleet.sweep.records import SweepOutcome
from fleet.sweep.resources import misfit, trial_resources
from fleet.sweep.settling import choice_body, chosen_spec, settlement
from fleet.sweep.tuning import SweepJob, SweepThread, TuneSweep, start_sweep
from fleet.workers.worker_ledger import LedgerClient
from missions.sweep_check import check_sweep, file_settings


def check_trials(works: Sequence[MissionWork], nodes: Sequence[Node]) -> None:
    """Refuses sweeps whose trials would wait for ever, because no node has what one asks for.

    Raises:
        UnfitEnvironmentError: one line for all of them.
    """
    problems = [
        problem
        for work in works
        if work.spec.sweep is not None
        if (problem := misfit(work.mission, trial_resources(work.spec, work.job, nodes), nodes))
    ]
    if problems:
        raise UnfitEnvironmentError(" ".join(problems), go_on="python fleet.py doctor")


def begin_sweep(
    work: MissionWork,
    settings: LaunchSettings,
    ledger: LedgerClient,
    *,
    namespace: str,
    nodes: Sequence[Node],
    code_version: str,
    cancelled: Collection[str],
) -> SweepThread:
    """Starts the sweep of a mission that has one.

    Args:
        cancelled: arms that are not to be searched.
    """
    spec = work.spec
    assert spec.sweep is not None, "only a mission with a sweep is swept"
    mission = importlib.import_module(settings.catalog).load_mission(work.mission)
    check_sweep(spec, mission, f"mission {work.mission}")
    first = {
        arm: file_settings(spec, mission, arm, f"mission {work.mission}") for arm in spec.sweep.arms
    }
    resources = trial_resources(spec, work.job, nodes)
    job = sweep_job(work, settings, namespace=namespace, code_version=code_version)
    sweep = TuneSweep(job, ledger, first, resources)
    sweep.leave_out(cancelled)
    return start_sweep(work.mission, sweep)


def sweep_job(
    work: MissionWork, settings: LaunchSettings, *, namespace: str, code_version: str
) -> SweepJob:
    """What every trial of the mission's sweep is told."""
    return SweepJob(
        mission=work.mission,
        root=str(settings.paths.root),
        spec_json=json.dumps(work.spec.model_dump(mode="json")),
        catalog=settings.catalog,
        code_version=code_version,
        namespace=namespace,
        gpus=work.spec.resources.gpus,
        train_storage=settings.train_storage,
    )


def settle_sweep(
    work: MissionWork, outcome: SweepOutcome, ledger: LedgerClient, *, code_version: str
) -> MissionWork:
    """Records the choice, freezes the arms with it, and returns the work to be confirmed."""
    chosen = chosen_spec(work.spec, outcome)
    told = settlement(chosen, spec_hash=work.spec_hash, code_version=code_version)
    body = choice_body(work.spec, outcome)
    ledger.call("settle_sweep", work.mission, told.spec_json, body, told.freeze)
    return settled(work, chosen)
