"""A real Prometheus scrapes a real launch, a real Alertmanager tells a webhook of a killed worker.

The fleet's own watchman tells the same receiver, in the same form.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.alerts import AlertConfig
from fleet.metrics.prometheus import rules_file

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 150.0
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus (Debian: prometheus) is missing"
    ),
    pytest.mark.skipif(
        ALERTMANAGER is None,
        reason="Alertmanager (Debian: prometheus-alertmanager) is missing",
    ),
]


class Receiver(ThreadingHTTPServer):
    """Collects the bodies of webhooks, by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.bodies: dict[str, list[dict[str, Any]]] = {}

    def told(self, path: str, rule: str, status: str = "firing") -> dict[str, Any] | None:
        """The first alert of a rule that came in by a path."""
        for body in self.bodies.get(path, []):
            for alert in body["alerts"]:
                if alert["labels"]["alertname"] == rule and alert["status"] == status:
                    return dict(alert)
        return None


class _Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Receiver)
        self.server.bodies.setdefault(self.path, []).append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def launched(tmp_path: Path, receiver: Receiver) -> Iterator[subprocess.Popen[bytes]]:
    """In the first mission a seed fails and the next kills its worker; the second stays at work."""
    command = [sys.executable, str(ROOT / "tests/fleet/fake_launch.py"), "launch"]
    command += ["--missions", "F1,F2", "--run-id", "watched", "--runs-dir", str(tmp_path / "runs")]
    command += ["--set", "F1:params.fail=train", "--set", "F1:params.kill_once=true"]
    command += ["--set", "F2:params.pack_s=60", "--no-promote"]
    hook = f"http://127.0.0.1:{receiver.server_port}/fleet"
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=err,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BEM_FLEET_ALERT_WEBHOOK": hook},
        )
    yield process
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)


@contextlib.contextmanager
def running(log: Path, *command: str) -> Iterator[None]:
    """A server of the Debian packages, ended at the end."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_killed_worker_reaches_the_webhook(
    launched: subprocess.Popen[bytes], receiver: Receiver, tmp_path: Path
) -> None:
    targets = _wait(lambda: next(Path("/tmp").glob(f"bf-{launched.pid}-*/prom_*.json"), None))
    port, alerts_port = _free_port(), _free_port()
    (tmp_path / "rules.yml").write_text(rules_file(AlertConfig()))
    prometheus = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(targets)]}]}],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alerts_port}"]}]}]
        },
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    url = f"http://127.0.0.1:{receiver.server_port}/alertmanager"
    alertmanager = {
        "route": {
            "receiver": "hook",
            "group_by": ["alertname", "mission"],
            "group_wait": "1s",
            "group_interval": "2s",
        },
        "receivers": [{"name": "hook", "webhook_configs": [{"url": url}]}],
    }
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(alertmanager))
    assert ALERTMANAGER is not None
    with (
        running(
            tmp_path / "alertmanager.log",
            ALERTMANAGER,
            f"--config.file={tmp_path / 'alertmanager.yml'}",
            f"--storage.path={tmp_path / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{alerts_port}",
            "--cluster.listen-address=",
        ),
        running(
            tmp_path / "prometheus.log",
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        ),
    ):
        died = _wait(lambda: receiver.told("/alertmanager", "WorkerDied"))
        assert died["labels"]["mission"] == "F1"
        assert died["labels"]["run_id"] == "watched"
        assert died["labels"]["severity"] == "warning"
        assert died["annotations"]["summary"] == "A worker died"
        failed = _wait(lambda: receiver.told("/alertmanager", "RunFailed"))
        assert failed["labels"]["mission"] == "F1"
        assert failed["labels"]["severity"] == "critical"
        assert _firing(port) == {"RunFailed", "WorkerDied"}
    assert _wait(lambda: receiver.told("/fleet", "WorkerDied"))["labels"]["severity"] == "warning"
    lines = (tmp_path / "runs/watched/alerts.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert {row["rule"] for row in told} == {"RunFailed", "WorkerDied"}
    assert all(row["subject"].startswith("F1") for row in told)
    said = (tmp_path / "err").read_text()
    assert "alert critical: A run failed: F1-" in said
    assert "alert warning: A worker died: F1" in said


def _firing(port: int) -> set[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5) as answer:
        found = json.load(answer)["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}


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
