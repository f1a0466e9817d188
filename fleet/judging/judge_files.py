"""Judges scores that other tools wrote: command line in, verdict out. Knows no launch and no Ray.

The gates are those of mission files and the statistics those of a launch; only the scores come
from elsewhere. What a launch would have fixed and frozen beforehand nobody did here, and the
result says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from fleet.errors import ConfigError, NotFoundError, UsageError
from stats.checkpoint import CheckpointInterval, checkpoint_interval
from stats.errors import StatsError
from stats.gates import GateBase, parse_gate
from stats.integrity import manifest_digest
from stats.scores import ScoreTable
from stats.sources import Source, SourceOptions, read_source
from stats.sources.lm_eval import task_of
from stats.verdict import MissionPlan, MissionVerdict, ParityRule, judge, judge_family

NOT_FROZEN = (
    "gates were given beside the scores: nothing shows that they were fixed before the scores "
    "were seen, that settings were chosen on another split, or how often the test split was read"
)
ONE_SEED = (
    "one seed an arm: the variance between seeds is unknown, so no gate can pass. What the "
    "checkpoints show is about them, not about the method; train more seeds to judge that"
)
_SCORES = re.compile(r"^(?P<arm>[^:=]+)(?::(?P<seed>\d+))?=(?P<path>.+)$")
_SETTING = re.compile(r",(?=\s*[a-z_]+\s*[=:])")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeOrder:
    """What the user asked for."""

    file: Path | None
    """A long table with arms and seeds in it."""
    scores: tuple[str, ...]
    """`ARM[:SEED]=PATH`, one file of one arm and seed each."""
    gates: tuple[str, ...]
    name: str
    columns: tuple[str, ...] = ()
    form: str | None = None
    cluster: str | None = None
    clusters: str = ""
    epochs: Literal["mean", "seed"] = "mean"
    level: float = 0.95
    resamples: int = 10_000
    rng_seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The verdict with what one must know to read it."""

    verdict: MissionVerdict
    scores: ScoreTable
    sources: tuple[Source, ...]
    checkpoints: tuple[CheckpointInterval, ...]
    """With one seed an arm: what the single checkpoints show."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "verdict": self.verdict.to_dict(),
            "checkpoints": [found.to_dict() for found in self.checkpoints],
            "notes": list(self.notes),
            "sources": [
                {
                    "path": str(source.path),
                    "format": source.format,
                    "rows": len(source.scores),
                    "scores_digest": source.scores.digest(),
                }
                for source in self.sources
            ],
            "manifest": manifest_digest(self.scores),
        }


def judge_files(order: JudgeOrder) -> Judged:
    """Reads, checks and judges.

    Raises:
        UsageError: options that do not go together, or cannot be read.
        NotFoundError: a file that is not there.
        ConfigError: a gate or a file of scores that cannot be accepted.
    """
    gates = read_gates(order.gates)
    metrics = _metrics(gates)
    sources = tuple(_sources(order, metrics))
    scores = ScoreTable.concat(source.scores for source in sources)
    _check_arms(gates, scores)
    plan = MissionPlan(
        mission=order.name,
        hypothesis="as the gates state",
        estimand="as the primary gate states",
        seeds=scores.seeds,
        num_examples_min=1,
        gates=gates,
        parity=ParityRule(tolerance=0.05, pairs=()),
        clusters=order.clusters,
    )
    verdict = judge(
        plan,
        scores,
        {},
        rng_seed=order.rng_seed,
        level=order.level,
        resamples=order.resamples,
    )
    checkpoints = tuple(_checkpoints(gates, scores, order.level))
    notes = [note for source in sources for note in source.notes]
    if len(scores.seeds) == 1:
        notes.append(ONE_SEED)
    return Judged(
        verdict=judge_family([verdict])[0],
        scores=scores,
        sources=sources,
        checkpoints=checkpoints,
        notes=(*dict.fromkeys(notes), NOT_FROZEN),
    )


def read_gates(items: Sequence[str]) -> tuple[GateBase, ...]:
    """Gates from `--gate`: settings on the command line, or files that hold some.

    The first gate is the primary one unless one says so itself; a gate without an id is named
    after its kind and metric.
    """
    if not items:
        raise UsageError(
            "Give at least one --gate, such as "
            "--gate kind:superiority,metric=acc,treatment=a,versus=b,min_point=0.015"
        )
    documents = [document for item in items for document in _documents(item)]
    if not any(document.get("primary") for document in documents):
        documents[0] = {**documents[0], "primary": True}
    taken: set[str] = set()
    gates: list[GateBase] = []
    for document in documents:
        stem = str(document.get("id") or f"{document.get('kind')}-{document.get('metric')}")
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        try:
            gates.append(parse_gate({**document, "id": name}))
        except StatsError as error:
            raise ConfigError(f"--gate: {error}") from None
    return tuple(gates)


def _documents(item: str) -> list[dict[str, Any]]:
    if Path(item).suffix in (".yaml", ".yml", ".json"):
        return _gate_file(Path(item))
    settings: dict[str, Any] = {}
    for part in _SETTING.split(item):
        found = re.match(r"^\s*([a-z_]+)\s*[=:]\s*(.*)$", part, re.DOTALL)
        if found is None:
            raise UsageError(
                f"--gate {item!r}: {part!r} is not NAME=VALUE. A gate is "
                "kind:superiority,metric=acc,treatment=a,versus=b, or a .yaml or .json file."
            )
        try:
            settings[found[1]] = yaml.safe_load(found[2])
        except yaml.YAMLError:
            raise UsageError(f"--gate {item!r}: the value of {found[1]!r} is not YAML.") from None
    return [settings]


def _gate_file(path: Path) -> list[dict[str, Any]]:
    """One gate, a list of gates, or any mapping with `gates` in it (a mission file)."""
    if not path.is_file():
        raise NotFoundError(f"--gate {path}: no such file.")
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--gate {path}: {' '.join(str(error).split())}") from None
    if isinstance(document, dict) and isinstance(document.get("gates"), list):
        document = document["gates"]
    found = document if isinstance(document, list) else [document]
    if not found or not all(isinstance(gate, dict) for gate in found):
        raise ConfigError(f"--gate {path}: expected a gate, a list of gates, or `gates: [...]`.")
    return [dict(gate) for gate in found]


def _metrics(gates: Sequence[GateBase]) -> tuple[str, ...]:
    """Every metric that a gate may read; a kind names them in `metric` and `metrics`."""
    found: dict[str, None] = {}
    for gate in gates:
        if gate.kind == "exact":
            continue  # reads costs, not scores
        for name in (gate.metric, *getattr(gate, "metrics", ())):
            found[str(name)] = None
        if gate.kind == "time_to_event":
            found[f"{gate.metric}_event"] = None
    return tuple(found)


def _sources(order: JudgeOrder, metrics: tuple[str, ...]) -> list[Source]:
    if (order.file is None) == (not order.scores):
        raise UsageError(
            "Give either FILE, a long table with arms and seeds in it, or --scores ARM:SEED=PATH "
            "for every arm and seed."
        )
    shared: dict[str, Any] = {
        "columns": _columns(order.columns),
        "cluster": order.cluster,
        "epochs": order.epochs,
    }
    if order.file is not None:
        _exists(order.file)
        options = SourceOptions(**shared, metrics=metrics if len(metrics) == 1 else None)
        source = read_source(order.file, options, form=order.form)
        return [_only(source, metrics)]
    asked = [_scores_option(item, order.epochs) for item in order.scores]
    several = {key for key in asked if sum(key[:2] == other[:2] for other in asked) > 1}
    sources = []
    for arm, seed, path in asked:
        _exists(path)
        options = SourceOptions(
            **shared,
            arm=arm,
            seed=seed,
            metrics=metrics,
            prefix=_prefix(path) if (arm, seed, path) in several else "",
        )
        sources.append(_only(read_source(path, options, form=order.form), metrics))
    return sources


def _only(source: Source, metrics: tuple[str, ...]) -> Source:
    kept = source.scores.select(metric=metrics)
    if not len(kept):
        known = ", ".join(source.scores.metrics)
        raise ConfigError(
            f"{source.path}: no metric {', '.join(map(repr, metrics))}; known: {known}."
        )
    return Source(path=source.path, format=source.format, scores=kept, notes=source.notes)


def _prefix(path: Path) -> str:
    """Tells the items of several tasks of one arm and seed apart."""
    task = task_of(path)
    if task is None:
        raise UsageError(
            f"--scores: several files of one arm and seed, and {path.name!r} does not tell its "
            "task (samples_<task>_<time>.jsonl), so equal item numbers cannot be told apart."
        )
    return f"{task}/"


def _scores_option(item: str, epochs: str) -> tuple[str, int | None, Path]:
    found = _SCORES.match(item)
    if found is None:
        raise UsageError(f"--scores {item!r}: expected ARM:SEED=PATH, such as treatment:0=a.jsonl.")
    seed = found["seed"]
    if seed is None and epochs == "mean":
        return found["arm"], 0, Path(found["path"])
    return found["arm"], None if seed is None else int(seed), Path(found["path"])


def _columns(items: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in items:
        for part in item.split(","):
            name, separator, source = part.partition("=")
            if not separator or not name or not source:
                raise UsageError(f"--columns {part!r}: expected OURS=THEIRS, such as arm=model.")
            found[name.strip()] = source.strip()
    return found


def _exists(path: Path) -> None:
    if not path.is_file():
        raise NotFoundError(f"No file {path}.")


def _check_arms(gates: Sequence[GateBase], scores: ScoreTable) -> None:
    for gate in gates:
        for arm in (gate.treatment, getattr(gate, "versus", "")):
            if arm and arm not in scores.arms:
                raise ConfigError(
                    f"--gate {gate.id}: no scores of arm {arm!r}; known arms: "
                    f"{', '.join(scores.arms)}."
                )


def _checkpoints(
    gates: Sequence[GateBase], scores: ScoreTable, level: float
) -> list[CheckpointInterval]:
    """What single checkpoints show, for every pair of arms that a gate compares on a metric."""
    found: dict[tuple[str, str, str], CheckpointInterval] = {}
    for gate in gates:
        versus = getattr(gate, "versus", "")
        key = (gate.metric, gate.treatment, versus)
        part = scores.select(metric=gate.metric, arms=[gate.treatment, versus])
        if not versus or key in found or len(part.seeds) != 1:
            continue
        try:
            shown = checkpoint_interval(part, *key, level=level)
        except StatsError:
            continue  # the gate's own reason says what is wrong with these scores
        if shown is not None:
            found[key] = shown
    return list(found.values())


def text_of(judged: Judged) -> str:
    """The verdict table for a terminal."""
    verdict = judged.verdict
    lines = [f"{verdict.mission}: {verdict.verdict}"]
    lines += [f"  {reason}" for reason in verdict.reasons]
    lines.append("")
    for gate in verdict.gates:
        marks = "primary" if gate.primary else "required" if gate.required else "reported only"
        lines.append(f"{gate.decision:<13s} {gate.gate} ({gate.kind}, {marks})")
        lines.append(f"              {gate.reason}")
        if gate.criterion:
            lines.append(f"              passes if {gate.criterion}")
        figures = _figures(gate.to_dict())
        if figures:
            lines.append(f"              {figures}")
        if gate.would_decide is not None:
            lines.append(f"              to decide: {gate.would_decide.text}")
    for shown in judged.checkpoints:
        lines.append("")
        lines.append(
            f"{shown.metric}, {shown.treatment} minus {shown.control}, one checkpoint each, "
            f"{shown.num_examples:,} items, p = {shown.p_value:.3g} (two-sided)"
        )
        lines.append(f"  {shown}")
    lines.append("")
    lines += [f"note: {note}" for note in judged.notes]
    return "\n".join(lines) + "\n"


def _figures(gate: Mapping[str, Any]) -> str:
    parts = []
    if gate["p_value"] is not None:
        parts.append(f"p = {gate['p_value']:.3g} (one-sided)")
    if gate["mde"] is not None:
        fraction = gate["scale"] == "fraction"
        mde = f"{100 * gate['mde']:.3g} pp" if fraction else f"{gate['mde']:.3g}"
        parts.append(f"detectable {mde} at 80 % power")
    if gate["num_units"]:
        units = f"{gate['num_examples']:,} items"
        if gate["num_units"] != gate["num_examples"]:
            units += f" in {gate['num_units']:,} clusters"
        parts.append(f"{len(gate['seeds'])} seeds x {units}")
    return "; ".join(parts)


def json_of(judged: Judged) -> str:
    """One JSON document."""
    return json.dumps(judged.to_dict(), indent=1, allow_nan=False) + "\n"
