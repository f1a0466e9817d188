"""A mission's log: whole lines from several processes at once, capped, without secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fleet.monitor.mission_log import mission_log, parse, show

WRITER = """
import logging, sys
from pathlib import Path
from typing import Any
from fleet.monitor.mission_log import open_mission_log
open_mission_log(Path(sys.argv[1]), "M", max_bytes=int(sys.argv[4]))
for n in range(int(sys.argv[3])):
    logging.getLogger("w").info("%s %d %s", sys.argv[2], n, "x" * 100)
try:
    raise ValueError("token is hf_very_secret")
except ValueError:
    logging.getLogger("w").exception("failed with hf_very_secret")
import warnings
warnings.warn("careful")
"""


def records_in(logs: Path) -> list[dict[str, Any]]:
    """Of the rotated file and of the present one, oldest first."""
    path = mission_log(logs, "M")
    parts = [part for part in (path.with_name(f"{path.name}.1"), path) if part.is_file()]
    return [parse(line) for part in parts for line in part.read_text().splitlines()]


def _write(logs: Path, *, writers: int, lines: int, max_bytes: int) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(logs), f"w{n}", str(lines), str(max_bytes)],
            env={"HF_TOKEN": "hf_very_secret", "PATH": "/usr/bin:/bin"},
            cwd=Path(__file__).resolve().parents[3],
        )
        for n in range(writers)
    ]
    assert [process.wait(timeout=120) for process in started] == [0] * writers


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    _write(tmp_path, writers=3, lines=200, max_bytes=1 << 20)
    records = records_in(tmp_path)
    said = [record["text"] for record in records if record["level"] == "INFO"]
    assert sorted(said) == sorted(f"w{w} {n} {'x' * 100}" for w in range(3) for n in range(200))
    assert sum("careful" in record["text"] for record in records) == 3
    failed = [record for record in records if record["level"] == "ERROR"]
    assert len(failed) == 3
    assert "ValueError: token is [redacted HF_TOKEN]" in failed[0]["traceback"]
    assert "hf_very_secret" not in mission_log(tmp_path, "M").read_text()
    assert "ERROR w failed with [redacted HF_TOKEN]\nTraceback" in show(failed[0])


def test_capped(tmp_path: Path) -> None:
    _write(tmp_path, writers=2, lines=400, max_bytes=20_000)
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert sum(path.stat().st_size for path in files) < 2 * 20_000 + 2_000
    records = records_in(tmp_path)
    assert all("level" in record for record in records), "a torn line"
    assert any(record["text"].startswith(("w0 399 ", "w1 399 ")) for record in records)


def test_a_foreign_line_is_shown_as_it_is(tmp_path: Path) -> None:
    mission_log(tmp_path, "M").write_text('not json\n"text"\n' + json.dumps({"text": "ours"}))
    assert [show(record) for record in records_in(tmp_path)] == [
        "not json",
        '"text"',
        "ours",
    ]
