"""Wall and CPU seconds of `--help` and `status` against `python -c pass` on the same machine.

Run: `python benchmarks/cli_start.py`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 9
ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "fleet.py --help": [sys.executable, str(ROOT / "fleet.py"), "--help"],
    "fleet.py status": [sys.executable, str(ROOT / "fleet.py"), "status"],
}


def main() -> None:
    """Interleaved rounds; medians."""
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            before, started = os.times(), time.perf_counter()
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
            after = os.times()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(
                after.children_user
                + after.children_system
                - before.children_user
                - before.children_system
            )
    document = {
        name: {
            "wall_s": round(statistics.median(wall[name]), 3),
            "cpu_s": round(statistics.median(cpu[name]), 3),
        }
        for name in COMMANDS
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
