"""Runs the page by itself, without Ray: uvicorn in this process, until Ctrl-C."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from fleet.errors import UnfitEnvironmentError, UsageError
from fleet.page.app import create_app
from fleet.page.guard import LOOPBACK
from fleet.settings import find_run

TOKEN = "BEM_FLEET_PAGE_TOKEN"
"""Environment variable with the token; a fresh one is made where it is not set."""
LEAST_TOKEN = 16


def serve(
    runs_dir: Path,
    registry_dir: Path,
    *,
    run: str | None,
    host: str,
    port: int,
    names: Sequence[str],
) -> int:
    """Serves the page and says where it is.

    Args:
        run: a launch whose page is the address that is shown.
        names: further host names that it may be reached by.
    """
    start = f"runs/{find_run(runs_dir, run).run_id}" if run is not None else ""
    token = token_for(host, os.environ.get(TOKEN))
    listener = _listen(host, port)
    shown = host if host not in ("0.0.0.0", "::") else socket.gethostname()
    at = listener.getsockname()[1]
    hosts = (*LOOPBACK, _as_header(shown), _as_header(host), *names)
    address = f"http://{_as_header(shown)}:{at}/{start}"
    say = sys.stderr.write
    say(f"{address}{f'?token={token}' if token else ''}\n")
    if token is not None:
        say("  the connection is not encrypted: use it in a network that you trust, or a tunnel\n")
    app = create_app(runs_dir, registry_dir, hosts=hosts, token=token)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    server.run(sockets=[listener])
    return 0


def token_for(host: str, given: str | None) -> str | None:
    """The token that who asks must know: none on loopback, unless one is set.

    Raises:
        UsageError: a token that can be guessed.
    """
    if given:
        if len(given) < LEAST_TOKEN:
            raise UsageError(f"{TOKEN}: expected at least {LEAST_TOKEN} characters.")
        return given
    return None if _is_loopback(host) else secrets.token_urlsafe(24)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _as_header(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UnfitEnvironmentError(
            f"--host {host} --port {port}: cannot listen there: {error}",
            go_on="python fleet.py watch --web --port 0",
        ) from None
    return listener
