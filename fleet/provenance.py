"""Where a result comes from: code, commit, machine, library versions. Imports nothing heavy."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
SCORED_PACKAGES = ("bem", "missions", "stats")
"""What decides a run's scores; the fleet only carries them."""
_SUFFIXES = frozenset({".py", ".yaml", ".json", ".jsonl", ".safetensors"})
LIBRARIES = (
    "faiss-cpu",
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "ray",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)


def code_version() -> str:
    """sha256 over the files that decide scores: the same for the same code, with or without git."""
    sha = hashlib.sha256()
    for package in SCORED_PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                sha.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
                with path.open("rb") as stream:
                    sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()


def commit() -> tuple[str, bool]:
    """(commit, dirty) of the working tree; ('', True) where there is no git to ask. A tree of which
    git could not say in time whether it is clean counts as dirty."""
    revision = _git("rev-parse", "HEAD")
    if not revision:
        return "", True
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return revision, changes is None or bool(changes)


def versions() -> dict[str, str]:
    """Installed versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def hardware() -> dict[str, Any]:
    """The machine, in facts that matter for speed and for bit-identity."""
    memory = psutil.virtual_memory()
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cpus": usable_cpus(),
        "memory_mib": memory.total >> 20,
        "gpus": ", ".join(_gpu_models()) or "none",
    }


def recorded() -> dict[str, Any]:
    """Head of a benchmark's record: when, on what, with which code."""
    revision, dirty = commit()
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "date": datetime.date.today().isoformat(),
        "commit": revision[:12],
        "dirty": dirty,
        "load_at_start": load,
        "hardware": hardware(),
    }


def usable_cpus() -> int:
    """Cores that this process may use, as the scheduler and the container's quota have it."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = allowed or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text(encoding="ascii").split()[:2]
        if limit != "max":
            count = min(count, max(1, int(limit) // int(period)))
    return count


def nvidia_gpus() -> int:
    """NVIDIA devices, without loading torch: as the driver lists them, or by their device files
    (a container may have these alone)."""
    listed = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return listed or len(list(Path("/dev").glob("nvidia[0-9]*")))


def _gpu_models() -> list[str]:
    """What the driver calls each NVIDIA device; only their number where it lists none."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return models or [f"{nvidia_gpus()} NVIDIA"] * bool(nvidia_gpus())


def command_line(arguments: Sequence[str]) -> str:
    """The command as a user would type it again."""
    import shlex

    program = "python fleet.py" if Path(sys.argv[0]).name == "fleet.py" else "bem-fleet"
    return " ".join([program, *map(shlex.quote, arguments)])


def _git(*arguments: str) -> str | None:
    """What git says; None where it failed or took too long."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
