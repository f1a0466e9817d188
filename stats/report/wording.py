"""Sentences of the page: what was measured, what would decide, what stands behind a gate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stats.parity import ParityRow
from stats.report import tables
from stats.report.scenarios import less_is_better
from stats.result import GateResult
from stats.verdict import MissionVerdict

WORDS = {
    "PROMOTE": "Promoted",
    "REJECT": "Not supported",
    "INCONCLUSIVE": "Inconclusive",
    "INVALID": "Invalid",
    "WITHHELD": "Verdict withheld",
    "STOPPED": "Stopped for futility",
}
MEANINGS = {
    "PROMOTE": "every required gate passes and the mission survives Benjamini-Hochberg",
    "REJECT": "a required gate is shown not to reach its margin",
    "INCONCLUSIVE": "a margin lies inside its interval; the data do not decide",
    "INVALID": "the comparison cannot be believed, for the reason given",
    "WITHHELD": "this profile gives no verdict; the figures are shown all the same",
    "STOPPED": "inconclusive: ended before its planned seeds because it could hardly pass any "
    "more; its figures are interim",
}


def measured_sentence(verdict: MissionVerdict) -> str:
    """What was measured, in a sentence."""
    gate = verdict.primary
    against = f"{gate.treatment} against {gate.versus}" if gate.versus else gate.treatment
    if gate.estimate is None:
        return f"No estimate of {gate.metric} for {against}."
    what = {
        "contrast": f"contrast on {gate.metric}",
        "time_to_event": f"time gained on {gate.metric}",
        "monotone": f"slope of {gate.metric} per level",
        "slope": f"change of {gate.metric} per doubling",
    }.get(gate.kind, f"{gate.metric}")
    better = " (less is better; a positive figure is an improvement)"
    turned = better if gate.kind == "superiority" and less_is_better(gate) else ""
    return (
        f"{what}, {against}: {tables.estimate_text(gate)}{turned}, "
        f"{tables.counted(len(gate.seeds), 'seed')} x "
        f"{tables.counted(gate.num_examples, 'test item')}."
    )


def beyond_gates(verdict: MissionVerdict) -> list[str]:
    """Reasons of the verdict that do not repeat a gate's own."""
    own = {f"{gate.gate}: {gate.reason}" for gate in verdict.gates}
    return [reason for reason in verdict.reasons if reason not in own]


def parity_pairs(verdict: MissionVerdict) -> list[tuple[tuple[str, str], dict[str, ParityRow]]]:
    """Pair of arms -> quantity -> row."""
    found: dict[tuple[str, str], dict[str, ParityRow]] = {}
    for row in verdict.parity:
        found.setdefault((row.treatment, row.control), {})[row.quantity] = row
    return list(found.items())


def would_decide(gate: GateResult) -> str:
    """The sizes that would decide an undecided gate; empty for others.

    Where the gate's reason names the sizes already, only the assumption behind them is left.
    """
    if gate.would_decide is None:
        return ""
    unit = tables.unit(gate)
    assumed = tables.figure(gate.would_decide.assumed, gate.scale, signed=gate.kind != "bound")
    assumed = f"{assumed} {unit}".strip()
    if gate.would_decide.text in gate.reason:
        return f"the sizes named below, if {assumed} is true"
    return f"{gate.would_decide.text} (if {assumed} is true)"


def detail_lines(gate: GateResult) -> list[tuple[str, str]]:
    """Label and text of what stands behind a gate."""
    lines = [("estimand", gate.estimand)] if gate.estimand else []
    if gate.treatment_mean is not None:
        text = f"{gate.treatment} {tables.figure(gate.treatment_mean, gate.scale)}"
        if gate.control_mean is not None:
            text += f", {gate.versus} {tables.figure(gate.control_mean, gate.scale)}"
        lines.append(("means", text + (" (%)" if gate.scale == "fraction" else "")))
    if len(gate.seed_estimates) > 1:
        seeds = ", ".join(
            f"{tables.figure(value, gate.scale, signed=gate.kind != 'bound')}"
            for value in gate.seed_estimates
        )
        lines.append(("by seed", f"{seeds} {tables.unit(gate)}".strip()))
    if gate.components is not None:
        parts = (gate.components.seed, gate.components.example, gate.components.residual)
        names = ("seed", "item", "residual")
        text = ", ".join(
            f"{name} {tables.figure(part**0.5, gate.scale)}"
            for name, part in zip(names, parts, strict=True)
        )
        lines.append(
            ("standard deviations", f"{text} {'pp' if gate.scale == 'fraction' else ''}".strip())
        )
    if gate.effects:
        text = "; ".join(
            f"{e.name} over {e.unit} {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"
            for e in gate.effects
        )
        lines.append(("effect sizes (Hedges)", text))
    lines += [(key.replace("_", " "), plain(value)) for key, value in gate.details.items()]
    if gate.note:
        lines.append(("note", gate.note))
    return lines


def tight(text: str) -> str:
    """Text whose figures do not part from their units at the end of a line."""
    return re.sub(r"(?<=[\d\])]) (?=pp\b|%)", "\N{NO-BREAK SPACE}", text)


def duration(seconds: float) -> str:
    """`4 min 12 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{whole % 60} s"]
    return " ".join(part for part in parts if part)


def plain(value: Any) -> str:
    """Plain data as text."""
    if value is None:
        return tables.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value)
    return str(value)
