"""Do 95 % intervals cover the truth 95 % of the time? Five methods, known truths.

Run: `python benchmarks/coverage_study.py` (writes benchmarks/results/coverage_study.*), or with
`--campaigns 500 --bca-campaigns 200 --out FOLDER` for a quick look. The same --seed gives the
same figures for any number of processes.

    two-way t        the default: two-way Satterthwaite t over seeds and examples
    crossed BCa      the reported interval: crossed BCa calibrated to the two-way width
    example BCa      BCa over examples of the seed-averaged scores
    seed-mean BCa    BCa over the seed means
    seed t           t-test of the seed means

The three below the line show why not. t methods see `--campaigns` campaigns of each setting, BCa
methods the first `--bca-campaigns` of them with `--resamples` resamples each, drawn afresh for
every batch of campaigns. The Monte-Carlo error of a share p of n campaigns is sqrt(p (1-p) / n).
Among hundreds of settings some lie on the wrong side of an edge of the band by chance, whichever
side that is. So every setting whose default interval lies within `NEAR` Monte-Carlo errors of an
edge, inside or outside, is measured once more on `--again` fresh campaigns. For the default
interval that second figure, which nothing was selected on, is the setting's figure; the first is
kept in the CSV. `--first FILE` takes the first look from the CSV of an earlier study of the same
numbers of campaigns instead of measuring it anew.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from coverage_settings import Setting, all_settings, draw
from scipy.special import stdtrit

from stats.bootstrap import CrossedResamples, OneWayResamples, bca_many
from stats.twoway_many import two_way_many

FloatArray = npt.NDArray[np.float64]
Limits = tuple[FloatArray, FloatArray]

LEVEL = 0.95
BAND = (0.935, 0.985)
WORST_FALSE_POSITIVES = 0.065
NEAR = 3.0
"""Monte-Carlo errors from an edge of the band within which a setting is measured once more."""
CELLS_PER_BATCH = 1_500_000
T_METHODS = ("two-way t", "seed t")
METHODS = ("two-way t", "crossed BCa", "example BCa", "seed-mean BCa", "seed t")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """How often the intervals of a method missed the truth."""

    campaigns: int
    undefined: int
    """Campaigns without an interval; they count neither as covered nor as missed."""
    too_high: int
    """The whole interval lies above the truth."""
    too_low: int
    width: float
    """Sum of widths."""

    @property
    def coverage(self) -> float:
        defined = self.campaigns - self.undefined
        return 1 - (self.too_high + self.too_low) / defined if defined else math.nan

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of the coverage."""
        defined = self.campaigns - self.undefined
        return math.sqrt(self.coverage * (1 - self.coverage) / defined) if defined else math.nan


def intervals(
    method: str, values_SNM: npt.NDArray[np.float32], resamples: int, rng_seed: int
) -> Limits:
    """Limits of every campaign; NaN where the method has none."""
    if method == "two-way t":
        return two_way_many(values_SNM).interval(LEVEL)
    if method == "seed t":
        return _seed_t(values_SNM.mean(axis=1, dtype=np.float64))
    if method == "crossed BCa":
        crossed = CrossedResamples(rng_seed=rng_seed, resamples=resamples)
        found = bca_many(values_SNM, crossed, level=LEVEL, undefined="mask")
    else:
        axis = 0 if method == "example BCa" else 1
        means = values_SNM.mean(axis=axis, dtype=np.float64)
        units = OneWayResamples(rng_seed=rng_seed, resamples=resamples)
        found = bca_many(means, units, level=LEVEL, undefined="mask")
    return found.low_M, found.high_M


def _seed_t(means_SM: FloatArray) -> Limits:
    num_seeds = len(means_SM)
    centre_M = means_SM.mean(axis=0)
    half_M = means_SM.std(axis=0, ddof=1) / math.sqrt(num_seeds)
    half_M *= float(stdtrit(num_seeds - 1, 0.5 + LEVEL / 2))
    half_M[half_M == 0.0] = math.nan
    return centre_M - half_M, centre_M + half_M


def run_setting(
    at_setting: tuple[int, Setting],
    *,
    seed: int,
    campaigns: int,
    bca_campaigns: int,
    resamples: int,
    methods: Sequence[str] = METHODS,
) -> dict[str, Tally]:
    """Tallies of all methods on one setting; a function of its arguments alone."""
    at, setting = at_setting
    batch = max(min(CELLS_PER_BATCH // (setting.seeds * setting.examples), 500), 1)
    parts: dict[str, list[Tally]] = {method: [] for method in methods}
    done = 0
    for number in range(math.ceil(campaigns / batch)):
        size = min(batch, campaigns - done)
        values_SNM = draw(setting, size, np.random.default_rng([seed, at, number]))
        for method in methods:
            wanted = size if method in T_METHODS else min(size, bca_campaigns - done)
            if wanted > 0:
                limits = intervals(method, values_SNM[:, :, :wanted], resamples, number)
                parts[method].append(tally(limits, setting.truth))
        done += size
    return {method: _sum(found) for method, found in parts.items()}


def tally(limits: Limits, truth: float) -> Tally:
    """Counts misses of one batch."""
    low_M, high_M = limits
    return Tally(
        campaigns=len(low_M),
        undefined=int(np.isnan(low_M).sum()),
        too_high=int((low_M > truth).sum()),
        too_low=int((high_M < truth).sum()),
        width=float(np.nansum(high_M - low_M)),
    )


def near_an_edge(tally: Tally) -> bool:
    """Whether chance may have put a setting on its side of an edge of the band."""
    return min(abs(tally.coverage - edge) for edge in BAND) <= NEAR * tally.error


def _sum(parts: Iterable[Tally]) -> Tally:
    rows = [asdict(part) for part in parts]
    return Tally(**{name: sum(row[name] for row in rows) for name in rows[0]})


def main() -> None:
    """Runs all settings in processes and writes the tables and the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=20_261_123)
    parser.add_argument("--campaigns", type=int, default=10_000)
    parser.add_argument("--bca-campaigns", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="take every n-th setting only")
    parser.add_argument("--again", type=int, default=100_000, help="campaigns of a second look")
    parser.add_argument("--first", type=Path, help="CSV of an earlier study: its first look")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    if min(chosen.campaigns, chosen.bca_campaigns, chosen.every, chosen.processes) < 1:
        parser.error("campaigns, processes and every must be at least 1")
    from coverage_report import commit, read_first_looks, write_csv, write_figure, write_summary

    started = time.perf_counter()
    checked_out = commit()
    settings = list(enumerate(all_settings()))[:: chosen.every]
    work = partial(
        run_setting,
        seed=chosen.seed,
        campaigns=chosen.campaigns,
        bca_campaigns=chosen.bca_campaigns,
        resamples=chosen.resamples,
    )
    found: list[dict[str, Tally]] = []
    if chosen.first:
        found = read_first_looks(chosen.first, [setting for _, setting in settings])
    with multiprocessing.Pool(chosen.processes) as pool:
        for number, tallies in enumerate(
            pool.imap(work, [] if chosen.first else settings), start=1
        ):
            found.append(tallies)
            if number % 40 == 0 or number == len(settings):
                wall = time.perf_counter() - started
                sys.stderr.write(f"{number}/{len(settings)} settings, {wall:.0f} s\n")
        near = [
            at_setting
            for at_setting, tallies in zip(settings, found, strict=True)
            if at_setting[1].block != "stress" and near_an_edge(tallies["two-way t"])
        ]
        second_look = partial(
            run_setting,
            seed=chosen.seed + 1,
            campaigns=chosen.again,
            bca_campaigns=0,
            resamples=1,
            methods=("two-way t",),
        )
        again = pool.map(second_look, near, chunksize=1)
    second = {
        setting: tallies["two-way t"] for (_, setting), tallies in zip(near, again, strict=True)
    }
    rows = [(setting, tallies) for (_, setting), tallies in zip(settings, found, strict=True)]
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_csv(chosen.out / "coverage_study.csv", rows, second)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    write_summary(
        chosen.out / "coverage_study.md",
        rows,
        second,
        {**vars(chosen), "commit": checked_out},
        wall_s=time.perf_counter() - started,
        cpu_s=used.ru_utime + used.ru_stime,
    )
    write_figure(chosen.out / "coverage_study.svg", rows, second)


if __name__ == "__main__":
    main()
