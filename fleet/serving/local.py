"""One process under uvicorn, without Ray: for tests, benchmarks and the smallest installation."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn

from fleet.errors import UnfitEnvironmentError
from fleet.serving.app import build_app
from fleet.serving.server import Server
from fleet.serving.settings import ServingSettings
from fleet.serving.tokens import Secrets


def uvicorn_config(server: Server, secrets: Secrets) -> uvicorn.Config:
    """How uvicorn runs the app."""
    return uvicorn.Config(
        build_app(server, secrets),
        host=server.settings.host,
        port=server.settings.port,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_keep_alive=30,
        # A page that listens never ends by itself.
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=64 << 10,
        server_header=False,
    )


def run(settings: ServingSettings, secrets: Secrets, ready: Callable[[str], None]) -> None:
    """Serve until a signal comes; `ready(url)` is called once models are loaded."""
    server = Server(settings)
    server.start()
    try:
        ready(f"http://{settings.host}:{settings.port}")
        uvicorn.Server(uvicorn_config(server, secrets)).run()
    finally:
        server.stop()


@contextlib.contextmanager
def serving(server: Server, secrets: Secrets | None = None) -> Iterator[str]:
    """Serve from a thread; gives the URL. The port of the settings, or a free one for 0."""
    server.start()
    runner = uvicorn.Server(uvicorn_config(server, secrets or Secrets()))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((server.settings.host, server.settings.port))
    thread = threading.Thread(target=runner.run, args=([listener],), daemon=True)
    thread.start()
    try:
        for _ in range(400):
            if runner.started:
                break
            time.sleep(0.025)
        else:
            raise UnfitEnvironmentError("uvicorn did not start within 10 s")
        host, port = listener.getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        runner.should_exit = True
        thread.join(10)
        server.stop()
        listener.close()
