"""What the benchmarks of models share: where they run, and the clock that is right there.

On a CPU, CPU seconds of one thread; on a GPU, wall seconds between two synchronisations, so that
a step counts from its first launch to the end of its last kernel.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import transformers

GPU_SHAPE: dict[str, Any] = {"hidden_size": 1024, "layers": 4, "heads": 16, "mlp_size": 2816}
"""The base on a GPU: about 50 million weights in 4 layers, random."""


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option `--device`."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))


def seconds(call: Callable[[], Any], device: str) -> float:
    """Of one call."""
    if device == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(
    calls: Mapping[str, Callable[[], Any]], device: str, rounds: int, *, warm: int
) -> dict[str, list[float]]:
    """Seconds of each call by label; the first `warm` rounds are left out.

    A round begins one label further on than the last; once each label was first, rounds go the
    other way. So each is in every place, after either neighbour.
    """
    taken: dict[str, list[float]] = {label: [] for label in calls}
    labels = list(calls)
    for index in range(rounds + warm):
        first = index % len(labels)
        order = labels[first:] + labels[:first]
        for label in reversed(order) if index // len(labels) % 2 else order:
            taken[label].append(seconds(calls[label], device))
    return {label: values[warm:] for label, values in taken.items()}


def precision(device: str) -> AbstractContextManager[Any]:
    """bfloat16 by autocast on a GPU, as missions train there; float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


def attention(device: str) -> str:
    """As `load_base` chooses, for the peers to have the same."""
    return "eager" if device == "cpu" else "sdpa"


def clock(device: str) -> str:
    """What the milliseconds are."""
    return "CPU ms, one thread, float32" if device == "cpu" else "wall ms, bfloat16"


def machine(device: str) -> str:
    """Hardware, versions and commit."""
    where = platform.machine()
    if device == "cuda":
        where = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return (
        f"{where}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, commit {done.stdout.strip() or 'unknown'}"
    )
