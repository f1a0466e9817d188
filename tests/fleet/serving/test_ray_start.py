"""`serve` is told to end while Ray comes up: it finishes its start and ends in order."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import psutil
import pytest
from fake_shop import stock
from serve_process import START_S, cannot_run, family, serve_process

from bem import load_base

WHY = cannot_run()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(WHY), reason=WHY),
]


def test_sigterm_while_ray_starts(base_folder: Path, tmp_path: Path) -> None:
    """Ray takes SIGTERM for itself at that time; the signal waits until it is there."""
    store = stock(load_base(base_folder), tmp_path / "registry", "plain")
    seen: dict[int, psutil.Process] = {}
    told = False
    began_s = time.monotonic()
    with serve_process(store, tmp_path) as server:
        process = server.process
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                seen.update({child.pid: child for child in family(process.pid)})
                commands = ["".join(child.cmdline()[:1]) for child in family(process.pid)]
                if not told and any("gcs_server" in command for command in commands):
                    process.send_signal(signal.SIGTERM)
                    told = True
            assert time.monotonic() - began_s < START_S, server.said
            time.sleep(0.1)
    assert told, server.said
    assert process.returncode == 0, server.said
    assert "SIGTERM: ends once the start is through" in server.said
    _, alive = psutil.wait_procs(list(seen.values()), timeout=20)
    assert not alive, [left.cmdline() for left in alive]
    assert not list(Path("/tmp").glob(f"bf-{process.pid}-*"))
