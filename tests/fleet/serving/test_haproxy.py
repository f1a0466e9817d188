"""What HAProxy is given on one machine, checked by HAProxy itself; no Ray."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fleet.serving.haproxy import prepare

CONFIG = """global
    maxconn 10
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend prometheus
    bind :{metrics}
frontend web
    bind 127.0.0.1:{web}
listen stats
  bind *:{stats}
  stats enable
"""


def test_pages_of_all_interfaces_go_to_loopback(tmp_path: Path) -> None:
    environ: dict[str, str] = {"RAY_SERVE_HAPROXY_NBTHREAD": "2"}
    given = prepare(tmp_path / "haproxy", environ, local=True)
    assert set(given) == environ.keys() - {"RAY_SERVE_HAPROXY_NBTHREAD"}
    assert environ["RAY_SERVE_HAPROXY_NBTHREAD"] == "2"
    assert (tmp_path / "haproxy").stat().st_mode & 0o077 == 0
    metrics = environ["RAY_SERVE_HAPROXY_METRICS_PORT"]
    stats = environ["RAY_SERVE_HAPROXY_STATS_PORT"]
    assert metrics != stats
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(metrics=metrics, stats=stats, web=int(stats) - 1))
    binary = environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
    done = subprocess.run([binary, "-c", "-f", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    binds = [line.split()[1] for line in config.read_text().splitlines() if " bind " in line]
    assert [bind.partition(":")[0] for bind in binds] == ["127.0.0.1"] * 3


def test_on_a_cluster_other_nodes_reach_it(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    prepare(tmp_path / "haproxy", environ, local=False)
    assert environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in environ
