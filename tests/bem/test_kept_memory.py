"""Page faults and memory of real processes: malloc's settings are a process's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from bem import kept_memory
from bem.packing import fit_packed
from bem.training import fit

STEPS, BLOCKS, MIB = 5, 60, 4
SCRIPT = f"""
import contextlib, ctypes, json, resource, sys, threading
import torch
from bem.kept_memory import freed_memory_kept

torch.set_num_threads(1)
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a fault is a page
page = resource.getpagesize()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * page / 2**20

def step():
    blocks = [torch.ones({MIB} * 2**18) for _ in range({BLOCKS})]
    del blocks

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({STEPS}):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * page / 2**20 / {STEPS}

step()
figures = {{"before": resident(), "outside": faults()}}
with freed_memory_kept():
    with freed_memory_kept():
        step()
    figures["inside"] = faults()
    figures["kept"] = resident()
    other = threading.Event(), threading.Event()

    def elsewhere():
        with freed_memory_kept():
            other[0].set()
            other[1].wait()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    other[0].wait()
figures["still inside"] = faults()
other[1].set()
thread.join()
figures["after"] = resident()
with contextlib.suppress(RuntimeError), freed_memory_kept():
    step()
    figures["kept again"] = resident()
    raise RuntimeError
figures["after an error"] = resident()
print(json.dumps(figures))
"""
"""Faults in MiB a step, resident memory in MiB."""

SETTINGS = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
)

needs_glibc = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="malloc is not glibc's"
)


def measure(settings: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={name: value for name, value in os.environ.items() if name not in SETTINGS} | settings,
        check=True,
        capture_output=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@needs_glibc
def test_memory_is_kept_inside_and_given_back_at_the_end() -> None:
    taken = BLOCKS * MIB
    found = measure({})
    assert found["outside"] > 0.5 * taken
    assert found["inside"] < 0.05 * taken
    assert found["kept"] > found["before"] + 0.8 * taken
    assert found["still inside"] < 0.05 * taken, "another thread is inside yet"
    assert found["after"] < found["before"] + 0.2 * taken
    assert found["kept again"] > found["before"] + 0.8 * taken
    assert found["after an error"] < found["before"] + 0.2 * taken


@needs_glibc
@pytest.mark.parametrize(
    "settings",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_setting_of_the_users_own_stays(settings: dict[str, str]) -> None:
    assert measure(settings)["inside"] > 0.5 * BLOCKS * MIB


@needs_glibc
def test_both_loops_keep_it_while_they_train(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    seen: list[int] = []

    def loss(weight: nn.Parameter) -> Tensor:
        seen.append(kept_memory._inside)
        return weight.square().sum()

    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    fit(lambda step: loss(one), [{"params": [one], "lr": 0.1}], steps=1)
    fit_packed(
        lambda step: {"other": loss(other)},
        {"other": [{"params": [other], "lr": 0.1}]},
        steps=1,
    )
    assert (seen, kept_memory._inside) == ([1, 1], 0)
