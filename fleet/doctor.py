"""Whether this machine can run a launch: facts, and advice where they are not enough.

Imports no model library: versions come from package metadata, torch's build from its version file.
"""

from __future__ import annotations

import shutil
import socket
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import psutil

from fleet import provenance
from fleet.ledger.files import NETWORK_FILE_SYSTEMS, file_system_of
from fleet.settings import MIN_FREE_MIB, MIN_MEMORY_MIB

Level = Literal["ok", "warning", "error"]
DASHBOARD_PORT = 8265


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    text: str
    advice: str = ""


def examine(runs_dir: Path) -> list[Finding]:
    """Looks at everything once."""
    return [
        _python(),
        *_libraries(),
        _torch(),
        _cores(),
        _memory(),
        _shared_memory(),
        _disk(runs_dir),
        _file_system(runs_dir),
        _socket_folder(),
        _port(),
        _base(),
        _commit(),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Finding(
        check="python",
        level="ok" if good else "error",
        text=version,
        advice="" if good else "Python 3.11 or newer is needed.",
    )


def _libraries() -> list[Finding]:
    missing = [name for name, version in provenance.versions().items() if version == "missing"]
    if missing:
        return [
            Finding(
                check="libraries",
                level="error",
                text=f"missing: {', '.join(missing)}",
                advice="pip install -c constraints.txt -e .",
            )
        ]
    text = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return [Finding(check="libraries", level="ok", text=text)]


def _torch() -> Finding:
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return Finding(check="torch", level="error", text="not installed")
    facts: dict[str, object] = {}
    version_file = Path(spec.origin).with_name("version.py")
    for line in version_file.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        facts[name.partition(":")[0].strip()] = value.strip().strip("'\"")
    cuda = facts.get("cuda", "None")
    build = "CPU build" if cuda in ("None", "") else f"CUDA {cuda}"
    gpus = provenance.nvidia_gpus()
    if gpus and build == "CPU build":
        return Finding(
            check="torch",
            level="warning",
            text=f"{metadata.version('torch')}, {build}, {gpus} NVIDIA device(s) present",
            advice="Install a CUDA build of torch to use them.",
        )
    text = f"{metadata.version('torch')}, {build}, {gpus} NVIDIA device(s)"
    return Finding(check="torch", level="ok", text=text)


def _cores() -> Finding:
    usable = provenance.usable_cpus()
    busy = psutil.getloadavg()[0]
    level: Level = "warning" if busy > usable else "ok"
    return Finding(
        check="cores",
        level=level,
        text=f"{usable} usable, load {busy:.1f}",
        advice="Other work holds the cores: expect a slower launch." if busy > usable else "",
    )


def _memory() -> Finding:
    free = psutil.virtual_memory().available >> 20
    good = free >= MIN_MEMORY_MIB
    return Finding(
        check="memory",
        level="ok" if good else "error",
        text=f"{free:,} MiB free",
        advice="" if good else f"Two missions side by side need about {MIN_MEMORY_MIB:,} MiB.",
    )


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding(check="/dev/shm", level="warning", text="not there; Ray falls back to /tmp")
    free = shutil.disk_usage(folder).free >> 20
    good = free >= 256
    return Finding(
        check="/dev/shm",
        level="ok" if good else "warning",
        text=f"{free:,} MiB free",
        advice="" if good else "In a container: start it with --shm-size=1g.",
    )


def _disk(runs_dir: Path) -> Finding:
    at = _existing(runs_dir)
    free = shutil.disk_usage(at).free >> 20
    good = free >= MIN_FREE_MIB
    return Finding(
        check="disk",
        level="ok" if good else "error",
        text=f"{free:,} MiB free at {at}",
        advice="" if good else f"A launch needs {MIN_FREE_MIB} MiB.",
    )


def _file_system(runs_dir: Path) -> Finding:
    mount, kind = file_system_of(_existing(runs_dir))
    bad = kind.lower() in NETWORK_FILE_SYSTEMS
    return Finding(
        check="file system",
        level="error" if bad else "ok",
        text=f"{kind or 'unknown'} at {mount}",
        advice="The ledger needs a local disk: --runs-dir." if bad else "",
    )


def _socket_folder() -> Finding:
    free = shutil.disk_usage("/tmp").free >> 20
    good = free >= 256
    return Finding(
        check="/tmp",
        level="ok" if good else "error",
        text=f"{free:,} MiB free",
        advice="" if good else "Ray keeps its sockets and logs there while it runs.",
    )


def _port() -> Finding:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        taken = probe.connect_ex(("127.0.0.1", DASHBOARD_PORT)) == 0
    return Finding(
        check="ports",
        level="ok",
        text=f"{DASHBOARD_PORT} is {'taken, Ray takes the next one' if taken else 'free'}",
    )


def _base() -> Finding:
    from missions.base_model import verify_bundle
    from missions.errors import MissionError

    try:
        verify_bundle()
    except (MissionError, OSError) as error:
        return Finding(
            check="bundled base",
            level="error",
            text=" ".join(str(error).split()),
            advice="Install again, or give --set base_model=<folder>.",
        )
    return Finding(check="bundled base", level="ok", text="files agree with the manifest")


def _commit() -> Finding:
    revision, dirty = provenance.commit()
    if not revision:
        return Finding(check="commit", level="ok", text="no git; reports name the code's digest")
    return Finding(
        check="commit",
        level="warning" if dirty else "ok",
        text=f"{revision[:12]}{' with changes' if dirty else ''}",
        advice="Reports from this tree are marked dirty." if dirty else "",
    )


def _existing(folder: Path) -> Path:
    at = folder.absolute()
    while not at.exists():
        at = at.parent
    return at
