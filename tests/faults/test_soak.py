"""A fleet that loses a process every few seconds ends as a calm one does: a short soak, for real.

`benchmarks/soak.py` with its own defaults is the long one (15 minutes, `results/soak.json`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "soak.py"
MINUTES = 3.0
EVERY_S = 25.0
"""After a kill of the driver its successor has brought the actors up within about 17 s."""
LIMIT_S = 840


def test_a_fleet_that_keeps_losing_processes_ends_as_a_calm_one(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    out = tmp_path / "soak.json"
    length = ["--minutes", str(MINUTES), "--every", str(EVERY_S), "--seeds", "3"]
    said = tmp_path / "stderr"
    with said.open("w", encoding="utf-8") as sink:
        soak = subprocess.Popen(
            [sys.executable, str(SOAK), *length, "--out", str(out)],
            stderr=sink,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        try:
            code = soak.wait(LIMIT_S)
        finally:
            family = psutil.Process().children(recursive=True) if soak.poll() is None else []
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    told = said.read_text(encoding="utf-8")

    assert code == 0, told
    seen = json.loads(out.read_text(encoding="utf-8"))
    # Every campaign ends, so that `num_campaigns` counts those with another end too.
    assert seen["num_campaigns"] >= 1
    assert seen["num_equal"] == seen["num_campaigns"], told
    assert (seen["lost"], seen["twice"], seen["processes_left"]) == (0, 0, 0), told
    # Each kill restarts something; a soak that hardly hits anything shows nothing.
    assert seen["num_kills"] >= 4
    assert len(seen["by_process"]) >= 2, seen["by_process"]
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(seen["by_process"].items()))
    record_property("soak_short", f"{MINUTES:g} min, {seen['num_kills']} kills ({kinds})")
