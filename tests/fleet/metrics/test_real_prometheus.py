"""A real Prometheus scrapes a real launch, loads the rules and fires; the fleet's own alert too."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.alerts import AlertConfig
from fleet.metrics.prometheus import rules_file

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 150.0

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus (Debian: prometheus) is missing"
    ),
]


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Two fake missions: the first fails in training, the second keeps the launch up."""
    command = [sys.executable, str(ROOT / "tests/fleet/fake_launch.py"), "launch"]
    command += ["--missions", "F1,F2", "--run-id", "watched", "--runs-dir", str(tmp_path / "runs")]
    command += ["--set", "F1:params.fail=train", "--set", "F2:params.pack_s=45", "--no-promote"]
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command, cwd=ROOT, stderr=err, stdout=subprocess.DEVNULL)
    yield process
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)


@pytest.mark.usefixtures("launched")
def test_run_failed_fires_in_prometheus(launched: subprocess.Popen[bytes], tmp_path: Path) -> None:
    targets = _wait(lambda: next(Path("/tmp").glob(f"bf-{launched.pid}-*/prom_*.json"), None))
    (tmp_path / "rules.yml").write_text(rules_file(AlertConfig()))
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(targets)]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = _free_port()
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    command += [f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        prometheus = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        fired = _wait(lambda: _firing(port).get("RunFailed"))
        assert fired["labels"]["mission"] == "F1"
        assert fired["labels"]["run_id"] == "watched"
        assert fired["labels"]["severity"] == "critical"
        assert set(_firing(port)) == {"RunFailed"}
    finally:
        prometheus.terminate()
        prometheus.wait(timeout=30)
    lines = (tmp_path / "runs/watched/alerts.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert {row["rule"] for row in told} == {"RunFailed"}
    assert all(row["subject"].startswith("F1-") for row in told)
    assert "alert critical: A run failed: F1-" in (tmp_path / "err").read_text()


def _firing(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5) as answer:
            found = json.load(answer)["data"]["alerts"]
    except OSError:
        return {}
    return {a["labels"]["alertname"]: a for a in found if a["state"] == "firing"}


def _wait(look: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"nothing within {PATIENCE_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
