"""Writes a launch's report and its JSON result from the ledger and the score files.

Everything is read from disk, so the report of any past launch can be written again. Knows the
fields of `stats.report`, no statistics of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet.errors import NotFoundError, first_line
from fleet.judging.interim_table import interim_table
from fleet.judging.split_reads import (
    RegisterLine,
    describe_freeze,
    reads_in_run,
    register,
)
from fleet.judging.stats_actor import read_scores
from fleet.judging.verdicts import newest_verdicts, verdict_digest
from fleet.ledger.files import write_durably
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Decision, RunRow, Timing
from fleet.reporting.ledger_facts import ledger_facts
from fleet.reporting.report_facts import calibration_fact, clusters_fact, reads_fact
from fleet.settings import RunPaths
from fleet.states import RunState
from fleet.sweep.table import sweep_document, sweep_tables
from missions.spec import MissionSpec
from stats.plain import from_plain
from stats.report import Extra, Fact, Failure, MissionInfo, ReportContext, write_report
from stats.report.wording import measured_sentence
from stats.scores import ScoreTable
from stats.sequential.stop import EarlyStop
from stats.verdict import MissionVerdict


def write(paths: RunPaths, *, wall_time_s: float | None = None) -> tuple[Path, dict[str, Any]]:
    """Writes `report/index.html` and `result.json`; returns the page and the result.

    Raises:
        NotFoundError: the launch has no verdicts (it runs still, or was stopped).
    """
    with LedgerReader(paths.ledger) as reader:
        verdicts = [
            MissionVerdict.from_dict(link.body) for link in newest_verdicts(reader.decisions())
        ]
        if not verdicts:
            raise NotFoundError(
                f"Run {paths.run_id} has no verdicts: it was stopped, or runs still.",
                go_on=f"python fleet.py status {paths.run_id}, or python fleet.py resume "
                f"{paths.run_id}",
            )
        meta = reader.meta()
        wall_s = wall_time_s if wall_time_s is not None else float(meta["wall_s"])
        scores = {
            row.mission: read_scores(
                paths, [result.scores_file for result in reader.results(row.mission)]
            )
            for row in reader.missions()
        }
        context = _context(reader, meta, wall_s, register(paths), paths, verdicts)
        document = _document(reader, meta, verdicts, wall_s, paths)
    scored: dict[str, ScoreTable] = {n: table for n, table in scores.items() if len(table)}
    page = write_report(paths.report.parent, verdicts, scored, context)
    content = json.dumps(document, indent=1, allow_nan=False).encode()
    write_durably(paths.result, content)
    return page, document


def _context(
    reader: LedgerReader,
    meta: Mapping[str, Any],
    wall_s: float,
    reads: Sequence[RegisterLine],
    paths: RunPaths,
    verdicts: Sequence[MissionVerdict],
) -> ReportContext:
    infos: dict[str, MissionInfo] = {}
    extras: dict[str, list[Extra]] = {}
    specs: dict[str, MissionSpec] = {}
    links = reader.decisions()
    runs = reader.runs()
    for row in sorted(reader.missions(), key=lambda item: item.mission):
        spec = MissionSpec.model_validate_json(reader.spec_json(row.mission))
        specs[row.mission] = spec
        infos[row.mission] = MissionInfo(
            title=row.title,
            claim=spec.claim,
            spec_digest=row.spec_hash,
            data_digest=row.data_digest or "",
            tuning=describe_freeze(links, row.mission),
            test_reads=_test_reads(reader, links, row.mission),
        )
        extras[row.mission] = [
            *(_extra(plain) for plain in reader.extras(row.mission)),
            *sweep_tables(reader, row.mission),
            *filter(None, [interim_table(meta.get(f"interim/{row.mission}", []))]),
            _runs_table(reader, row.mission),
        ]
    timings = reader.timings()
    notes = [f"verdict table digest {verdict_digest(_verdicts(reader))}"]
    if meta.get("dirty"):
        notes.append("The working tree held uncommitted changes: treat the figures as scratch.")
    if meta.get("code_changed"):
        notes.append("The code changed while the launch ran: its runs may mix two versions.")
    if left_out := meta.get("sweeps_left_out"):
        notes.append(
            f"No sweep for {', '.join(left_out)} (--no-sweep): confirmed are the settings that the "
            "mission files hold."
        )
    hardware = {str(key): str(value) for key, value in dict(meta["hardware"]).items()}
    hardware["worker slots"] = str(meta["slots"])
    hardware |= {f"time: {name}": f"{value:.1f} s" for name, value in _time(timings, meta).items()}
    if (overhead := _overhead(timings, meta, wall_s)) is not None:
        hardware["fleet overhead"] = f"{overhead:.2f} (wall x slots / CPU of the missions' work)"
    return ReportContext(
        run_id=str(meta["run_id"]),
        profile=str(meta["profile"]),
        command=str(meta["command"]),
        commit=str(meta["commit"]),
        dirty=bool(meta["dirty"]),
        wall_time_s=wall_s,
        created=str(meta["created"]),
        hardware=hardware,
        versions={str(key): str(value) for key, value in dict(meta["versions"]).items()},
        missions=infos,
        extras=extras,
        failures=_failures(reader, runs),
        notes=notes,
        checklist={
            **ledger_facts(reader, meta, paths),
            **_checklist(reads, paths, specs, verdicts),
        },
        calibration=calibration_fact(),
    )


def _test_reads(reader: LedgerReader, links: Sequence[Decision], mission: str) -> int | None:
    """Reads of the test split; None for scores of the days when reads were not recorded."""
    counted = reads_in_run(links, mission).count
    return None if not counted and reader.results(mission) else counted


def _checklist(
    reads: Sequence[RegisterLine],
    paths: RunPaths,
    specs: Mapping[str, MissionSpec],
    verdicts: Sequence[MissionVerdict],
) -> dict[str, Fact | str]:
    """Lines that only the ledger and the register beside it can answer."""
    facts = {
        "reads": reads_fact(reads, paths.root.parent),
        "clusters": clusters_fact(specs, verdicts),
    }
    return {key: fact for key, fact in facts.items() if fact is not None}


def _verdicts(reader: LedgerReader) -> list[dict[str, Any]]:
    return [link.body for link in newest_verdicts(reader.decisions())]


def _extra(plain: Mapping[str, Any]) -> Extra:
    if plain["is"] == "table":
        return Extra(
            title=plain["title"],
            caption=plain["caption"],
            columns=tuple(plain["columns"]),
            rows=tuple(tuple(row) for row in plain["rows"]),
        )
    return Extra(
        title=plain["title"],
        caption=plain["caption"],
        lines={label: (tuple(xs), tuple(ys)) for label, (xs, ys) in plain["lines"].items()},
        x_label=plain["x_label"],
        y_label=plain["y_label"],
        log2_x=bool(plain["log2_x"]),
    )


def _runs_table(reader: LedgerReader, mission: str) -> Extra:
    """Diagnostics of every run, as its artifact recorded them."""
    figures = {(row.arm, row.seed): json.loads(row.figures_json) for row in reader.results(mission)}
    names = sorted({name for values in figures.values() for name in values})
    rows: list[tuple[str | float | int, ...]] = [
        (arm, seed, *(_show(values.get(name)) for name in names))
        for (arm, seed), values in sorted(figures.items())
    ]
    return Extra(
        title="Runs and their diagnostics",
        caption="One row a run; figures as its artifact recorded them, empty where it has none.",
        columns=("arm", "seed", *names),
        rows=rows,
    )


def _show(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def _unfinished(reader: LedgerReader, runs: list[RunRow]) -> list[RunRow]:
    """Runs that are not DONE though they should be: an early end of their mission cancels some."""
    stopped = {d.body["mission"] for d in reader.decisions() if d.kind == "early_stop"}
    return [
        run
        for run in runs
        if run.state is not RunState.DONE
        and not (run.state is RunState.CANCELLED and run.mission in stopped)
    ]


def _failures(reader: LedgerReader, runs: list[RunRow]) -> list[Failure]:
    unfinished = _unfinished(reader, runs)
    ends = {
        from_plain(EarlyStop, {k: v for k, v in d.body.items() if k != "mission"}).text
        for d in reader.decisions()
        if d.kind == "early_stop"
    }
    found = [
        Failure(
            mission=run.mission,
            arm=run.arm,
            seed=run.seed,
            error=run.reason or f"left {run.state}",
            resolved=False,
        )
        for run in unfinished
    ]
    packs = {pack.pack: pack for pack in reader.packs()}
    for event in reader.events(level="warning", limit=100_000):
        pack = packs.get(event.source)
        if pack is not None and event.text not in ends:
            open_runs = any(run.pack == pack.pack for run in unfinished)
            found.append(
                Failure(
                    mission=pack.mission,
                    arm="(pack)",
                    seed=pack.seed,
                    error=event.text,
                    resolved=not open_runs,
                )
            )
    for level in ("error", "alarm"):
        known = {run.run for run in unfinished}
        done = {run.run for run in runs if run.state is RunState.DONE}
        found += [
            Failure(
                mission=event.source,
                arm="",
                seed=None,
                error=first_line(event.text),
                resolved=level == "error" and event.source in done,  # a retry has mended it
            )
            for event in reader.events(level=level)
            if event.source not in known
        ]
    return found


def _document(
    reader: LedgerReader,
    meta: Mapping[str, Any],
    verdicts: list[MissionVerdict],
    wall_s: float,
    paths: RunPaths,
) -> dict[str, Any]:
    """The result as one JSON document."""
    timings = reader.timings()
    runs = reader.runs()
    by_name = {verdict.mission: verdict for verdict in verdicts}
    rows = []
    for row in sorted(reader.missions(), key=lambda item: item.mission):
        verdict = by_name[row.mission]
        own = [run for run in runs if run.mission == row.mission]
        wall = (row.ended_at or 0) - (row.started_at or 0)
        rows.append(
            {
                "mission": row.mission,
                "title": row.title,
                "verdict": verdict.verdict,
                "reasons": list(verdict.reasons),
                "stopped": verdict.stopped.text if verdict.stopped else None,
                "measured": measured_sentence(verdict),
                "p_value": verdict.p_value,
                "p_bh": verdict.family.p_bh if verdict.family else None,
                "done": sum(run.state is RunState.DONE for run in own),
                "runs": len(own),
                "wall_s": wall,
                "cpu_s": _cpu(timings, row.mission),
                "startup_s": max(
                    (t.wall_s for t in timings if (t.mission, t.stage) == (row.mission, "startup")),
                    default=0.0,
                ),
                "stages": _stages(timings, row.mission),
                "spec_hash": row.spec_hash,
                "data_digest": row.data_digest,
                "scores_digest": verdict.scores_digest,
                "error": row.error,
                "sweep": sweep_document(reader, row.mission),
            }
        )
    return {
        "run_id": meta["run_id"],
        "profile": meta["profile"],
        "command": meta["command"],
        "commit": meta["commit"],
        "dirty": meta["dirty"],
        "code_version": meta["code_version"],
        "created": meta["created"],
        "missions": rows,
        "failures": [
            {"run": run.run, "state": run.state.value, "error": run.reason}
            for run in _unfinished(reader, runs)
        ],
        "verdict_digest": verdict_digest([verdict.to_dict() for verdict in verdicts]),
        "time": {
            "wall_s": wall_s,
            "overhead": _overhead(timings, meta, wall_s),
            **_time(timings, meta),
        },
        "hardware": meta["hardware"],
        "versions": meta["versions"],
        "report": str(paths.report),
        "scores": str(paths.report.parent / "scores"),
        "ledger": str(paths.ledger),
    }


WORK_STAGES = ("prepare", "sweep", "train", "evaluate", "extras")
"""Stages of a worker; `base` lies inside `prepare` or `train`."""


def _stages(timings: list[Timing], mission: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for timing in timings:
        if timing.mission == mission and timing.stage != "job":
            stage = found.setdefault(timing.stage, {"wall_s": 0.0, "cpu_s": 0.0})
            stage["wall_s"] += timing.wall_s
            stage["cpu_s"] += timing.cpu_s
    return found


def _cpu(timings: list[Timing], mission: str) -> float:
    return sum(t.cpu_s for t in timings if t.mission == mission and t.stage in WORK_STAGES)


def _overhead(timings: list[Timing], meta: Mapping[str, Any], wall_s: float) -> float | None:
    """Wall time x slots over the CPU seconds of the missions' work; 1 would be slots never idle."""
    work_s = sum(t.cpu_s for t in timings if t.stage in WORK_STAGES)
    return wall_s * float(meta["slots"]) / work_s if work_s > 0 else None


def _time(timings: list[Timing], meta: Mapping[str, Any]) -> dict[str, float]:
    """Where a launch's time went, in seconds."""
    startups = [t for t in timings if t.stage == "startup" and t.mission]
    work = [t for t in timings if t.stage in WORK_STAGES]
    return {
        "ray_startup_s": float(meta.get("session", {}).get("ray_startup_s", 0.0)),
        "first_worker_startup_s": min((t.wall_s for t in startups), default=0.0),
        "worker_startup_cpu_s": sum(t.cpu_s for t in startups),
        "worker_cpu_s": sum(t.cpu_s for t in work),
        "worker_wall_s": sum(t.wall_s for t in work),
        "judge_s": sum(t.wall_s for t in timings if t.stage == "judge"),
    }
