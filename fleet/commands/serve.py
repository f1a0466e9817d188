"""`serve`: promoted models behind an OpenAI-compatible API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.commands.options import DEFAULT_REGISTRY, DEFAULT_RUNS_DIR, RegistryDir, RunsDir


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of settings (docs/serving.md).")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="127.0.0.1 where nothing is said.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="8000.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", min=1, help="1.")] = None,
    canary: Annotated[
        float | None, typer.Option("--canary", min=0, max=1, help="The canary's share: 0.1.")
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="File with a bearer token a line, mode 0600."),
    ] = None,
    admin_token: Annotated[
        Path | None, typer.Option("--admin-token", help="File with the admin's token, mode 0600.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="`bundled`, a folder or a hub id.")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", help="An existing Ray cluster instead of this machine.")
    ] = "",
    one_process: Annotated[
        bool, typer.Option("--one-process", help="Without Ray: one replica under uvicorn.")
    ] = False,
    folder: RegistryDir = DEFAULT_REGISTRY,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Serve what the registry's aliases point at; promotions and rollbacks take effect live."""
    from fleet.errors import UnfitEnvironmentError, UsageError
    from fleet.serving.settings import read_settings
    from fleet.serving.tokens import read_secrets

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "ray.replicas": replicas,
        "canary_share": canary,
        "base": base,
        "registry": folder if config is None or folder != DEFAULT_REGISTRY else None,
        "runs": runs_dir if config is None or runs_dir != DEFAULT_RUNS_DIR else None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if replicas is not None:
        changes["ray.max_replicas"] = replicas
    settings = read_settings(config, changes)
    secrets = read_secrets(tokens, admin_token)
    if not settings.loopback and not secrets.required:
        raise UsageError(
            f"Host {settings.host} can be reached from elsewhere and there is no token: give "
            "--tokens FILE, or stay on 127.0.0.1."
        )
    if settings.loopback and _taken(settings.host, settings.port):
        raise UnfitEnvironmentError(
            f"Port {settings.port} on {settings.host} is taken: give another --port."
        )

    def ready(url: str) -> None:
        guarded = "tokens needed" if secrets.required else "no token needed"
        sys.stderr.write(f"serving at {url} ({guarded}); Ctrl-C ends it\n")
        sys.stderr.write(f"  try: curl {url}/v1/models\n")
        if secrets.page:
            needs = "  (once with ?token=ADMIN_TOKEN)" if secrets.admin is not None else ""
            sys.stderr.write(f"  page: {url}/fleet/{needs}\n")
        else:
            sys.stderr.write("  no page at /fleet: it needs --admin-token where clients need one\n")
        sys.stderr.flush()

    if one_process:
        from fleet.serving import local

        local.run(settings, secrets, ready)
        return 0
    from fleet.serving import deployment

    deployment.run(settings, secrets, address=address or None, ready=ready)
    return 0


def _taken(host: str, port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
