"""Sweeps without a confirmation: `python fleet.py sweep`. Nothing of the test split is read.

The run's ledger holds the trials and the choice. The same run id again goes on where an earlier
driver stopped.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

from fleet import provenance
from fleet.driver import driver_requests, leftovers, preflight, requests
from fleet.driver.campaign import POLL_S, Campaign
from fleet.driver.coordinator import open_campaign
from fleet.driver.drive import driver_log, launch_facts, say, told_to_the_ledger
from fleet.driver.driver_lock import drive
from fleet.driver.launch import Order, make_folder, resolve
from fleet.driver.ray_session import ray_session
from fleet.driver.signals import Stopper
from fleet.errors import ConfigError, InterruptedBySignalError, SweepError, UsageError
from fleet.ledger.files import write_durably
from fleet.ledger.reader import LedgerReader
from fleet.plan import CampaignPlan, plan_campaign
from fleet.policies import admit
from fleet.settings import RUNS_DIR, LaunchSettings, RunPaths, check_run_id
from fleet.sweep import stage
from fleet.sweep.driving import check_trials
from fleet.sweep.records import SWEEP_ONLY
from fleet.sweep.table import print_sweeps, sweep_document


def carry_out(order: Order, *, trials: int | None) -> int:
    """Runs the sweeps of an order and returns the exit code.

    Args:
        trials: settings tried for each arm, in place of the mission files'.
    """
    run_id = check_run_id(order.run_id or datetime.now(UTC).strftime("sweep-%Y%m%d-%H%M%S"))
    paths = RunPaths(root=(order.runs_dir / run_id).absolute())
    plan = _plan(order, run_id, trials)
    if order.dry_run:
        _show(plan, order)
        return 0
    if paths.root.exists():
        _refuse_other_runs(paths)
    else:
        preflight.check_disk(paths.root)
        make_folder(paths)
    settings = LaunchSettings(
        paths=paths,
        profile=order.profile,
        command=_command(order, trials),
        cpus=preflight.default_cpus(order.cpus),
        address=order.address,
        catalog=order.catalog,
        worker_env=order.worker_env,
    )
    figures = preflight.check_bases([work.spec for work in plan.works])
    again = go_on_command(order, run_id, trials)
    with drive(paths, command=again) as lock, driver_log(paths):
        leftovers.end(lock.earlier)
        requests.forget(paths)
        settings = replace(settings, session=lock.session, beat=lock.beat)
        meta = {**launch_facts(settings), "base_figures": figures, SWEEP_ONLY: again}
        with told_to_the_ledger(settings, go_on=again):
            failed = _run(plan, settings, meta, again)
    with LedgerReader(paths.ledger) as reader:
        found = [sweep_document(reader, work.mission) for work in plan.works]
    documents = [document for document in found if document is not None]
    content = json.dumps({"run_id": run_id, "sweeps": documents}, indent=1, allow_nan=False)
    write_durably(paths.root / "sweep.json", content.encode())
    if order.as_json:
        sys.stdout.write(content + "\n")
    else:
        print_sweeps(documents)
    if failed:
        raise SweepError(
            f"Sweeps of {', '.join(failed)} found no settings.",
            log=str(paths.logs),
            go_on=again,
        )
    say(f"kept in {paths.root / 'sweep.json'}")
    return 0


def _plan(order: Order, run_id: str, trials: int | None) -> CampaignPlan:
    """The missions with a sweep, without runs: there is nothing to confirm."""
    specs = resolve(order)
    swept = [spec.id for spec in specs if spec.sweep is not None]
    if trials is not None and swept:
        patches = tuple(f"{mission}:sweep.trials={trials}" for mission in swept)
        specs = resolve(replace(order, overrides=(*order.overrides, *patches)))
    without = [spec.id for spec in specs if spec.sweep is None]
    if not swept or (order.missions and without):
        raise ConfigError(
            f"No sweep in the mission files of {', '.join(without)} (profile {order.profile})."
            + (f" Missions with one: {', '.join(swept)}." if swept else ""),
            go_on="docs/sweeps.md says how to write one",
        )
    plan = plan_campaign(
        [spec for spec in specs if spec.sweep is not None],
        run_id=run_id,
        profile=order.profile,
        code_version=provenance.code_version(),
    )
    return replace(plan, works=tuple(replace(work, packs=()) for work in plan.works))


def _refuse_other_runs(paths: RunPaths) -> None:
    if paths.ledger.is_file():
        with LedgerReader(paths.ledger) as reader:
            if reader.meta().get(SWEEP_ONLY):
                return
    raise UsageError(
        f"Run id {paths.run_id!r} is taken: {paths.root} exists and is no run of sweeps.",
        go_on="python fleet.py sweep with another --run-id",
    )


def _run(
    plan: CampaignPlan, settings: LaunchSettings, meta: dict[str, object], again: str
) -> list[str]:
    """Sweeps every mission of the plan; returns those whose sweep found nothing."""
    started = time.monotonic()
    stopper = Stopper()
    with stopper.installed(), ray_session(settings) as session:
        check_trials(plan.works, session.nodes)
        campaign = open_campaign(plan, settings, session, stopper, meta, lambda ledger: None)
        try:
            with LedgerReader(settings.paths.ledger) as reader:
                # An earlier driver may have come to an end, without settings for all.
                campaign.ledger.call("set_meta", "wall_s", None)
                stage.restore(campaign, reader)
                for name in reader.orders().missions:
                    if name in campaign.missions:
                        campaign.missions[name].finished_before = True
                        say(f"{name}: cancelled in this run; another --run-id sweeps it")
                _loop(campaign, reader, again)
                cancelled = reader.orders().missions
            campaign.ledger.call("set_meta", "wall_s", time.monotonic() - started)
            campaign.ledger.call("end_session", settings.session, "done")
            campaign.ledger.call("checkpoint")
            campaign.ledger.call("close")
        finally:
            stage.end_all(campaign)
    missions = campaign.missions.items()
    return [name for name, mission in missions if not mission.swept and name not in cancelled]


def _loop(campaign: Campaign, reader: LedgerReader, again: str) -> None:
    told, _ = reader.newer_events(0)  # an earlier driver said it
    while True:
        campaign.settings.beat()
        driver_requests.take(campaign, reader)
        stage.collect(campaign, reader)
        missions = campaign.missions
        waiting = [stage.next_job(m, campaign.nodes) for m in missions.values() if m.to_sweep]
        running = stage.running(missions.values(), campaign.nodes)
        over = frozenset(m.work.mission for m in missions.values() if m.swept)
        for name in admit(waiting, running, campaign.nodes, finished=over, on_deck=0):
            stage.begin(campaign, missions[name], reader)
        told, events = reader.newer_events(told)
        for event in events:
            say(f"{event.source} {event.text}")
        number = campaign.stopper.signal_number
        if number is not None:
            stage.end_all(campaign)
            text = f"stopped by {campaign.stopper.asked_by}"
            campaign.ledger.call("end_session", campaign.settings.session, text)
            campaign.ledger.call("checkpoint")
            raise InterruptedBySignalError(
                f"S{text[1:]}; finished trials are kept.",
                signal_number=number or signal.SIGINT,
                log=str(campaign.settings.paths.logs),
                go_on=again,
            )
        if all(m.swept or m.finished_before for m in missions.values()):
            cancelled = reader.orders().missions
            for name, mission in missions.items():
                lost = "cancelled" if name in cancelled else "failed"
                campaign.ledger.set_phase(name, "judged" if mission.swept else lost)
            return
        time.sleep(POLL_S)


def go_on_command(order: Order, run_id: str, trials: int | None) -> str:
    """The command that goes on with this run."""
    parts = ["--run-id", run_id]
    parts += ["--runs-dir", str(order.runs_dir)] if order.runs_dir != RUNS_DIR else []
    parts += ["--cpus", str(order.cpus)] if order.cpus else []
    parts += ["--address", order.address] if order.address else []
    return f"{_command(order, trials)} {shlex.join(parts)}"


def _command(order: Order, trials: int | None) -> str:
    parts = ["sweep", "--profile", order.profile]
    parts += ["--missions", ",".join(order.missions)] if order.missions else []
    parts += ["--trials", str(trials)] if trials is not None else []
    for override in order.overrides:
        parts += ["--set", override]
    return provenance.command_line(parts)


def _show(plan: CampaignPlan, order: Order) -> None:
    from fleet.sweep.plan_lines import sweep_lines, sweep_plan

    documents = [sweep_plan(work.spec) for work in plan.works]
    if order.as_json:
        sys.stdout.write(json.dumps(documents, indent=1) + "\n")
        return
    for work in plan.works:
        for line in sweep_lines(work.spec):
            sys.stdout.write(f"{line}\n")
