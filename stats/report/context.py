"""What the report needs beside verdicts and scores. Data only; the runner fills it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["yes", "part", "no", "open"]
"""yes: done; part: done in part; no: it did not hold; open: not done or not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What the runner knows about one line of the checklist."""

    answer: str
    """In words, with the figures of this run."""
    where: str = ""
    """Where it is proven: a file, a link of the ledger's chain, a digest."""
    status: Status = "yes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """A table, a line plot, a picture or a paragraph that a mission lends to the report."""

    title: str
    caption: str = ""
    text: str = ""
    """Plain paragraphs, separated by empty lines."""
    columns: tuple[str, ...] = ()
    rows: Sequence[Sequence[str | float | int]] = ()
    png: Path | None = None
    """Picture to inline."""
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    """Label -> (xs, ys) of a line plot."""
    x_label: str = ""
    y_label: str = ""
    log2_x: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A run that failed, whether or not it was run again."""

    mission: str
    arm: str
    seed: int | None
    error: str
    """One line."""
    resolved: bool
    """True where a later attempt of the same run succeeded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionInfo:
    """Words and hashes of one mission."""

    title: str
    claim: str = ""
    """The original document's claim, shown as a claim."""
    spec_digest: str = ""
    """Hash of the resolved mission file, taken before any data existed."""
    data_digest: str = ""
    tuning: str = ""
    """How control and treatment were tuned, and on which split."""
    test_reads: int | None = None
    """How often the scores of the test split were read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContext:
    """Where, when and how the run was made."""

    run_id: str
    profile: str
    command: str
    """The command line that makes this report again."""
    commit: str
    dirty: bool | None
    """True where the working tree held changes; None where it is not known."""
    wall_time_s: float
    created: str = ""
    """Date and time of the run, as text."""
    hardware: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    missions: Mapping[str, MissionInfo] = field(default_factory=dict)
    extras: Mapping[str, Sequence[Extra]] = field(default_factory=dict)
    """Mission -> what it lends."""
    failures: Sequence[Failure] = ()
    notes: Sequence[str] = ()
    """Lines that belong above everything else, such as `simulated data`."""
    checklist: Mapping[str, Fact | str] = field(default_factory=dict)
    """Answers to checklist lines that only the runner knows (keys in stats.report.checklist); a
    text alone is an answer that holds."""
    calibration: Fact | None = None
    """What identical arms gave in the same pipeline, shown as a badge; None: not measured."""
