"""Carries a calibration out: simulated campaigns, on request one real one, then the badge.

The simulation is `stats.calibration`; here lie the progress line, the launch of the real campaign
and what is written where. Statistics code that changes while it runs is told, not covered up.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fleet import provenance
from fleet.errors import ConfigError, StorageError, UsageError
from stats.calibration.badge import BADGE, Badge, load_badge, source_digest, source_files
from stats.calibration.campaign import Figures, Rate, run_campaigns
from stats.errors import StatsError
from stats.verdict import MissionVerdict

REAL_SEEDS = 5
REAL_SIZE = (
    "examples={train: 640, dev: 3, test: 60}",
    "params.train.steps=40",
    "params.evaluation.lengths=[512, 8192]",
)
"""A/A campaign of mission E's control: about 18 CPU seconds of training and scoring."""
BADGE_CAMPAIGNS = 2000
"""Fewest campaigns of the package's badge: a rate of 2.5 % is then known to 0.35 points."""
SPOKEN_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationOrder:
    """What the user asked for."""

    campaigns: int
    rng_seed: int
    real: bool
    out: Path | None
    """Where the badge goes; None puts it into the package, where reports look for it."""
    runs_dir: Path
    cpus: int


def calibrate(order: CalibrationOrder) -> tuple[Badge, Path]:
    """Runs the calibration and writes the badge; returns it and where it lies.

    Raises:
        UsageError: too few campaigns for a badge that reports carry.
        ConfigError: the statistics code changed meanwhile.
        StorageError: the badge cannot be written.
    """
    if order.out is None and order.campaigns < BADGE_CAMPAIGNS:
        raise UsageError(
            f"--campaigns {order.campaigns}: the badge that reports carry takes at least "
            f"{BADGE_CAMPAIGNS:,}; fewer need --out DIR"
        )
    path = BADGE if order.out is None else order.out / "badge.json"
    before, started = source_digest(), time.process_time()
    known = _known(order, path, before) if order.real else None
    if known is not None:
        sys.stderr.write(
            f"{order.campaigns:,} simulated campaigns of this code, seed and these versions are "
            f"in {path} already; only the real one runs\n"
        )
        figures, cpu_s = known.figures, known.cpu_s
    else:
        figures = run_campaigns(
            order.campaigns, rng_seed=order.rng_seed, progress=_progress(order.campaigns)
        )
        cpu_s = time.process_time() - started
    real = _real_campaign(order) if order.real else None
    if source_digest() != before:
        raise ConfigError(
            "The statistics code changed while it was calibrated; nothing was written.",
            go_on="python fleet.py calibrate",
        )
    commit, dirty = provenance.commit()
    badge = Badge(
        figures=figures,
        holds=figures.holds,
        source_digest=before,
        source_files=tuple(path.relative_to(provenance.ROOT).as_posix() for path in source_files()),
        commit=commit,
        dirty=dirty,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=provenance.command_line(
            ["calibrate", "--campaigns", str(order.campaigns), "--rng-seed", str(order.rng_seed)]
            + (["--real"] if order.real else [])
        ),
        cpu_s=round(cpu_s, 1),
        versions=_versions(),
        real=real,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        badge.save(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None
    return badge, path


def _known(order: CalibrationOrder, path: Path, digest: str) -> Badge | None:
    """A badge whose simulation would come out the same to the last bit, or None."""
    try:
        badge = load_badge(path)
    except StatsError:
        return None  # no badge of this version: simulated anew and overwritten
    if badge is None:
        return None
    asked = (digest, order.campaigns, order.rng_seed, _versions())
    found = (
        badge.source_digest,
        badge.figures.campaigns,
        badge.figures.rng_seed,
        dict(badge.versions),
    )
    return badge if found == asked else None


def _versions() -> dict[str, str]:
    return {
        name: value
        for name, value in provenance.versions().items()
        if name in ("python", "numpy", "pandas", "scipy")
    }


def _progress(campaigns: int) -> Callable[[int], None]:
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == campaigns or now - last >= SPOKEN_EVERY_S:
            last = now
            sys.stderr.write(f"{done:,} of {campaigns:,} campaigns\n")

    return tell


def _real_campaign(order: CalibrationOrder) -> Mapping[str, Any]:
    """One small A/A mission through a whole launch: ledger, lock, Ray, verdict."""
    from fleet.driver.launch import Order, carry_out
    from fleet.judging.aa_campaign import ARM, ID, INNER
    from fleet.ledger.reader import LedgerReader
    from fleet.settings import RunPaths

    drawn = np.random.default_rng([order.rng_seed, 1]).choice(900_000, REAL_SEEDS, replace=False)
    seeds = [int(seed) + 100_000 for seed in sorted(drawn)]
    run_id = f"calibrate-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
    launch = Order(
        missions=(ID,),
        arms=(),
        profile="smoke",
        overrides=(f"seeds={seeds}", *REAL_SIZE),
        run_id=run_id,
        dry_run=False,
        as_json=False,
        require_promotion=False,
        address=None,
        cpus=order.cpus,
        runs_dir=order.runs_dir,
        catalog="fleet.judging.aa_campaign",
    )
    with contextlib.redirect_stdout(sys.stderr):
        carry_out(launch)
    with LedgerReader(RunPaths(root=(order.runs_dir / run_id).absolute()).ledger) as reader:
        verdict = reader.latest("verdict")
    if verdict is None:
        raise StorageError(f"The A/A campaign {run_id} left no verdict.")
    return _summary(MissionVerdict.from_dict(verdict), run_id, f"{INNER}/{ARM}")


def _summary(verdict: MissionVerdict, run_id: str, arm: str) -> dict[str, Any]:
    gate = verdict.primary
    return {
        "run_id": run_id,
        "arm": arm,
        "verdict": verdict.verdict,
        "p_value": gate.p_value,
        "estimate": gate.estimate,
        "interval": None if gate.interval is None else [gate.interval.low, gate.interval.high],
        "seeds": list(gate.seeds),
        "num_examples": gate.num_examples,
        "num_units": gate.num_units,
        "scores_digest": verdict.scores_digest,
    }


def table_of(figures: Figures) -> str:
    """The figures for a terminal."""
    rows: list[tuple[str, Rate, str]] = [
        ("identical arms promoted by the gates", figures.false_promotion, "<= 2.5 %"),
        ("identical arms rejected (the other side)", figures.false_rejection, "<= 2.5 %"),
        *((f"  {item.regime}", item.rate, "<= 2.5 %") for item in figures.by_regime),
        ("any promotion in a family of nulls", figures.family_of_nulls, "<= 5 %"),
        ("false discovery rate, mixed families", figures.false_discovery, "<= 5 %"),
        ("working treatments promoted", figures.power, ""),
    ]
    lines = [
        f"{name:<42s} {rate.value:7.2%} +- {rate.error:.2%}  n = {rate.count:>6,}"
        + (f"  nominal {nominal}" if nominal else "")
        for name, rate, nominal in rows
    ]
    return "\n".join(lines) + "\n"
