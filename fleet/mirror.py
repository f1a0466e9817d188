"""A consistent copy of a launch's ledger and scores on a storage, and the way back, artifacts too.

A copy is taken with SQLite's backup API while the writer works. Scores go first, then the ledger
under the name of its own hash, then `latest.json` that points to it: whatever is cut short, the
newest pointer leads to a whole copy. Reads the ledger's file; starts and decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import (
    DamagedError,
    FleetError,
    LedgerError,
    NotFoundError,
    StorageError,
    UsageError,
)
from fleet.ledger.database import open_reader
from fleet.ledger.reader import LedgerReader
from fleet.settings import RunPaths, check_run_id
from fleet.storage import Storage

LATEST = "latest.json"
MIRROR_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """What one copy cost."""

    ledger: str
    """Name of the copy."""
    scores: int
    """Score files that were not there yet."""
    wall_s: float


def mirror(paths: RunPaths, storage: Storage, *, known: set[str] | None = None) -> Copied:
    """Copies the ledger as it stands and every score that it names.

    Args:
        known: names of scores that are there already; grows. None asks the storage.
    """
    started = time.monotonic()
    there = set(storage.names("scores")) if known is None else known
    with tempfile.TemporaryDirectory(prefix="bem-mirror-") as folder:
        copy = Path(folder) / "ledger.sqlite"
        _snapshot(paths.ledger, copy)
        with closing(sqlite3.connect(copy)) as cx:
            named = [row[0] for row in cx.execute("SELECT DISTINCT scores_file FROM results")]
        missing = [name for name in named if name not in there]
        for name in missing:
            storage.put(f"scores/{name}", paths.scores / name)
            there.add(name)
        if paths.order.is_file():
            storage.put(paths.order.name, paths.order)
        digest = hashlib.sha256(copy.read_bytes()).hexdigest()
        name = f"ledger-{digest[:16]}.sqlite"
        previous = _latest(storage)
        if previous.get("ledger") != name:
            storage.put(name, copy)
            pointer = Path(folder) / LATEST
            facts = {"ledger": name, "sha256": digest, "size": copy.stat().st_size}
            pointer.write_text(json.dumps(facts | {"at": time.time()}) + "\n", encoding="utf-8")
            storage.put(LATEST, pointer)
            if previous:
                storage.remove(str(previous["ledger"]))
    return Copied(ledger=name, scores=len(missing), wall_s=time.monotonic() - started)


@dataclass(frozen=True, kw_only=True, slots=True)
class BroughtBack:
    """A run that was brought to this machine, and what of it cannot be promoted."""

    lacking: tuple[str, ...]
    """Finished runs whose artifacts are nowhere."""
    damaged: tuple[str, ...]
    """Why artifacts were not taken: they are not what was copied."""


def restore(storage: Storage, paths: RunPaths) -> BroughtBack:
    """Brings the newest copy back to an empty folder, every hash checked, and the artifacts.

    Raises:
        NotFoundError: the storage has no copy of this run.
        StorageError: a ledger is here already, or the copy does not verify.
    """
    if paths.ledger.exists():
        raise StorageError(f"{paths.ledger} exists; a copy is only brought back where none is.")
    with tempfile.TemporaryDirectory(prefix="bem-restore-") as folder:
        pointer = Path(folder) / LATEST
        storage.get(LATEST, pointer)
        facts = json.loads(pointer.read_text(encoding="utf-8"))
    beside = paths.root / "ledger.restored"
    storage.get(facts["ledger"], beside)
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    if digest != facts["sha256"]:
        beside.unlink()
        raise StorageError(
            f"{storage.uri}: {facts['ledger']} has sha256 {digest[:12]}, "
            f"{LATEST} says {facts['sha256'][:12]}; nothing was brought back."
        )
    with closing(open_reader(beside)) as cx:
        sound = cx.execute("PRAGMA integrity_check").fetchone()[0]
        if sound != "ok":
            raise LedgerError(f"{storage.uri}: the copied ledger is damaged: {sound}.")
        named = [row[0] for row in cx.execute("SELECT DISTINCT scores_file FROM results")]
        artifacts = cx.execute(
            "SELECT runs.mission, run, artifact FROM results JOIN runs USING (run) ORDER BY run"
        ).fetchall()
    for name in named:
        target = paths.scores / name
        if not target.is_file():
            storage.get(f"scores/{name}", target)
        if hashlib.sha256(target.read_bytes()).hexdigest() != Path(name).stem:
            raise StorageError(f"{storage.uri}: scores/{name} does not have the hash in its name.")
    if paths.order.name in set(storage.names()):
        storage.get(paths.order.name, paths.order)
    brought = _bring(storage, paths, artifacts)
    beside.replace(paths.ledger)
    return brought


def bring_artifacts(
    storage: Storage, paths: RunPaths, missions: Collection[str]
) -> tuple[str, ...]:
    """Brings the artifacts of these missions' runs here that workers made on other machines.

    Returns:
        What was not taken because it is damaged, one line each.
    """
    with LedgerReader(paths.ledger) as reader:
        rows = reader.results()
    wanted = [(row.mission, row.run, row.artifact) for row in rows if row.mission in missions]
    return _bring(storage, paths, wanted).damaged


def _bring(
    storage: Storage, paths: RunPaths, artifacts: Sequence[tuple[str, str, str]]
) -> BroughtBack:
    """Artifacts by (mission, run, recorded folder). One that is damaged keeps no other back."""
    lacking: list[str] = []
    damaged: list[str] = []
    for mission, run, recorded in artifacts:
        try:
            if not _artifact_here(storage, paths, mission, run, recorded):
                lacking.append(run)
        except DamagedError as error:
            damaged.append(str(error))
    return BroughtBack(lacking=tuple(lacking), damaged=tuple(damaged))


def _artifact_here(
    storage: Storage, paths: RunPaths, mission: str, run: str, recorded: str
) -> bool:
    """Whether a run's artifact is here now; it appears as a whole or not at all.

    Raises:
        DamagedError: what is there is not what was copied.
    """
    target = paths.artifact(mission, run)
    if Path(recorded).is_dir() or target.is_dir():
        return True
    beside = target.with_name(f".{run}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        if not storage.get_folder(f"artifacts/{run}", beside):
            return False
    except DamagedError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    beside.replace(target)
    return True


def bring_back(uri: str, runs_dir: Path, run_id: str | None) -> BroughtBack | None:
    """Brings a run back from its storage; None where this machine has it.

    Raises:
        UsageError: no run id: the storage may hold many.
    """
    if run_id is None:
        raise UsageError("--storage needs the run's id: the storage may hold many.")
    paths = RunPaths(root=(runs_dir / check_run_id(run_id)).absolute())
    if paths.ledger.is_file():
        return None
    return restore(Storage.at(uri, paths.run_id), paths)


class Mirroring:
    """Copies in a thread of its own for as long as a launch runs, and once more at its end."""

    def __init__(
        self,
        paths: RunPaths,
        storage: Storage,
        *,
        tell: Callable[[str], None],
        every_s: float = MIRROR_EVERY_S,
    ) -> None:
        """`tell` is given one line for each copy that failed."""
        self._paths = paths
        self._storage = storage
        self._tell = tell
        self._every_s = every_s
        self._known: set[str] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Begins; the first copy is taken at once, so that a bad storage is known early."""
        self._known = set(self._storage.names("scores"))
        mirror(self._paths, self._storage, known=self._known)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and takes the last copy.

        Raises:
            StorageError: the last copy failed: what is on the storage is older than the ledger.
        """
        self._over.set()
        self._thread.join()
        mirror(self._paths, self._storage, known=self._known)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                mirror(self._paths, self._storage, known=self._known)
            except (FleetError, OSError, sqlite3.Error) as error:
                self._tell(f"the ledger was not copied: {error}")


@contextmanager
def mirrored(paths: RunPaths, uri: str, *, tell: Callable[[str], None]) -> Iterator[None]:
    """Copies while the body runs, and once more at its end; without a URI, nothing.

    Raises:
        StorageError: the first or the last copy failed. An error of the body comes first.
    """
    if not uri:
        yield
        return
    mirroring = Mirroring(paths, Storage.at(uri, paths.run_id), tell=tell)
    mirroring.start()
    try:
        yield
    except BaseException:
        try:
            mirroring.stop()
        except FleetError as error:
            tell(f"the ledger was not copied: {error}")
        raise
    mirroring.stop()


def _snapshot(ledger: Path, copy: Path) -> None:
    with closing(open_reader(ledger)) as source, closing(sqlite3.connect(copy)) as target:
        try:
            source.backup(target)
            # The copy is one file: no write-ahead log that would have to come along.
            target.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as error:
            raise StorageError(f"{ledger}: no copy could be taken: {error}") from None


def _latest(storage: Storage) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="bem-mirror-") as folder:
        pointer = Path(folder) / LATEST
        try:
            storage.get(LATEST, pointer)
        except NotFoundError:
            return {}
        found: dict[str, object] = json.loads(pointer.read_text(encoding="utf-8"))
    return found
