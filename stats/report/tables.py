"""The verdict table as Markdown, LaTeX (booktabs) and JSON, and the figures that tables share.

A figure that does not exist is an en dash, never 0 and never NaN.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from stats.result import BootstrapInterval, GateResult, Interval
from stats.verdict import MissionVerdict

NONE = "–"  # noqa: RUF001


def figure(value: float | None, scale: str = "raw", *, signed: bool = False) -> str:
    """One number: two decimals of a percentage for fractions, four digits elsewhere."""
    if value is None:
        return NONE
    sign = "+" if signed else ""
    return f"{value * 100:{sign}.2f}" if scale == "fraction" else f"{value:{sign}.4g}"


def interval_text(
    interval: Interval | BootstrapInterval | None, scale: str, *, signed: bool = True
) -> str:
    """`[+0.90, +3.30]`."""
    if interval is None:
        return NONE
    low = figure(interval.low, scale, signed=signed)
    return f"[{low}, {figure(interval.high, scale, signed=signed)}]"


def error_text(value: float, scale: str) -> str:
    """A standard error in two significant digits."""
    return f"{value * 100:.2g}" if scale == "fraction" else f"{value:.2g}"


def p_text(value: float | None) -> str:
    """`< .0001` below that, four decimals elsewhere."""
    if value is None:
        return NONE
    return "< .0001" if value < 1e-4 else f"{value:.4f}".replace("0.", ".", 1)


def unit(gate: GateResult) -> str:
    """Unit of a gate's estimate."""
    if gate.scale != "fraction":
        return ""
    return "%" if gate.kind == "bound" else "pp"


def effect(gate: GateResult, name: str) -> float | None:
    """One effect size of a gate, over examples."""
    return next((e.value for e in gate.effects if e.name == name and e.unit == "examples"), None)


def verdict_rows(verdicts: Sequence[MissionVerdict]) -> list[tuple[str, ...]]:
    """Mission, comparison, metric, estimate with interval, p, p_BH, d_av, MDE, verdict."""
    rows: list[tuple[str, ...]] = []
    for verdict in verdicts:
        gate = verdict.primary
        against = f"{gate.treatment} vs {gate.versus}" if gate.versus else gate.treatment
        estimate = figure(gate.estimate, gate.scale, signed=True)
        suffix = f" {unit(gate)}" if gate.estimate is not None and unit(gate) else ""
        rows.append(
            (
                verdict.mission,
                against,
                gate.metric,
                f"{estimate} {interval_text(gate.interval, gate.scale)}{suffix}",
                p_text(verdict.p_value),
                p_text(verdict.family.p_bh if verdict.family else None),
                figure(effect(gate, "d_av")),
                figure(gate.mde, gate.scale),
                verdict.verdict,
            )
        )
    return rows


HEADER = (
    "mission", "comparison", "metric", "estimate [95 %]", "p", "p_BH", "d_av", "MDE", "verdict",
)  # fmt: skip


def footnote(verdicts: Sequence[MissionVerdict]) -> str:
    """What a reader needs to know to read the table alone."""
    sizes = ", ".join(
        f"{v.mission} {len(v.seeds)} x {v.num_examples:,}" for v in verdicts if v.num_examples
    )
    family = next((len(v.family.family) for v in verdicts if v.family is not None), 0)
    resamples = verdicts[0].resamples if verdicts else 0
    return (
        f"Estimate and interval: two-way (seeds x examples) Satterthwaite t, primary gate. "
        f"Seeds x test items: {sizes or NONE}. p: largest one-sided p of the required gates "
        f"(intersection-union); p_BH: Benjamini-Hochberg over {family} missions. d_av: Hedges-"
        f"corrected, over examples. MDE: smallest distance from the margin found with 80 % power. "
        f"Bootstrap intervals in the gate table: {resamples:,} crossed resamples."
    )


def markdown_table(verdicts: Sequence[MissionVerdict]) -> str:
    """The verdict table with its reasons."""
    lines = [f"| {' | '.join(HEADER)} |", f"|{'|'.join('---' for _ in HEADER)}|"]
    lines += [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
        for row in verdict_rows(verdicts)
    ]
    lines += ["", footnote(verdicts), ""]
    for verdict in verdicts:
        reasons = "; ".join(verdict.reasons)
        lines.append(f"- **{verdict.mission}: {verdict.verdict}.** {reasons}")
    return "\n".join(lines) + "\n"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"$<$", ">": r"$>$", NONE: "--",
}  # fmt: skip


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(_TEX.get(character, character) for character in text)


def latex_table(verdicts: Sequence[MissionVerdict]) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    head = " & ".join(tex(name) for name in HEADER[:5])
    head += r" & $p_{\mathrm{BH}}$ & $d_{\mathrm{av}}$ & MDE & verdict"
    body = [" & ".join(tex(cell) for cell in row) + r" \\" for row in verdict_rows(verdicts)]
    return "\n".join(
        [
            r"\begin{tabular}{lllrrrrrl}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\smallskip\footnotesize " + tex(footnote(verdicts)),
            "",
        ]
    )


def json_text(verdicts: Sequence[MissionVerdict]) -> str:
    """Everything that was found, for other programs."""
    data = {"verdicts": [verdict.to_dict() for verdict in verdicts]}
    return json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
