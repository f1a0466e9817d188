"""A fleet that loses a process every few seconds ends as a calm one does: a short soak, for real.

`benchmarks/soak.py` with its own defaults is the long one (15 minutes, `results/soak.json`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
MINUTES = 2.5
EVERY_S = 20.0


def test_a_fleet_that_keeps_losing_processes_ends_as_a_calm_one(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    out = tmp_path / "soak.json"
    length = ["--minutes", str(MINUTES), "--every", str(EVERY_S), "--seeds", "3"]
    ended = subprocess.run(
        [sys.executable, str(SOAK), *length, "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    seen = json.loads(out.read_text(encoding="utf-8"))
    # Every campaign ends, so that `num_campaigns` counts those with another end too.
    assert seen["num_campaigns"] >= 1
    assert seen["num_equal"] == seen["num_campaigns"], ended.stderr
    assert (seen["lost"], seen["twice"], seen["processes_left"]) == (0, 0, 0)
    # Each kill restarts something; a soak that hardly hits anything shows nothing.
    assert seen["num_kills"] >= 4
    assert len(seen["by_process"]) >= 2, seen["by_process"]
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(seen["by_process"].items()))
    record_property("soak_short", f"{MINUTES:g} min, {seen['num_kills']} kills ({kinds})")
