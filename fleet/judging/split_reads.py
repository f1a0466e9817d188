"""How often the test split was read: in a run from its ledger, on this machine from a register.

The register is a file of JSON lines beside the runs (`test_reads.jsonl`), one line for a mission
of a run, keyed by the data seed and the digest of the test manifest: which items, in which
clusters. The digest knows no scores, so two runs that judge the same items share a key whatever
their arms were. A later line of the same run and mission replaces the earlier one. The file is
never committed and says nothing of other machines.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fleet.errors import StorageError
from fleet.ledger.reader import LedgerReader
from fleet.ledger.records import Decision
from fleet.ledger.split_lock import FREEZE, TEST_READ
from fleet.ledger.sweeps import SWEEP
from fleet.settings import RunPaths
from missions.spec import MissionSpec
from stats.errors import StatsError
from stats.integrity import manifest_digest
from stats.scores import ScoreTable

REGISTER = "test_reads.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReads:
    """Reads of one mission's test split in one run."""

    count: int
    per_arm: dict[str, int]
    frozen_at: float | None
    """When the arms' settings were frozen (seconds since the epoch); None: a sweep never ended."""
    first_at: float | None
    """When the test split was first read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterLine:
    """What the register says of one mission of one run."""

    run_id: str
    mission: str
    data_seed: int
    manifest: str
    reads: int
    arms: dict[str, str]
    """Arm -> hash of its settings."""
    last_at: float

    @property
    def key(self) -> tuple[int, str]:
        """What makes two test splits the same."""
        return self.data_seed, self.manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineCount:
    """How often one test split was read on this machine."""

    reads: int
    runs: int


def reads_in_run(links: Sequence[Decision], mission: str) -> SplitReads:
    """Counts a mission's reads in a verified chain of decisions."""
    own = [link for link in links if link.body.get("mission") == mission]
    reads = [link for link in own if link.kind == TEST_READ]
    per_arm: dict[str, int] = {}
    for link in reads:
        per_arm[link.body["arm"]] = per_arm.get(link.body["arm"], 0) + 1
    return SplitReads(
        count=len(reads),
        per_arm=dict(sorted(per_arm.items())),
        frozen_at=next((link.at for link in own if link.kind == FREEZE), None),
        first_at=reads[0].at if reads else None,
    )


def describe_freeze(links: Sequence[Decision], mission: str) -> str:
    """How the arms were tuned, as far as the chain of decisions shows it."""
    own = [link for link in links if link.body.get("mission") == mission]
    seq = max((link.seq for link in own if link.kind == FREEZE), default=None)
    if seq is None:
        return "the sweep found no settings: no arm was frozen, the test split stayed locked"
    first = next((link.seq for link in own if link.kind == TEST_READ), None)
    order = (
        f"decision {seq} froze them by hash, decision {first} is the first read of test scores"
        if first is not None
        else f"decision {seq} froze them by hash; test scores were never read"
    )
    sweep = next((link for link in reversed(own) if link.kind == SWEEP), None)
    if sweep is None:
        tuned = "no sweep in this launch: the arms' settings are those of the mission file"
    else:
        choices = sweep.body["choices"]
        budget = ", ".join(
            f"{arm} {choice['trials']} settings in {choice['evaluations']} trials"
            for arm, choice in sorted(choices.items())
        )
        tuned = (
            f"swept on dev under seeds {', '.join(map(str, sweep.body['seeds']))} ({budget}), the "
            f"choice is decision {sweep.seq}"
        )
    return f"{tuned}, {order}; other settings are refused by the lock"


def register(paths: RunPaths) -> list[RegisterLine]:
    """Notes what a run has read so far in the register beside it; returns its lines.

    Safe to call again: a line that the register holds already is not written twice.
    """
    lines: list[RegisterLine] = []
    with LedgerReader(paths.ledger) as reader:
        links = reader.decisions()
        for row in reader.missions():
            files = [result.scores_file for result in reader.results(row.mission)]
            counted = reads_in_run(links, row.mission)
            if not counted.count or not files:
                continue  # a split of which no score exists was not seen by anybody
            frozen = next(
                link.body
                for link in links
                if link.kind == FREEZE and link.body["mission"] == row.mission
            )
            spec = MissionSpec.model_validate_json(reader.spec_json(row.mission))
            lines.append(
                RegisterLine(
                    run_id=paths.run_id,
                    mission=row.mission,
                    data_seed=spec.data_seed,
                    manifest=_manifest(paths, files),
                    reads=counted.count,
                    arms=dict(sorted(frozen["arm_hashes"].items())),
                    last_at=max(link.at for link in links if link.kind == TEST_READ),
                )
            )
    _append(paths.root.parent / REGISTER, lines)
    return lines


def count_on_machine(runs_dir: Path, line: RegisterLine) -> MachineCount:
    """Reads of the same test split in all runs that the register knows."""
    newest = {
        (found.run_id, found.mission): found
        for found in read_register(runs_dir / REGISTER)
        if found.key == line.key
    }
    return MachineCount(reads=sum(found.reads for found in newest.values()), runs=len(newest))


def read_register(path: Path) -> list[RegisterLine]:
    """All lines, oldest first; none where there is no register.

    Raises:
        StorageError: names the line that cannot be read.
    """
    if not path.is_file():
        return []
    lines: list[RegisterLine] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(RegisterLine(**json.loads(text)))
        except (ValueError, TypeError) as error:
            raise StorageError(
                f"{path}, line {number}: not a line of the register: {error}"
            ) from None
    return lines


def _append(path: Path, lines: Sequence[RegisterLine]) -> None:
    try:
        with path.open("a+", encoding="utf-8") as stream:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
            stream.seek(0)
            known = set(stream.read().splitlines())
            for line in lines:
                text = json.dumps(asdict(line), sort_keys=True)
                if text not in known:
                    stream.write(f"{text}\n")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from None


def _manifest(paths: RunPaths, files: Sequence[str]) -> str:
    """Digest of all items of which the run has a score."""
    try:
        tables = [ScoreTable.from_parquet(paths.scores / name) for name in files]
    except (OSError, StatsError) as error:
        raise StorageError(f"{paths.scores}: scores cannot be read: {error}") from None
    return manifest_digest(ScoreTable.concat(tables))


def reads_sentence(line: RegisterLine, here: MachineCount) -> str:
    """One mission's reads in words."""
    return (
        f"{line.mission}: {line.reads} in this run; this split (data seed {line.data_seed}, "
        f"manifest {line.manifest[:12]}) was read {here.reads} times in {here.runs} "
        f"{'run' if here.runs == 1 else 'runs'} on this machine"
    )


def as_plain(line: RegisterLine, here: MachineCount) -> dict[str, Any]:
    """For the JSON result."""
    return {
        "reads": line.reads,
        "data_seed": line.data_seed,
        "manifest": line.manifest,
        "reads_on_this_machine": here.reads,
        "runs_on_this_machine": here.runs,
    }
