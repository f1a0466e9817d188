"""The reviewer's checklist, answered line by line from what the results hold.

A line that the results cannot answer says so, unless the runner answers it through
`ReportContext.checklist` under the line's key. Nothing is claimed that was not handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stats.report.context import ReportContext
from stats.verdict import MissionVerdict

Status = Literal["yes", "no", "open"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChecklistLine:
    """One question with its answer."""

    key: str
    question: str
    answer: str
    status: Status


Answer = tuple[Status, str]
_Rule = Callable[[Sequence[MissionVerdict], ReportContext], Answer]
_UNSTATED = "not stated by this run"


def checklist(
    verdicts: Sequence[MissionVerdict], context: ReportContext
) -> tuple[ChecklistLine, ...]:
    """All lines, in the order of the rules below."""
    lines: list[ChecklistLine] = []
    for key, question, rule in _RULES:
        status, answer = rule(verdicts, context)
        if key in context.checklist:
            status, answer = "yes", context.checklist[key]
        lines.append(ChecklistLine(key=key, question=question, answer=answer, status=status))
    return tuple(lines)


def checklist_keys() -> tuple[str, ...]:
    """Keys that a runner may answer."""
    return tuple(key for key, _, _ in _RULES)


def _estimand(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", "in words at every gate: quantity, arms, and the seeds and items it runs over"


def _fixed(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    hashed = [
        v.mission
        for v in verdicts
        if v.mission in context.missions and context.missions[v.mission].spec_digest
    ]
    if len(hashed) == len(verdicts):
        return "yes", "hash of the resolved mission file taken before any data existed, see below"
    return "open", f"hash of the mission file known for {len(hashed)} of {len(verdicts)} missions"


def _paired(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", (
        "arms share seeds and example ids cell by cell; a missing cell makes the gate INVALID and "
        "is never dropped"
    )


def _seeds(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", "seeds and items both random; variance components shown for every gate"


def _clusters(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    clustered = [
        v.mission for v in verdicts for g in v.gates if g.primary and g.num_units < g.num_examples
    ]
    text = ", ".join(clustered) if clustered else "none"
    return "yes", f"missions with declared clusters in the primary gate: {text}"


def _tuning(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    stated = [f"{name}: {info.tuning}" for name, info in context.missions.items() if info.tuning]
    return ("yes", "; ".join(stated)) if stated else ("open", _UNSTATED)


def _reads(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    reads = {n: i.test_reads for n, i in context.missions.items() if i.test_reads is not None}
    if not reads:
        return "open", f"number of test-split reads {_UNSTATED}"
    return "yes", "test-split reads: " + ", ".join(f"{n} {count}" for n, count in reads.items())


def _all_runs(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    lost = [failure for failure in context.failures if not failure.resolved]
    text = f"{len(context.failures)} failures recorded, {len(lost)} without a later success"
    return ("no" if lost else "yes"), f"{text}; means of every arm below"


def _method(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    resamples = sorted({v.resamples for v in verdicts})
    seeds = ", ".join(f"{v.mission} {v.rng_seed}" for v in verdicts)
    return "yes", (
        f"two-way Satterthwaite t decides; crossed BCa, B = {', '.join(map(str, resamples))}, "
        f"width calibrated to it; RNG seeds {seeds}; Monte-Carlo error beside each limit"
    )


def _ties(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", (
        "bias correction by mid-rank; a zero-width interval never passes: an exact bound on binary "
        "scores, or INVALID"
    )


def _effect_first(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", "estimate and interval stand before every p-value"


def _family(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    family = next((v.family for v in verdicts if v.family is not None), None)
    if family is None:
        return "open", "no family: every verdict is withheld, so nothing is claimed"
    return "yes", (
        f"{len(family.family)} missions ({', '.join(family.family)}), one p each, "
        f"Benjamini-Hochberg at q = {family.q:g}; Benjamini-Yekutieli and FCR intervals beside it"
    )


def _margins(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    gates = [g for v in verdicts for g in v.gates if g.required]
    noted = sum(1 for gate in gates if gate.note)
    status: Status = "yes" if noted == len(gates) else "open"
    return status, f"a reason stands with {noted} of {len(gates)} required gates"


def _power(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", "minimum detectable effect at 80 % and deciding sizes in the gate table"


def _peeking(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    held = [v.mission for v in verdicts if v.verdict == "WITHHELD"]
    if held:
        return "open", f"no decision was taken for {', '.join(held)}"
    return "yes", "decided once, when all planned seeds were complete"


def _parity(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    rows = [row for v in verdicts for row in v.parity if row.checked]
    broken = [row for row in rows if not row.ok]
    if not rows:
        return "open", "no parity rule was set"
    text = f"{len(rows)} checks on parameters, FLOPs or bytes, {len(broken)} broken"
    return ("no" if broken else "yes"), text


def _effect_size(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", "d_z over seeds and over items, d_av, pooled d; Hedges-corrected, with intervals"


def _denominators(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", (
        "ratios are tested as linear contrasts; a reduction without events is 'not estimable'"
    )


def _calibration(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "open", f"A/A calibration {_UNSTATED}"


def _published(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "yes", "Parquet files beside this page, with sha256 of their content"


def _reproduce(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    if context.dirty:
        return "no", f"{context.command}, but the working tree held changes that no commit has"
    return "yes", context.command


def _noise(verdicts: Sequence[MissionVerdict], context: ReportContext) -> Answer:
    return "open", f"same seed run twice: {_UNSTATED}"


_RULES: tuple[tuple[str, str, _Rule], ...] = (
    ("estimand", "Is the estimand named?", _estimand),
    ("fixed", "Gates, margins, S, N and primary metric hashed before data?", _fixed),
    ("paired", "Paired by seed and example, with equal manifests?", _paired),
    ("seeds", "Seeds treated as random, variance components given?", _seeds),
    ("clusters", "Clusters declared?", _clusters),
    ("tuning", "Control retrained and tuned like the treatment?", _tuning),
    ("reads", "Dev and test apart, reads of test counted?", _reads),
    ("runs", "All runs reported?", _all_runs),
    ("method", "Method, resamples, RNG seed, Monte-Carlo error?", _method),
    ("ties", "Ties and degenerate cases: which rule?", _ties),
    ("effect_first", "Effect before p?", _effect_first),
    ("family", "Size of the family?", _family),
    ("margins", "Margins justified?", _margins),
    ("power", "Power?", _power),
    ("peeking", "No peeking?", _peeking),
    ("parity", "Parity defined?", _parity),
    ("effect_size", "Effect size named?", _effect_size),
    ("denominators", "Denominators guarded?", _denominators),
    ("calibration", "A/A calibration?", _calibration),
    ("published", "Per-example scores published?", _published),
    ("reproduce", "One command reproduces it?", _reproduce),
    ("noise", "Noise floor (same seed twice)?", _noise),
)
