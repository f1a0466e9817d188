"""Ray Tune runs the trials of one mission's sweep; what is already in the ledger is not run again.

The search is replayed first: it proposes the same settings in the same order every time, so the
trials that the ledger holds are told to it until one is missing. Only then does Tune start, with a
function trainable whose actors are reused: base and data are made ready once an actor. Whatever
decides stands in `halving`; Tune places, runs and restarts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem.distributed import Share
from fleet.errors import FleetError, StorageError, SweepError, cause_of, first_line
from fleet.policies import Request
from fleet.redaction import RedactedStream, redactor
from fleet.settings import RunPaths
from fleet.sweep.halving import MissionSearch
from fleet.sweep.optuna_proposer import METRIC, OptunaProposer
from fleet.sweep.plan_lines import show_settings
from fleet.sweep.records import SweepOutcome, Trial, TrialRow
from fleet.sweep.resources import TrialResources
from fleet.sweep.trial import Bench, trial_key
from fleet.workers.failures import is_disk_trouble
from fleet.workers.worker_ledger import LedgerClient
from missions.spec import MissionSpec

MAX_FAILURES = 2
"""Restarts of a trial whose process died."""
_ENVIRONMENT = {
    # Every trial is a row of the ledger: Tune's own result files would say the same again.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Signals are the fleet's to handle.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial that is stopped in its training is killed, not waited for.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepJob:
    """What a trial's process is told; plain enough to cross processes."""

    mission: str
    root: str
    """The launch's folder; every worker must see it."""
    spec_json: str
    catalog: str
    code_version: str
    namespace: str
    gpus: float
    train_storage: str
    """Where the trainers of trials put their marks."""


class TuneSweep:
    """One mission's sweep from start to choice."""

    def __init__(
        self,
        job: SweepJob,
        ledger: LedgerClient,
        first: Mapping[str, Mapping[str, Any]],
        resources: TrialResources,
    ) -> None:
        """`first`: arm -> the mission file's own settings."""
        self._job = job
        self._ledger = ledger
        self._spec = MissionSpec.model_validate_json(job.spec_json)
        assert self._spec.sweep is not None, "only a mission with a sweep is swept"
        sweep = self._spec.sweep
        self._search = MissionSearch(self._spec, lambda arm: OptunaProposer(sweep, arm, first[arm]))
        self._resources = resources
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends the sweep soon; finished trials are kept."""
        self._stop.set()

    def leave_out(self, cancelled: Collection[str]) -> None:
        """Goes on without arms that a user cancelled; what is in training of them ends unheeded."""
        self._search.leave_out(cancelled)

    def run(self) -> SweepOutcome:
        """Runs what is missing.

        Raises:
            SweepError: an arm without a trial that can be chosen, a trial that leaves no result
                however often it is tried, or the sweep was stopped.
            StorageError: the disk gave out under it.
        """
        self._replay()
        if self._search.next() is not None:
            try:
                self._tune()
            except Exception as error:
                if (disk := cause_of(error, OSError)) is not None and is_disk_trouble(disk):
                    raise StorageError(f"{type(disk).__name__}: {disk}") from error
                raise
        if self._stop.is_set():
            raise SweepError(f"Mission {self._job.mission}: its sweep was stopped.")
        return self._search.outcome()

    def _replay(self) -> None:
        while isinstance(trial := self._search.next(), Trial):
            key = trial_key(self._spec, trial, self._job.code_version)
            row = self._ledger.call("find_trial", key)
            if row is None:
                return
            self._search.start(trial)
            self._search.tell(as_own(row, trial))

    def _tune(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from ray import tune
        from ray.tune import Tuner

        from fleet.sweep.tune_search import FlagStopper, LedgerSearch

        searcher = LedgerSearch(self._search, self._row_of, self._tell)
        trainable = tune.with_resources(
            tune.with_parameters(trial_function, job=dataclasses.asdict(self._job)),
            tune.PlacementGroupFactory(**trial_place(self._resources.own)),
        )
        mission = self._job.mission

        def name_of(trial: Any) -> str:
            return f"{mission}-{trial.trial_id}"

        folder = Path(self._job.root) / "tune"
        folder.mkdir(parents=True, exist_ok=True)
        tuner = Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=sum(self._search.sizes) * len(self._search.arms),
                max_concurrent_trials=self._resources.at_once,
                reuse_actors=True,
                trial_name_creator=name_of,
                trial_dirname_creator=name_of,
            ),
            run_config=tune.RunConfig(
                # Fresh for every start: an old name would be resumed, its trials run again.
                name=f"{self._job.mission}-{os.getpid()}-{threading.get_ident()}",
                storage_path=str(folder.absolute()),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                stop=FlagStopper(self._stop.is_set),
                verbose=0,
            ),
        )
        with _log_of_tune(RunPaths(root=Path(self._job.root)).logs):
            results = tuner.fit()
        lost = searcher.lost
        if lost and not self._stop.is_set():
            raise end_of_sweep(self._job.mission, lost[0], results.errors)

    def _row_of(self, trial: Trial) -> TrialRow | None:
        row = self._ledger.call("find_trial", trial_key(self._spec, trial, self._job.code_version))
        return None if row is None else as_own(row, trial)

    def _tell(self, trial: Trial, row: TrialRow) -> None:
        if self._stop.is_set():
            return
        sweep = self._spec.sweep
        assert sweep is not None, "only a mission with a sweep is swept"
        rungs = f", rung {trial.rung + 1} of {len(sweep.rungs)}" if len(sweep.rungs) > 1 else ""
        came = f"{sweep.metric} {row.score:.4f}" if row.score is not None else row.error
        said = show_settings(trial.settings)
        which = f"{trial.arm}, trial {trial.number + 1} of {sweep.trials}{rungs}"
        self._ledger.event(
            "info" if row.score is not None else "warning",
            self._job.mission,
            f"sweep: {which}: {came} ({said})",
        )


@contextlib.contextmanager
def _log_of_tune(logs: Path) -> Iterator[None]:
    """Tune writes the traceback of every trial that fails to stderr: it goes to a file instead. The
    sweep's own end says why, once."""
    logs.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("ray.tune")
    own = threading.get_ident()
    with (
        (logs / "tune.log").open("a", encoding="utf-8") as stream,
        contextlib.closing(RedactedStream(stream, redactor())) as cleaned,
    ):
        handler = logging.StreamHandler(cleaned)
        # Another mission may be swept at the same time, in a thread with a handler of its own.
        handler.addFilter(lambda record: record.thread == own)
        logger.propagate = False
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def trial_place(request: Request) -> dict[str, Any]:
    """What a trial's own process asks for in Ray's words: one bundle of a placement group."""
    place: dict[str, Any] = {"bundles": [request.as_ray()]}
    if request.labels:
        place["bundle_label_selector"] = [request.ray_labels()]
    return place


def as_own(row: TrialRow, trial: Trial) -> TrialRow:
    """A row as the result of this trial: equal settings may stand under another number."""
    if (row.number, row.rung) == (trial.number, trial.rung):
        return row
    return dataclasses.replace(row, number=trial.number, rung=trial.rung, cpu_s=0.0, wall_s=0.0)


def end_of_sweep(mission: str, trial: Trial, errors: Sequence[BaseException]) -> FleetError:
    """The error of a sweep one of whose trials left no result: memory, disk, a process that dies.

    None of these says that its settings are bad, so no choice is made without it.

    Args:
        errors: what Tune says of the trials that failed, the first one's first.
    """
    for error in errors:
        if (disk := _as_raised(error, StorageError)) is not None:
            return StorageError(str(disk))
    told = [_as_raised(error, SweepError) or error for error in errors]
    why = first_line(told[0]) if told else "its process ended"
    return SweepError(
        f"Mission {mission}: trial {trial.number + 1} of arm {trial.arm} "
        f"({show_settings(trial.settings)}) left no result in {MAX_FAILURES + 1} attempts: "
        f"{why.rstrip('.')}. Nothing is chosen without it; finished trials are kept. "
        "Give it what it lacks (resources), or take such settings out of sweep.space"
    )


def _as_raised(error: BaseException, kind: type[FleetError]) -> BaseException | None:
    """The error behind another as the trial raised it: Ray's own is of its kind too, and says the
    whole remote traceback."""
    found = cause_of(error, kind)
    inner = getattr(found, "cause", None)
    return inner if isinstance(inner, kind) else found


_BENCHES: dict[str, Bench] = {}
"""Of this process: an actor that is reused finds base and data where it left them."""


def trial_function(config: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """What Tune calls for every trial. A trial that finds its row returns at once."""
    from ray import tune

    from fleet.workers.worker_ledger import connect

    order = SweepJob(**job)
    trial = parse_trial(config)
    ledger = connect(order.namespace)
    spec = MissionSpec.model_validate_json(order.spec_json)
    key = trial_key(spec, trial, order.code_version)
    row = ledger.call("find_trial", key)
    if row is None and spec.resources.strategy != "packed":
        from fleet.sweep.nested import train_in_group

        train_in_group(spec, config, job, name=key)
        row = ledger.call("find_trial", key)
        if row is None:
            raise SweepError(f"Mission {order.mission}: the worker group of a trial left no score.")
    elif row is None:
        row = _bench(order, spec).run(trial)
        ledger.call("record_trial", row)
    tune.report({METRIC: row.score if row.score is not None else 0.0})


def _bench(order: SweepJob, spec: MissionSpec) -> Bench:
    import torch

    key = f"{order.root}/{order.mission}"
    if key not in _BENCHES:
        device = torch.device("cuda" if order.gpus else "cpu")
        _BENCHES[key] = make_bench(order, spec, device, share=None)
    return _BENCHES[key]


def make_bench(order: SweepJob, spec: MissionSpec, device: Any, *, share: Share | None) -> Bench:
    """The ground of a mission's trials in this process; its log is opened."""
    import importlib

    import torch

    from fleet.monitor.mission_log import open_mission_log

    torch.set_num_threads(1)
    paths = RunPaths(root=Path(order.root))
    open_mission_log(paths.logs, order.mission)
    folder = paths.work(order.mission) / "sweep"
    if share is not None and not share.leads:
        folder = folder / f"follower-{share.rank}"
    return Bench(
        spec,
        importlib.import_module(order.catalog).load_mission(order.mission),
        folder,
        code_version=order.code_version,
        device=device,
        share=share,
    )


def as_config(trial: Trial) -> dict[str, Any]:
    """A trial as Tune's configuration; settings as text, for their paths have dots."""
    return {
        "arm": trial.arm,
        "number": trial.number,
        "rung": trial.rung,
        "settings": json.dumps(dict(trial.settings), sort_keys=True),
    }


def parse_trial(config: Mapping[str, Any]) -> Trial:
    """The trial from Tune's configuration."""
    return Trial(
        arm=config["arm"],
        number=config["number"],
        rung=config["rung"],
        settings=json.loads(config["settings"]),
    )


@dataclass(kw_only=True, slots=True)
class SweepThread:
    """A sweep in a thread of the driver, and how it ended."""

    mission: str
    sweep: TuneSweep
    thread: threading.Thread
    outcome: SweepOutcome | None = None
    error: BaseException | None = None
    ended: bool = False


def start_sweep(mission: str, sweep: TuneSweep) -> SweepThread:
    """Starts a sweep; `SweepThread.ended` turns true when there is an outcome or an error."""

    def work() -> None:
        try:
            state.outcome = sweep.run()
        except Exception as error:  # noqa: BLE001 - the driver's loop records it
            state.error = error
        finally:
            state.ended = True

    thread = threading.Thread(target=work, name=f"sweep-{mission}", daemon=True)
    state = SweepThread(mission=mission, sweep=sweep, thread=thread)
    thread.start()
    return state
