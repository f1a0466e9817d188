"""BCa intervals of 200 metrics, 10,000 resamples, 1,000 examples: ours, scipy's, arch's.

Run: `python benchmarks/bootstrap_speed.py` (needs the extra `bench`; about 60 CPU s, with --loops
another 25). One process, one thread, interleaved rounds, CPU seconds, medians. Memory: a fresh
process a method, peak resident size minus that after imports and data.

scipy and arch are given their quickest form that was found: scipy over an axis (all metrics in
one call) and over an index sample whose statistic gathers rows, each with the batch that was
quickest of those tried here; arch with one statistic for all metrics. `--loops` adds a call a
metric. All methods see the same data; the largest gap between their limits and ours is printed in
units of the interval's width, since each draws its own resamples.

"ours, every resample" is `bca_ideal`: the limits to which drawn resamples tend, without a random
number. What no method that draws 10,000 x 1,000 units and multiplies them with 200 metrics can go
below is timed beside them: drawing and counting alone, and the float32 product alone.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import scipy
from scipy.stats import bootstrap
from threadpoolctl import threadpool_info

from stats.bootstrap import (
    CategoryResamples,
    CrossedResamples,
    OneWayResamples,
    bca_ideal,
    bca_many,
)
from stats.bootstrap.draws import chunks, draw_counts

FloatArray = npt.NDArray[np.float64]
Limits = tuple[FloatArray, FloatArray]
Method = Callable[[], Limits]

UNITS, METRICS, SEEDS, RESAMPLES = 1000, 200, 5, 10_000
BATCHES = (1, 2, 5, 10, 25, 100)


def data(kind: str) -> FloatArray:
    """Paired differences: seeds x units x metrics; one-way methods take the first seed."""
    rng = np.random.default_rng(0)
    shape = (SEEDS, UNITS, METRICS)
    if kind == "continuous":
        return rng.normal(0.05, 1.0, size=shape)
    return (rng.random(shape) < 0.6).astype(np.float64) - (rng.random(shape) < 0.57)


def ours(values: FloatArray, resampler: type, seed: int = 0) -> Limits:
    found = bca_many(values, resampler(rng_seed=seed, resamples=RESAMPLES))
    return found.low_M, found.high_M


def scipy_axis(values_NM: FloatArray, batch: int, resamples: int = RESAMPLES) -> Limits:
    """All metrics in one call; scipy gives them the same resamples."""
    columns_MN = np.ascontiguousarray(values_NM.T)
    found = bootstrap(
        (columns_MN,), np.mean, axis=-1, vectorized=True, n_resamples=resamples, batch=batch,
        method="BCa", rng=np.random.default_rng(0),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


def scipy_index(values_NM: FloatArray, batch: int, resamples: int = RESAMPLES) -> Limits:
    """The sample is the index; the statistic gathers whole rows of the table."""

    def statistic(index: npt.NDArray[np.intp], axis: int = -1) -> FloatArray:
        return np.moveaxis(values_NM[index].mean(axis=-2), -1, 0)

    found = bootstrap(
        (np.arange(len(values_NM)),), statistic, vectorized=True, n_resamples=resamples,
        batch=batch, method="BCa", rng=np.random.default_rng(0),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


def scipy_loop(values_NM: FloatArray) -> Limits:
    limits = [
        bootstrap(
            (column_N,), np.mean, vectorized=True, n_resamples=RESAMPLES, batch=100, method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval
        for column_N in np.ascontiguousarray(values_NM.T)
    ]  # fmt: skip
    return np.array([limit.low for limit in limits]), np.array([limit.high for limit in limits])


def arch_all(values_NM: FloatArray) -> Limits:
    """One statistic for all metrics."""
    from arch.bootstrap import IIDBootstrap

    limits = IIDBootstrap(values_NM, seed=np.random.default_rng(0)).conf_int(
        lambda table: table.mean(axis=0), reps=RESAMPLES, method="bca"
    )
    return limits[0], limits[1]


def arch_loop(values_NM: FloatArray) -> Limits:
    limits = [arch_all(np.ascontiguousarray(values_NM[:, m : m + 1])) for m in range(METRICS)]
    return np.concatenate([low for low, _ in limits]), np.concatenate([high for _, high in limits])


def ours_again(values: FloatArray, resampler: OneWayResamples) -> Limits:
    """With the counts of an earlier call, as for every further comparison of the same shape."""
    found = bca_many(values, resampler)
    return found.low_M, found.high_M


def ours_ideal(values_NM: FloatArray) -> Limits:
    found = bca_ideal(values_NM)
    return found.low_M, found.high_M


def bounds() -> dict[str, Callable[[], object]]:
    """Parts that drawn resamples cannot do without."""
    rng = np.random.default_rng(0)
    counts_BN = draw_counts(rng, RESAMPLES, UNITS).astype(np.float32)
    values_NM = rng.random((UNITS, METRICS), dtype=np.float32)

    def draw() -> None:
        for rows in chunks(RESAMPLES):
            draw_counts(rng, rows.stop - rows.start, UNITS, kind=np.uint16)

    return {
        "drawing and counting alone": draw,
        "float32 product alone": lambda: counts_BN @ values_NM,
    }


def methods(batches: dict[str, int], loops: bool) -> dict[str, Method]:
    """What is timed, in the order of a round."""
    fine, binary = data("continuous"), data("binary")
    one = np.ascontiguousarray(fine[0])
    chosen: dict[str, Method] = {
        "ours, every resample, continuous": partial(ours_ideal, one),
        "ours, every resample, binary": partial(ours_ideal, np.ascontiguousarray(binary[0])),
        "ours, continuous": partial(ours, one, OneWayResamples),
        "ours, binary": partial(ours, np.ascontiguousarray(binary[0]), OneWayResamples),
        "ours, 5 seeds, continuous": partial(ours, fine, CrossedResamples),
        "ours, 5 seeds, binary": partial(ours, binary, CrossedResamples),
        "ours, binary, counts at hand": partial(
            ours_again,
            np.ascontiguousarray(binary[0]),
            OneWayResamples(rng_seed=0, resamples=RESAMPLES),
        ),
        "ours, categories, binary": partial(
            ours, np.ascontiguousarray(binary[0]), CategoryResamples
        ),
        "scipy, axis": partial(scipy_axis, one, batches.get("scipy, axis", 2)),
        "scipy, index": partial(scipy_index, one, batches.get("scipy, index", 2)),
        "arch": partial(arch_all, one),
    }
    if loops:
        chosen["scipy, a call a metric"] = partial(scipy_loop, one)
        chosen["arch, a call a metric"] = partial(arch_loop, one)
    return chosen


def cpu(method: Method) -> tuple[float, Limits]:
    started = time.process_time()
    limits = method()
    return time.process_time() - started, limits


def ratio(theirs: list[float], ours_too: list[float]) -> float:
    """Median of the ratios of single rounds, or of the medians where the rounds differ."""
    if len(theirs) != len(ours_too):
        return round(statistics.median(theirs) / statistics.median(ours_too), 1)
    return round(statistics.median(a / b for a, b in zip(theirs, ours_too, strict=True)), 1)


def tune() -> dict[str, int]:
    """The quickest batch of each scipy form, at 500 resamples."""
    one = np.ascontiguousarray(data("continuous")[0])
    forms = {"scipy, axis": scipy_axis, "scipy, index": scipy_index}
    return {
        name: min(BATCHES, key=lambda batch: cpu(partial(form, one, batch, 500))[0])
        for name, form in forms.items()
    }


def peak_mib(name: str) -> float:
    """Peak resident size of a method above imports and data, in a fresh process."""
    found = subprocess.run(
        [sys.executable, __file__, "--memory", name], capture_output=True, text=True, check=True
    )
    return float(found.stdout)


def _peak_kib() -> int:
    """Largest resident size of this process so far (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Interleaved rounds; one JSON document on stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loops", action="store_true", help="add a call a metric, one round")
    parser.add_argument("--memory", metavar="METHOD", help="print one method's peak MiB and stop")
    chosen = parser.parse_args()
    if chosen.memory:
        method = methods({}, loops=True)[chosen.memory]
        # Above what is resident now, not above the peak so far: making the data took more than
        # holding it. Not ru_maxrss: that one starts from the size of the parent process.
        before = psutil.Process().memory_info().rss / 1024
        method()
        sys.stdout.write(f"{(_peak_kib() - before) / 1024:.1f}\n")
        return
    import arch

    batches = tune()
    memory = {name: peak_mib(name) for name in methods({}, loops=False)}
    timed = methods(batches, chosen.loops)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    limits: dict[str, Limits] = {}
    for number in range(chosen.rounds):
        for name, method in timed.items():
            if number == 0 or "a call a metric" not in name:
                spent, limits[name] = cpu(method)
                seconds[name].append(spent)
    least: dict[str, list[float]] = {name: [] for name in bounds()}
    for name, part in bounds().items():
        for _ in range(chosen.rounds):
            started = time.process_time()
            part()
            least[name].append(time.process_time() - started)
    low_M, high_M = limits["ours, every resample, continuous"]
    table = {
        name: {
            "cpu_s": round(statistics.median(found), 4),
            "rounds": [round(value, 4) for value in found],
            "peak_mib": memory.get(name),
            **{
                f"times_{ours_too}": ratio(found, seconds[ours_too])
                for ours_too in seconds
                if ours_too.startswith("ours") and not name.startswith("ours")
            },
        }
        for name, found in seconds.items()
    }
    gaps = {
        name: round(
            max(
                float((np.abs(low - low_M) / (high_M - low_M)).max()),
                float((np.abs(high - high_M) / (high_M - low_M)).max()),
            ),
            4,
        )
        for name, (low, high) in limits.items()
        if name.startswith(("scipy", "arch"))
    }
    document = {
        "metrics": METRICS,
        "resamples": RESAMPLES,
        "units": UNITS,
        "scipy_batches": batches,
        "versions": {
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "arch": arch.__version__,
        },
        "blas": [
            f"{one['internal_api']} {one['version']} {one.get('architecture', '')}".strip()
            for one in threadpool_info()
        ],
        "methods": table,
        "bounds_cpu_s": {name: round(statistics.median(found), 4) for name, found in least.items()},
        "largest_gap_of_limits_in_widths": gaps,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
