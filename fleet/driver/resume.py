"""Goes on with a run: after a stop, a killed driver, a full disk, or with failed runs once more.

Finished runs stay as they are. What the words of the launch mean today is compared with what they
meant then, and a difference is refused with its diff unless it is allowed. Processes that a dead
driver left are ended first, so that nobody writes beside the new one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fleet import provenance
from fleet.driver import changes, leftovers, requests
from fleet.driver.drive import Wishes, finish, launch_facts, say, work
from fleet.driver.driver_lock import HeldLock, drive, driver_of, moment
from fleet.driver.launch import Order, resolve
from fleet.driver.order_file import OrderFile, plain_specs, read_order, write_order
from fleet.driver.standing import Standing, look
from fleet.errors import ConfigError, NotFoundError, UsageError
from fleet.ledger.database import is_begun
from fleet.ledger.reader import LedgerReader
from fleet.plan import CampaignPlan, MissionWork, plan_campaign, settled
from fleet.settings import LaunchSettings, RunPaths, find_ordered
from fleet.sweep.records import SWEEP_ONLY
from fleet.sweep.settling import carried_over, left_out
from fleet.workers.worker_ledger import LedgerClient
from missions.spec import MissionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeOrder:
    """What the user asked for."""

    run_id: str | None
    runs_dir: Path
    allow_changes: bool = False
    failed: bool = False
    """Failed runs are tried again."""
    cancelled: bool = False
    """Cancelled missions and arms are taken up again."""
    missions: tuple[str, ...] = ()
    """Of these missions only; all where empty."""
    storage: str = ""
    """Where the run was copied to; empty goes on with what is here."""
    cpus: int = 0
    as_json: bool = False
    require_promotion: bool = False
    worker_env: Mapping[str, str] = field(default_factory=dict)
    """Environment of the workers beside our own."""

    @property
    def retries(self) -> bool:
        return self.failed or self.cancelled


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taken:
    """A run that this command has taken over."""

    order: ResumeOrder
    paths: RunPaths
    lock: HeldLock
    asked: OrderFile
    """What the launch was asked for."""
    standing: Standing
    started: float
    """When the command was given (seconds since the epoch)."""

    @property
    def settings(self) -> LaunchSettings:
        from fleet.driver import preflight

        order, asked = self.order, self.asked
        return LaunchSettings(
            paths=self.paths,
            profile=asked.profile,
            command=asked.command,
            cpus=preflight.default_cpus(order.cpus or asked.cpus),
            address=asked.address,
            catalog=asked.catalog,
            worker_env=order.worker_env,
            alerts=asked.alerts,
            storage=order.storage or asked.storage,
            session=self.lock.session,
            beat=self.lock.beat,
        )

    @property
    def wishes(self) -> Wishes:
        registry = self.asked.registry
        return Wishes(
            as_json=self.order.as_json,
            require_promotion=self.order.require_promotion,
            registry=None if registry is None else Path(registry),
        )


def carry_out(order: ResumeOrder) -> int:
    """Carries a resume or a retry out and returns its exit code."""
    started = psutil.Process().create_time()
    paths = find_ordered(order.runs_dir, order.run_id)
    _refuse_sweeps(paths)
    command = provenance.command_line(["resume", paths.run_id])
    before = driver_of(paths)
    with drive(paths, command=command) as lock:
        asked = read_order(paths)
        _end_leftovers(paths, lock, before.seen if before is not None else None)
        requests.forget(paths)
        standing = look(paths, order.missions)
        taken = _Taken(
            order=order, paths=paths, lock=lock, asked=asked, standing=standing, started=started
        )
        if standing.complete and not order.retries:
            if not standing.finished:
                return _finish(taken)
            say(f"run {paths.run_id} is complete: nothing is left to do")
            if standing.failed:
                say(
                    f"  {len(standing.failed)} runs failed: "
                    f"python fleet.py retry --failed {paths.run_id}"
                )
            return 0
        if order.retries and not _chosen(order, standing):
            which = "failed" if order.failed else "cancelled"
            raise NotFoundError(
                f"Run {paths.run_id} has no {which} runs.",
                go_on=f"python fleet.py status {paths.run_id}",
            )
        if order.cancelled:
            _refuse_unswept(paths, _chosen(order, standing))
        return _go_on(taken)


def _go_on(taken: _Taken) -> int:
    from fleet.driver import preflight

    order, paths, asked, standing = taken.order, taken.paths, taken.asked, taken.standing

    code_version = provenance.code_version()
    found = changes.compare(asked.parsed(), _resolved_now(asked, order.runs_dir))
    recorded = standing.code_version or asked.code_version
    _judge_changes(order, paths, found, standing, code=(recorded, code_version))
    changed = {change.mission: change for change in found}
    specs = {
        name: changed[name].after if name in changed else standing.specs.get(name, spec)
        for name, spec in asked.parsed().items()
    }
    plan = plan_campaign(
        list(specs.values()),
        run_id=paths.run_id,
        profile=asked.profile,
        code_version=code_version,
    )
    settings = taken.settings
    if asked.address is None:
        preflight.check_resources(plan, preflight.this_machine(settings.cpus))
    preflight.check_disk(paths.root)
    figures = preflight.check_bases(list(specs.values()))
    states = ", ".join(f"{count} {state}" for state, count in sorted(standing.states.items()))
    say(f"resuming {paths.run_id}: {states or 'nothing had begun'}")

    def prepare(ledger: LedgerClient) -> None:
        if not standing.specs:
            return  # the plan was never recorded: this is the launch
        if code_version != recorded:
            ledger.call("change_code", recorded, code_version)
        for change in found:
            ledger.call(
                "change_mission",
                plan.work(change.mission),
                change.differences,
                chosen=_still_chosen(paths, change, plan),
                data_differ=change.data_differ,
                code=code_version,
            )
            _discard(paths, change, plan)
        if order.retries:
            uncancelled = standing.cancelled_missions if order.cancelled else ()
            ledger.call("retry", _chosen(order, standing), uncancelled)
        ledger.call("reopen", taken.lock.session)
        _note_order(paths, asked, plan, found)

    meta = {**launch_facts(settings), "base_figures": figures}
    return work(
        plan,
        settings,
        taken.wishes,
        started=taken.started,
        meta=meta,
        earlier_s=standing.earlier_s,
        prepare=prepare,
    )


def _finish(taken: _Taken) -> int:
    """What follows the verdicts of a driver that was gone before it had done it."""
    run_id, standing = taken.paths.run_id, taken.standing
    say(f"run {run_id} has its verdicts: report, promotion and copy are made now")
    return finish(
        taken.settings,
        taken.wishes,
        started=taken.started,
        since=standing.last_began,
        wall_time_s=standing.earlier_s,
    )


def _refuse_sweeps(paths: RunPaths) -> None:
    """A run of sweeps has no runs to finish; its own command goes on with it."""
    if not is_begun(paths.ledger):
        return
    with LedgerReader(paths.ledger) as reader:
        again = reader.meta().get(SWEEP_ONLY)
    if again:
        raise UsageError(f"Run {paths.run_id} is a run of sweeps.", go_on=str(again))


def _refuse_unswept(paths: RunPaths, runs: Sequence[str]) -> None:
    """An arm that its mission's sweep went on without would be confirmed with untuned settings
    beside arms that were tuned."""
    with LedgerReader(paths.ledger) as reader:
        arms = sorted({(row.mission, row.arm) for row in reader.runs() if row.run in set(runs)})
        unswept = [f"{name}:{arm}" for name, arm in arms if arm in left_out(reader, name)]
    if unswept:
        raise UsageError(
            f"{', '.join(unswept)}: cancelled before the mission's sweep was settled, so nothing "
            "was chosen for it. Launch the mission as a run of its own."
        )


def _end_leftovers(paths: RunPaths, lock: HeldLock, seen: float | None) -> None:
    ended = leftovers.end_of_run(paths, lock.earlier)
    if ended and seen is not None:
        say(
            f"ended {len(ended)} processes that the driver of before had left "
            f"(it was last heard of at {moment(seen)})"
        )


def _chosen(order: ResumeOrder, standing: Standing) -> list[str]:
    """Runs that a retry takes up."""
    return [
        *(standing.failed if order.failed else ()),
        *(standing.cancelled if order.cancelled else ()),
    ]


def _resolved_now(asked: OrderFile, runs_dir: Path) -> dict[str, MissionSpec]:
    """What the words of the launch mean today."""
    order = Order(
        missions=asked.missions,
        arms=asked.arms,
        profile=asked.profile,
        overrides=asked.overrides,
        run_id="",
        dry_run=False,
        as_json=False,
        require_promotion=False,
        address=asked.address,
        cpus=asked.cpus,
        runs_dir=runs_dir,
        catalog=asked.catalog,
    )
    return {spec.id: spec for spec in resolve(order)}


def _judge_changes(
    order: ResumeOrder,
    paths: RunPaths,
    found: tuple[changes.MissionChange, ...],
    standing: Standing,
    *,
    code: tuple[str, str],
) -> None:
    """Shows what changed; refuses what is not allowed and what cannot be taken up.

    Raises:
        ConfigError: after the diff was shown.
    """
    if not found and code[0] == code[1]:
        return
    for change in found:
        say(
            f"mission {change.mission} differs from what this run was launched with "
            f"({change.before.digest()[:12]} then, {change.after.digest()[:12]} now):"
        )
        for line in change.differences:
            say(f"  {line}")
    if code[0] != code[1]:
        say(f"the code of bem, missions or stats differs ({code[0][:12]} then, {code[1][:12]} now)")
    against = [
        reason
        for change in found
        for reason in changes.obstacles(
            change,
            test_reads=standing.reads.get(change.mission, {}),
            judged=change.mission in standing.judged,
        )
    ]
    if against:
        raise ConfigError(f"These changes cannot be taken up: {'; '.join(against)}.")
    if not order.allow_changes:
        what = [f"mission {change.mission}" for change in found]
        what += ["the code version"] if code[0] != code[1] else []
        word = "retry --failed" if order.failed else "resume"
        raise ConfigError(
            f"Run {paths.run_id} was launched with another configuration ({', '.join(what)}; the "
            "differences are shown above). Undo them, or allow them: finished runs are kept, and "
            "both hashes are recorded in the chain of decisions.",
            go_on=f"python fleet.py {word} {paths.run_id} --allow-changes",
        )
    say("allowed by --allow-changes; recorded in the chain of decisions")


def _still_chosen(
    paths: RunPaths, change: changes.MissionChange, plan: CampaignPlan
) -> MissionWork | None:
    """The changed mission's work with what its sweep chose, where that choice still holds."""
    if change.before.sweep is None or change.reopens_sweep:
        return None
    with LedgerReader(paths.ledger) as reader:
        chosen = carried_over(reader, change.after)
    return None if chosen is None else settled(plan.work(change.mission), chosen)


def _discard(paths: RunPaths, change: changes.MissionChange, plan: CampaignPlan) -> None:
    """What was made with settings that are no more: nobody may continue from it."""
    folder = paths.work(change.mission)
    if change.data_differ:  # no test score was read: nothing here has counted yet
        shutil.rmtree(folder, ignore_errors=True)
        return
    if change.reopens_sweep:  # likewise; the arms were trained with settings that it chose
        for name in ("artifacts", "checkpoints", "sweep"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return
    for run in plan.work(change.mission).runs:
        arms = change.before.arms
        if run.arm in arms and change.before.arm_digest(run.arm) != run.arm_hash:
            shutil.rmtree(folder / "artifacts" / run.name, ignore_errors=True)


def _note_order(
    paths: RunPaths,
    asked: OrderFile,
    plan: CampaignPlan,
    found: tuple[changes.MissionChange, ...],
) -> None:
    """From now on the run is compared with what was allowed."""
    after = plain_specs([change.after for change in found])
    write_order(
        paths,
        asked.model_copy(
            update={"specs": {**asked.specs, **after}, "code_version": plan.code_version}
        ),
    )
