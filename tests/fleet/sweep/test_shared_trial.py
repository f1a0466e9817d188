"""A trial that a worker group trains together and one of whose processes is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_a_killed_peer_is_no_trial(tmp_path: Path) -> None:
    """It says nothing of the settings: no row may keep them from being tried again."""
    path = os.pathsep.join(map(str, (HERE.parents[2], HERE.parent)))
    ended = subprocess.run(
        [sys.executable, str(HERE / "shared_trial.py"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    said = (tmp_path / "leader.txt").read_text()
    assert said.startswith(
        "SweepError: F1, trial 2 of arm plain: another process of the worker group is gone: "
    )
