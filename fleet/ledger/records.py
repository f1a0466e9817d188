"""What goes in and out of the ledger, as plain records that pickle. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.states import RunState


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A pack that an attempt holds."""

    pack: str
    seed: int
    runs: tuple[tuple[str, str], ...]
    """(run, arm) of every run of the pack that is not cancelled; they train together."""
    missing: tuple[str, ...]
    """Runs whose result is not in the ledger yet."""
    tries: int
    keys: Mapping[str, str] = field(default_factory=dict)
    """The key of every run; training checkpoints are bound to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One scalar of one run."""

    run: str
    step: int
    name: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a finished run hands over."""

    run: str
    scores_parquet: bytes
    scores_digest: str
    """Digest of the table's content, not of the file."""
    scores_rows: int
    artifact: str
    cost_json: str
    figures_json: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitTicket:
    """A request to score one run on the test split."""

    ticket: str
    """Made up by who asks, so that a request delivered twice counts once."""
    run: str
    arm_hash: str
    """Hash of the settings that are about to be scored."""
    attempt: str
    host: str
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """A run as a reader sees it."""

    run: str
    mission: str
    pack: str
    arm: str
    seed: int
    state: RunState
    reason: str
    traceback: str | None
    key: str | None
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PackRow:
    """A pack as a reader sees it."""

    pack: str
    mission: str
    seed: int
    owner: str | None
    tries: int
    leased_at: float | None
    ended_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionRow:
    """A mission as a reader sees it."""

    mission: str
    position: int
    title: str
    phase: str
    expected_cpu_s: float
    spec_hash: str
    data_digest: str | None
    error: str | None
    traceback: str | None
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """A worker process that reported for work."""

    attempt: str
    mission: str
    job: str
    """Its worker group."""
    rank: int
    host: str
    """Name of the node on which it runs."""
    started_at: float
    ended_at: float | None
    outcome: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """A registered result."""

    key: str
    run: str
    mission: str
    arm: str
    seed: int
    scores_file: str
    scores_digest: str
    artifact: str
    cost_json: str
    figures_json: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A link of the chain of decisions."""

    seq: int
    at: float
    kind: str
    body: dict[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRow:
    """One driver that worked on the run: the launch, or a resume."""

    session: str
    """Token that every process of it carries in its environment."""
    pid: int
    process_started: float
    host: str
    command: str
    code_version: str
    started_at: float
    seen_at: float
    ended_at: float | None
    how: str | None
    """How it ended, in words; None while it runs, or where it was killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LostAttempt:
    """A worker that was silent for too long and has lost its lease."""

    attempt: str
    host: str
    pid: int
    process_started: float | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something worth telling."""

    at: float
    level: str
    source: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Where time went."""

    mission: str
    stage: str
    name: str
    wall_s: float
    cpu_s: float
