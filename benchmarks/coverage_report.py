"""Writes the tables and the figure of the coverage study. Knows nothing of how it was run."""

from __future__ import annotations

import csv
import math
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy
from coverage_settings import Setting
from coverage_study import BAND, METHODS, NEAR, WORST_FALSE_POSITIVES, Tally

mpl.use("svg")
from matplotlib import pyplot as plt

Row = tuple[Setting, Mapping[str, Tally]]
SecondLooks = Mapping[Setting, Tally]
"""Of settings near an edge of the band: the default interval on fresh campaigns."""

DEFAULT = "two-way t"

_FIELDS = ("block", "kind", "seeds", "examples", "base", "effect", "seed_sd", "arm_item", "cell_sd")


def in_band(coverage: float) -> bool:
    """Whether a coverage lies in the band aimed at."""
    return BAND[0] <= coverage <= BAND[1]


def write_csv(path: Path, rows: Sequence[Row], second: SecondLooks) -> None:
    """One line a setting and method, and one more where the default was measured twice."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [*_FIELDS, "truth", "method", "campaigns", "undefined", "coverage", "monte_carlo_error",
             "interval_above_truth", "interval_below_truth", "mean_width"]
        )  # fmt: skip
        for setting, tallies in rows:
            head = [getattr(setting, name) for name in _FIELDS]
            measured = list(tallies.items())
            if setting in second:
                measured.append((f"{DEFAULT}, second look", second[setting]))
            for method, tally in measured:
                defined = tally.campaigns - tally.undefined
                shares = [
                    f"{value:.5f}"
                    for value in (
                        tally.coverage,
                        tally.error,
                        tally.too_high / max(defined, 1),
                        tally.too_low / max(defined, 1),
                    )
                ]
                width = f"{tally.width / max(defined, 1):.6g}"
                writer.writerow(
                    [*head, f"{setting.truth:.8g}", method, tally.campaigns, tally.undefined,
                     *shares, width]
                )  # fmt: skip


def read_first_looks(path: Path, settings: Sequence[Setting]) -> list[dict[str, Tally]]:
    """Tallies of an earlier CSV, in the order of the settings.

    Raises:
        ValueError: the file does not hold every method of every setting.
    """
    found: dict[tuple[str, ...], dict[str, Tally]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["method"] not in METHODS:
                continue
            campaigns, undefined = int(row["campaigns"]), int(row["undefined"])
            defined = campaigns - undefined
            found.setdefault(tuple(row[name] for name in _FIELDS), {})[row["method"]] = Tally(
                campaigns=campaigns,
                undefined=undefined,
                too_high=round(float(row["interval_above_truth"]) * defined),
                too_low=round(float(row["interval_below_truth"]) * defined),
                width=float(row["mean_width"]) * defined,
            )
    looks = [
        found.get(tuple(str(getattr(setting, name)) for name in _FIELDS), {})
        for setting in settings
    ]
    if any(set(tallies) != set(METHODS) for tallies in looks):
        raise ValueError(f"{path} does not hold every method of every setting; measure anew.")
    return looks


def write_summary(
    path: Path,
    rows: Sequence[Row],
    second: SecondLooks,
    chosen: Mapping[str, Any],
    *,
    wall_s: float,
    cpu_s: float,
) -> None:
    """The study in tables, and both looks at the settings near an edge of the band."""
    first = [row for row in rows if row[0].block != "stress"]
    claimed = with_second_looks(first, second)
    stress = [row for row in rows if row[0].block == "stress"]
    lines = [
        "# Coverage of 95 % intervals: measured",
        "",
        f"{len(rows)} settings ({len(claimed)} of the claim, {len(stress)} stress), "
        f"{chosen['campaigns']:,} campaigns each for t methods, {chosen['bca_campaigns']:,} for "
        f"BCa methods ({chosen['resamples']:,} resamples). Monte-Carlo error of a coverage of "
        f"95 %: {_points(chosen['campaigns'])} and {_points(chosen['bca_campaigns'])} percentage "
        "points (one standard error).",
        "",
        f"Command: `python benchmarks/coverage_study.py{_first(chosen)} --seed {chosen['seed']} "
        f"--campaigns {chosen['campaigns']} --bca-campaigns {chosen['bca_campaigns']} --resamples "
        f"{chosen['resamples']} --again {chosen['again']} --processes "
        f"{chosen['processes']}`; {wall_s:.0f} s wall, {cpu_s:.0f} CPU s, "
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy "
        f"{scipy.__version__}, commit {chosen['commit']}.",
        "",
        "Coverage in %, nominal 95. False positives: two-sided, in settings without an effect, "
        f"nominal 5. Band aimed at: {100 * BAND[0]:.1f} to {100 * BAND[1]:.1f}, false positives up "
        f"to {100 * WORST_FALSE_POSITIVES:.1f}.",
        "",
        f"{len(second)} settings of the claim came within {NEAR:.0f} Monte-Carlo errors of an edge "
        f"of the band and were measured once more on {chosen['again']:,} fresh campaigns (error "
        f"{_points(chosen['again'])} points at 95 %). For the default interval the tables give "
        "that second figure of theirs; both stand at the end.",
        "",
        "## Settings of the claim",
        "",
        *_table(claimed, METHODS, lambda row: "all"),
        "",
        "## By seeds, default interval (two-way t)",
        "",
        *_table(claimed, METHODS[:1], lambda row: f"{row[0].seeds} seeds"),
        "",
        "## By kind of score, default interval (two-way t)",
        "",
        *_table(claimed, METHODS[:1], lambda row: row[0].kind),
        "",
        "## By kind of score, reported interval (calibrated crossed BCa)",
        "",
        *_table(claimed, METHODS[1:2], lambda row: row[0].kind),
        "",
        "## Stress: one arm's mean, skewed or failing seeds (no claim is made here)",
        "",
        *_table(stress, METHODS[:2], lambda row: row[0].kind),
        "",
        "## Settings of the claim out of the band, default interval",
        "",
        *_outside(claimed),
        "",
        f"Before the second look: {sum(not in_band(t[DEFAULT].coverage) for _, t in first)} of "
        f"{len(first)}, "
        f"{100 * min(t[DEFAULT].coverage for _, t in first):.2f} to "
        f"{100 * max(t[DEFAULT].coverage for _, t in first):.2f} %.",
        "",
        "## Settings near an edge of the band, first and second look",
        "",
        *_both_looks(first, second),
        "",
        "## Settings of the stress block out of the band, default interval",
        "",
        *_outside(stress),
        "",
        "Every setting and method: `coverage_study.csv`. What the settings are: "
        "`benchmarks/coverage_settings.py`.",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def with_second_looks(rows: Sequence[Row], second: SecondLooks) -> list[Row]:
    """The same rows; the default interval's figure is the second one where there is one."""
    return [
        (setting, {**tallies, DEFAULT: second.get(setting, tallies[DEFAULT])})
        for setting, tallies in rows
    ]


def write_figure(path: Path, rows: Sequence[Row], second: SecondLooks) -> None:
    """Coverage of every setting, a strip a method; stress settings hollow."""
    rows = with_second_looks(rows, second)
    mpl.rcParams["svg.hashsalt"] = "coverage"
    figure, axes = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
    axes.axvspan(100 * BAND[0], 100 * BAND[1], color="#d9ead3", zorder=0)
    axes.axvline(95, color="#666666", linewidth=0.8, zorder=1)
    for line, method in enumerate(reversed(METHODS)):
        for hollow in (False, True):
            found = [
                100 * tallies[method].coverage
                for setting, tallies in rows
                if (setting.block == "stress") == hollow
            ]
            spread = np.linspace(-0.3, 0.3, max(len(found), 2))[: len(found)]
            axes.scatter(
                found,
                line + spread,
                s=7,
                linewidths=0.5,
                facecolors="none" if hollow else "#1f4e79",
                edgecolors="#b45f06" if hollow else "none",
                rasterized=True,
                zorder=2,
            )
    axes.set_yticks(range(len(METHODS)), list(reversed(METHODS)))
    axes.set_xlabel("coverage of 95 % intervals, % (one point a setting; hollow: stress)")
    figure.savefig(path, dpi=150, metadata={"Date": None})
    plt.close(figure)


def _table(rows: Sequence[Row], methods: Sequence[str], label: Callable[[Row], str]) -> list[str]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(label(row), []).append(row)
    lines = [
        "| settings | method | n | least | median | largest | in band | worst false positives | "
        "mean one-sided misses (above, below) | undefined |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, members in grouped.items():
        for method in methods:
            found = [tallies[method] for _, tallies in members]
            covered = [tally.coverage for tally in found]
            nulls = [
                1 - tallies[method].coverage for setting, tallies in members if setting.truth == 0
            ]
            defined = sum(tally.campaigns - tally.undefined for tally in found)
            above = sum(tally.too_high for tally in found) / defined
            below = sum(tally.too_low for tally in found) / defined
            inside = sum(BAND[0] <= share <= BAND[1] for share in covered)
            undefined = 1 - defined / sum(tally.campaigns for tally in found)
            worst = f"{100 * max(nulls):.1f}" if nulls else "-"
            lines.append(
                f"| {name} | {method} | {len(found)} | {100 * min(covered):.1f} | "
                f"{100 * float(np.median(covered)):.1f} | {100 * max(covered):.1f} | "
                f"{inside}/{len(found)} | {worst} | {100 * above:.2f}, {100 * below:.2f} | "
                f"{100 * undefined:.2f} |"
            )
    return lines


def _outside(rows: Sequence[Row]) -> list[str]:
    return _listed([row for row in rows if not in_band(row[1][DEFAULT].coverage)])


def _both_looks(rows: Sequence[Row], second: SecondLooks) -> list[str]:
    found = [(row[0], row[1][DEFAULT], second[row[0]]) for row in rows if row[0] in second]
    if not found:
        return ["None."]
    lines = [
        f"| {' | '.join(_FIELDS[1:])} | first | error | second | error |",
        "|" + "---|" * (len(_FIELDS) + 3),
    ]
    for setting, before, after in sorted(found, key=lambda one: one[2].coverage):
        values = " | ".join(str(getattr(setting, name)) for name in _FIELDS[1:])
        lines.append(
            f"| {values} | {100 * before.coverage:.2f} | {100 * before.error:.2f} | "
            f"{100 * after.coverage:.2f} | {100 * after.error:.2f} |"
        )
    return lines


def _listed(rows: Sequence[Row]) -> list[str]:
    found = [(setting, tallies[DEFAULT]) for setting, tallies in rows]
    if not found:
        return ["None."]
    lines = [
        f"| {' | '.join(_FIELDS[1:])} | coverage | error | above truth | below truth |",
        "|" + "---|" * (len(_FIELDS) + 3),
    ]
    for setting, tally in sorted(found, key=lambda pair: pair[1].coverage):
        values = " | ".join(str(getattr(setting, name)) for name in _FIELDS[1:])
        defined = tally.campaigns - tally.undefined
        lines.append(
            f"| {values} | {100 * tally.coverage:.2f} | {100 * tally.error:.2f} | "
            f"{100 * tally.too_high / defined:.2f} | {100 * tally.too_low / defined:.2f} |"
        )
    return lines


def _first(chosen: Mapping[str, Any]) -> str:
    return f" --first {chosen['first'].name}" if chosen["first"] else ""


def _points(campaigns: int) -> str:
    return f"{100 * math.sqrt(0.95 * 0.05 / campaigns):.2f}" if campaigns else "-"


def commit() -> str:
    """The commit that is checked out now."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
