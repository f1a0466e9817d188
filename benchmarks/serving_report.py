"""What `serving.py` found, as Markdown and JSON: a row a cell, the claims, answers compared.

Throughputs are medians over rounds, ratios medians of ratios within a round, latencies quantiles
over all rounds. Measures nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLAIMED = (32, 8)
"""Clients and adapters of the comparison with PEFT."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One cell of one round."""

    tokens_s: float
    tokens_cpu_s: float
    latencies_ms: tuple[float, ...]
    texts: tuple[str, ...]


Found = dict[tuple[str, int, int], list[Figure]]
"""(system, clients, adapters) -> a figure a round."""


def report(
    found: Found,
    cells: Sequence[tuple[int, int]],
    tokenizer: Any,
    facts: dict[str, Any],
    out: Path | None,
) -> None:
    """Prints the tables; writes JSON where `out` names a file."""
    rows: list[dict[str, Any]] = []
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines.append("| clients | adapters | system | tokens/s | tokens/CPU s | p50 ms | p99 ms |")
    lines.append("|---|---|---|---|---|---|---|")
    for clients, adapters in cells:
        for name in ("ours", "engine", "set", "names"):
            figures = found.get((name, clients, adapters))
            if figures is None:
                continue
            ordered = sorted(ms for figure in figures for ms in figure.latencies_ms)
            row = {
                "clients": clients,
                "adapters": adapters,
                "system": name,
                "requests": len(ordered),
                "tokens_s": statistics.median(f.tokens_s for f in figures),
                "tokens_cpu_s": statistics.median(f.tokens_cpu_s for f in figures),
                "p50_ms": ordered[len(ordered) // 2],
                "p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
            }
            rows.append(row)
            lines.append(
                f"| {clients} | {adapters} | {name} | {row['tokens_s']:.0f} | "
                f"{row['tokens_cpu_s']:.0f} | {row['p50_ms']:.0f} | {row['p99_ms']:.0f} |"
            )
    one, many = ("ours", 32, 1), ("ours", 32, 32)
    claims = [
        ("ours over set, 32 clients, 8 adapters", ">= 3", ("ours", *CLAIMED), ("set", *CLAIMED)),
        ("ours over names, 32 clients, 8 adapters", ">= 3",
         ("ours", *CLAIMED), ("names", *CLAIMED)),
        ("ours, 32 adapters over 1, 32 clients", ">= 0.8", many, one),
        ("bare engine over ours, 8 clients, 8 adapters", "<= 1.3",
         ("engine", 8, 8), ("ours", 8, 8)),
    ]  # fmt: skip
    told = []
    lines.append(
        "\n| claim | asked | tokens/s | least, greatest | tokens/CPU s |\n|---|---|---|---|---|"
    )
    for claim, asked, above, below in claims:
        wall, cpu = _ratios(found, above, below)
        told.append({"claim": claim, "asked": asked, "tokens_s": wall, "tokens_cpu_s": cpu})
        lines.append(
            f"| {claim} | {asked} | {statistics.median(wall):.2f} | {min(wall):.2f}, "
            f"{max(wall):.2f} | {statistics.median(cpu):.2f} |"
        )
    same = _same_answers(found, tokenizer)
    lines.append(f"\nanswers equal to PEFT's: {same[0]} of {same[1]}")
    sys.stdout.write("\n".join(lines) + "\n")
    if out is not None:
        text = {"machine": facts, "rows": rows, "claims": told, "same": same}
        out.write_text(json.dumps(text, indent=1) + "\n")


def _ratios(
    found: Found, above: tuple[str, int, int], below: tuple[str, int, int]
) -> tuple[list[float], list[float]]:
    """Within each round: of tokens a second, of tokens a CPU second."""
    pairs = list(zip(found[above], found[below], strict=True))
    return (
        [a.tokens_s / b.tokens_s for a, b in pairs],
        [a.tokens_cpu_s / b.tokens_cpu_s for a, b in pairs],
    )


def _same_answers(found: Found, tokenizer: Any) -> tuple[int, int]:
    ours = found["ours", *CLAIMED][-1].texts
    theirs = found["names", *CLAIMED][-1].texts
    decoded = [tokenizer.decode(json.loads(t), skip_special_tokens=True) for t in theirs]
    return sum(a == b for a, b in zip(ours, decoded, strict=True)), len(decoded)
