"""Do 95 % intervals of one arm's rate cover it, near 0 and 1 too?

    python benchmarks/rate_coverage.py [--campaigns 4000] [--out benchmarks/results]

A bound gate on a binary metric asks for one arm's rate. Compared on the same campaigns, the exact
bound of a gate standing in for all of them where nothing varied:

    score        what decides: stats.proportion, Wilson with the two-way effective sample size
    two-way t    m +- t SE, which decided before
    exact n      Clopper-Pearson limits with the same effective sample size (Korn, Graubard 1998)

A cell is 1 where item + seed + cell < c, all normal with SDs of the setting (cell: 1), and c such
that the rate is exact. The last four rows draw as benchmarks/coverage_study.py does.

Shapes: S seeds, N items, M campaigns.
"""

from __future__ import annotations

import argparse
import itertools
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from coverage_report import commit
from coverage_settings import Setting, draw
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from stats.proportion import effective_size, score_limits
from stats.twoway import exact_bound
from stats.twoway_many import two_way_many

LEVEL = 0.95
METHODS = ("score", "two-way t", "exact n")
SPREADS = ((0.0, 0.0), (1.0, 0.2), (2.0, 0.3))
"""SDs of items and seeds, on a scale where a cell's own SD is 1."""
CELLS_PER_BATCH = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RateSetting:
    """One way in which one arm's 0/1 scores come about."""

    rate: float
    seeds: int
    items: int
    item_sd: float
    seed_sd: float
    as_study: bool = False
    """Drawn as one arm of the coverage study; the SDs are then not those of this file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missed:
    """Shares of campaigns, in percent."""

    covered: float
    far: float
    """The limit towards 0.5 is too near: nominal 2.5. An upper bound of a small rate errs here."""
    near: float
    outside: float
    """Intervals that leave [0, 1]."""
    width: float


def all_settings() -> list[RateSetting]:
    shapes = list(itertools.product((5, 10), (200, 1000)))
    made = [
        RateSetting(rate=rate, seeds=seeds, items=items, item_sd=item_sd, seed_sd=seed_sd)
        for rate in (0.005, 0.02, 0.05, 0.5)
        for (seeds, items), (item_sd, seed_sd) in itertools.product(shapes, SPREADS)
    ]
    return made + [
        RateSetting(rate=0.02, seeds=seeds, items=items, item_sd=0.0, seed_sd=0.007, as_study=True)
        for seeds, items in shapes
    ]


def draw_rates(
    setting: RateSetting, campaigns: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """0/1 scores of many campaigns: S x N x M."""
    if setting.as_study:
        study = Setting(
            block="stress",
            kind="one arm binary",
            seeds=setting.seeds,
            examples=setting.items,
            base=setting.rate,
            seed_sd=setting.seed_sd,
        )
        return draw(study, campaigns, rng)
    cut = ndtri(setting.rate) * np.sqrt(1 + setting.item_sd**2 + setting.seed_sd**2)
    item_NM = setting.item_sd * rng.standard_normal((setting.items, campaigns))
    seed_SM = setting.seed_sd * rng.standard_normal((setting.seeds, campaigns))
    level_SNM = ndtr(cut - item_NM - seed_SM[:, None])
    return (rng.random(level_SNM.shape) < level_SNM).astype(np.float32)


def run_setting(
    setting: RateSetting, campaigns: int, rng: np.random.Generator
) -> dict[str, Missed]:
    """All methods on the same campaigns."""
    limits: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    batch = max(CELLS_PER_BATCH // (setting.seeds * setting.items), 1)
    for start in range(0, campaigns, batch):
        found = two_way_many(draw_rates(setting, min(batch, campaigns - start), rng))
        for rate, error, df in zip(
            found.estimate_M.tolist(), found.standard_error_M.tolist(), found.df_M.tolist(),
            strict=True,
        ):  # fmt: skip
            for method in METHODS:
                limits[method].append(_limits(method, rate, error, df, setting.items))
    return {method: _missed(np.array(pairs), setting.rate) for method, pairs in limits.items()}


def _limits(method: str, rate: float, error: float, df: float, items: int) -> tuple[float, float]:
    if error == 0.0:
        share = exact_bound(items, LEVEL)
        return (0.0, share) if rate == 0.0 else (1.0 - share, 1.0)
    if method == "score":
        return score_limits(rate, error, df, LEVEL)
    quantile = float(stdtrit(df, 0.5 + LEVEL / 2))
    if method == "two-way t":
        return rate - quantile * error, rate + quantile * error
    size = effective_size(rate, error) * (ndtri(0.5 + LEVEL / 2) / quantile) ** 2
    ones, zeros = size * rate, size * (1.0 - rate)
    tail = (1.0 - LEVEL) / 2
    return (
        float(betaincinv(ones, zeros + 1.0, tail)),
        float(betaincinv(ones + 1.0, zeros, 1.0 - tail)),
    )


def _missed(limits_M2: npt.NDArray[np.float64], rate: float) -> Missed:
    low_M, high_M = limits_M2.T
    below, above = 100 * float((high_M < rate).mean()), 100 * float((low_M > rate).mean())
    return Missed(
        covered=100 - below - above,
        far=below if rate <= 0.5 else above,
        near=above if rate <= 0.5 else below,
        outside=100 * float(((low_M < 0.0) | (high_M > 1.0)).mean()),
        width=100 * float((high_M - low_M).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=20_261_126)
    parser.add_argument("--campaigns", type=int, default=4_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    rows = [
        (setting, run_setting(setting, chosen.campaigns, np.random.default_rng([chosen.seed, at])))
        for at, setting in enumerate(all_settings())
    ]
    used = resource.getrusage(resource.RUSAGE_SELF)
    lines = [
        "# Coverage of one arm's rate",
        "",
        f"`python benchmarks/rate_coverage.py --seed {chosen.seed} "
        f"--campaigns {chosen.campaigns}`: "
        f"{used.ru_utime + used.ru_stime:.0f} CPU s, commit {commit()}. Nominal 95 %; in brackets "
        "the misses on the side of 0.5 and on the other, nominal 2.5 each; then the mean width in "
        f"points. Monte-Carlo error of a coverage of 95 %: "
        f"{100 * np.sqrt(0.95 * 0.05 / chosen.campaigns):.2f}.",
        "",
        "| rate % | seeds | items | item SD | seed SD | score (decides) | two-way t "
        "| leaves [0, 1] | exact n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting, found in rows:
        shown = {
            method: f"{one.covered:.1f} ({one.far:.1f}, {one.near:.1f}) {one.width:.2f}"
            for method, one in found.items()
        }
        spread = "as in the study" if setting.as_study else f"{setting.item_sd:g}"
        lines.append(
            f"| {100 * setting.rate:g} | {setting.seeds} | {setting.items} | {spread} "
            f"| {setting.seed_sd:g} | {shown['score']} | {shown['two-way t']} "
            f"| {found['two-way t'].outside:.0f} % | {shown['exact n']} |"
        )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "rate_coverage.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
