"""What a server is told: one YAML file, changed by options of the command line.

Secrets never stand here: see `tokens`. Knows no Ray and no model.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleet.errors import ConfigError

LOOPBACK = "127.0.0.1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Strict):
    """The engine of one replica."""

    rows: int = Field(default=32, ge=1, le=1024)
    """Answers in progress."""
    queue: int = Field(default=256, ge=0)
    """Answers that wait for a row; one more is told 429."""
    positions: int = Field(default=2048, ge=16)
    """Tokens of a prompt and its answer; a base with fewer positions decides."""
    prefill_tokens: int = Field(default=4096, ge=16)
    """Prompt tokens read in one step."""
    threads: int = Field(default=1, ge=1)
    """Of torch. A small model is quickest with one."""
    device: str = "cpu"


class LimitSettings(_Strict):
    """What one request, and one client, may ask for."""

    body_bytes: int = Field(default=1 << 20, ge=1024)
    json_depth: int = Field(default=32, ge=4)
    body_s: float = Field(default=10.0, gt=0)
    """How long a client may take to send its request."""
    deadline_s: float = Field(default=120.0, gt=0)
    """From admission to the last token."""
    messages: int = Field(default=128, ge=1)
    max_tokens: int = Field(default=1024, ge=1)
    default_max_tokens: int = Field(default=64, ge=1)
    choices: int = Field(default=64, ge=1, le=64)
    """Answers of one request: prompts times `n`."""
    requests_per_minute: float = Field(default=6000.0, gt=0)
    """Of one token, and of all requests without one; a bucket in each replica."""
    burst: int = Field(default=200, ge=1)


class SessionSettings(_Strict):
    """Stateful streams of memory models."""

    max_sessions: int = Field(default=64, ge=1)
    """The least recently used gives way."""
    idle_s: float = Field(default=3600.0, gt=0)


class LivingSettings(_Strict):
    """Learning from feedback, for models that were exported with `online: true`."""

    enabled: bool = True
    """Off: POST /v1/feedback is refused. A learner costs nothing before the first feedback; then it
    holds a base of its own beside the engine's."""
    queue: int = Field(default=256, ge=1)
    """Feedback of a line that waits for its learner, in all processes; one more is told 429."""
    tokens: int = Field(default=512, ge=8)
    """Of one feedback: prompt and completion."""


class ReplicaSettings(_Strict):
    """Ray Serve. Sessions and rate limits live in a replica."""

    replicas: int = Field(default=1, ge=1)
    """At the start, and the least."""
    max_replicas: int = Field(default=1, ge=1)
    """More than `replicas`: Ray Serve scales by the answers under way."""
    ongoing: int = Field(default=24, ge=1)
    """Answers under way that autoscaling aims at, a replica."""
    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)


class ServingSettings(_Strict):
    """Everything beside tokens."""

    registry: Path = Path("registry")
    runs: Path = Path("runs")
    """Launches that the page at /fleet shows."""
    page_hosts: tuple[str, ...] = ()
    """Further names by which the server is reached: of the page, and of an API without tokens."""
    base: str = "bundled"
    """Base model: `bundled`, a folder or a hub id. Models over another base are not served."""
    host: str = LOOPBACK
    port: int = Field(default=8000, ge=0, le=65535)
    canary_share: float = Field(default=0.1, ge=0, le=1)
    """Of the requests that name a line (`bundled:A`) with a canary."""
    poll_s: float = Field(default=0.5, gt=0)
    """How often the registry is asked whether it changed."""
    engine: EngineSettings = EngineSettings()
    limits: LimitSettings = LimitSettings()
    sessions: SessionSettings = SessionSettings()
    living: LivingSettings = LivingSettings()
    ray: ReplicaSettings = ReplicaSettings()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_settings(path: Path | None, changes: dict[str, Any]) -> ServingSettings:
    """A YAML file, or the defaults, with some fields changed (`engine.rows`: a nested one).

    Raises:
        ConfigError: names file and field.
    """
    data: Any = {}
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: expected fields, got {type(data).__name__}.")
    for name, value in changes.items():
        target = data
        *parents, leaf = name.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                got = "nothing" if target is None else type(target).__name__
                raise ConfigError(f"{path}: field '{parent}': expected fields, got {got}.")
        target[leaf] = value
    try:
        return ServingSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        where = path if path is not None else "serve"
        raise ConfigError(f"{where}: field '{field}': {first['msg']}.") from None
