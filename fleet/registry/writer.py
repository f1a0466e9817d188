"""The registry's one writer. Every public method is one transaction: decision, row, alias.

A model's folder is put in place before its transaction begins and is of no effect without it: a
crash between the two leaves a folder that nothing points to, which `registry verify` names and the
next promotion of the same content takes up. Knows no mission and no verdict: `promotion` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Literal

from fleet.errors import (
    AliasMovedError,
    KeyConflictError,
    LedgerError,
    NotFoundError,
    StorageError,
    UsageError,
)
from fleet.ledger import chain
from fleet.ledger.database import lock_for_writing, open_writer, transaction
from fleet.registry.folders import RegistryPaths, problems_of, publish, read_manifest
from fleet.registry.records import MANIFEST, Alias, Manifest, ModelRow
from fleet.registry.schema import REGISTRY

Target = Literal["auto", "champion", "canary", "none"]
"""`auto`: champion where the line has none, else canary: live traffic moves by a decision only."""
TARGETS: tuple[Target, ...] = ("auto", "champion", "canary", "none")


class Registry(AbstractContextManager["Registry"]):
    """Opens or creates a registry and holds its writer's lock until `close`."""

    def __init__(
        self, root: Path, *, wait_s: float = 10.0, clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            wait_s: how long another writer may take: launches that end together queue here.

        Raises:
            LedgerError: it took longer.
        """
        self.paths = RegistryPaths(root=root)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{root}: cannot be made: {error}") from None
        self._clock = clock
        self._lock = _patient_lock(self.paths.database, wait_s)
        try:
            self._cx = open_writer(self.paths.database, REGISTRY)
        except BaseException:
            self._lock.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all writing and gives the lock back."""
        self._cx.close()
        self._lock.close()

    def register(
        self, staged: Path, manifest: Manifest, *, target: Target = "auto", actor: str
    ) -> tuple[str, Alias | None]:
        """Registers a staged model and points an alias at it; returns the id and the alias.

        The same content registered again keeps its first row; the decision and the alias are new.

        Args:
            staged: a folder of `folders.staged` whose model/ is complete.
            actor: who promotes, for the decision: a command line, or a launch.
        """
        kept, manifest_sha256 = self._publish(staged, manifest)
        now = self._clock()
        with transaction(self._cx):
            again = self._known(kept)
            alias = self._alias_for(kept.line, kept.id, target)
            self._decide(
                "promotion",
                {
                    "model": kept.id,
                    "digest": kept.digest,
                    "manifest_sha256": manifest_sha256,
                    "run_id": manifest.lineage.run_id,
                    "verdict": manifest.lineage.verdict,
                    "verdict_link": manifest.lineage.verdict_link,
                    "forced": manifest.lineage.forced,
                    "alias": alias,
                    "again": again,
                    "actor": actor,
                },
            )
            if not again:
                self._insert(kept, manifest_sha256, now)
            if alias is not None:
                self._point(kept.line, alias, kept.id)
        return kept.id, alias

    def register_online(
        self,
        staged: Path,
        manifest: Manifest,
        *,
        champion: str,
        own_canary: str | None,
        facts: dict[str, Any],
        actor: str,
    ) -> tuple[str, Alias | None]:
        """Registers the model of an online learner whose canary run passed.

        The canary that the learner put before has lasted until this further passed run: it becomes
        champion, and the new model canary. A canary that is not the learner's stays where it is,
        and the new model gets no alias.

        Args:
            champion: the line's champion as the learner knows it.
            own_canary: the learner's earlier canary, where it has one.
            facts: figures of the step, for the decision.

        Raises:
            AliasMovedError: somebody moved champion or canary since; nothing was changed.
        """
        kept, manifest_sha256 = self._publish(staged, manifest)
        now = self._clock()
        with transaction(self._cx):
            self._require_unmoved(kept.line, champion, own_canary)
            again = self._known(kept)
            if own_canary is not None:
                self._require_whole(self._model(own_canary))
                champion = own_canary
            free = self._alias(kept.line, "canary") in (None, own_canary)
            alias: Alias | None = "canary" if free and kept.id != champion else None
            self._decide(
                "online_update",
                {
                    **facts,
                    "model": kept.id,
                    "digest": kept.digest,
                    "manifest_sha256": manifest_sha256,
                    "parent": manifest.lineage.parents[0],
                    "verdict": manifest.lineage.verdict,
                    "forced": manifest.lineage.forced,
                    "alias": alias,
                    "promoted": own_canary,
                    "again": again,
                    "actor": actor,
                },
            )
            if not again:
                self._insert(kept, manifest_sha256, now)
            if own_canary is not None:
                self._point(kept.line, "champion", own_canary)
            if alias is not None:
                self._point(kept.line, alias, kept.id)
        return kept.id, alias

    def rollback_online(
        self, line: str, own_canary: str | None, *, facts: dict[str, Any], actor: str
    ) -> bool:
        """An online learner went back to its last good state; its canary leaves the traffic.

        Returns whether it did: a canary that is not the learner's (any more) stays.
        """
        with transaction(self._cx):
            dropped = own_canary is not None and self._alias(line, "canary") == own_canary
            canary = own_canary if dropped else None
            self._decide(
                "online_rollback", {**facts, "line": line, "canary": canary, "actor": actor}
            )
            if dropped:
                self._forget(line, "canary")
        return dropped

    def note_online(
        self, kind: Literal["online_start", "online_hold"], *, facts: dict[str, Any], actor: str
    ) -> None:
        """A step of an online learner that changes nothing here, for the record."""
        with transaction(self._cx):
            self._decide(kind, {**facts, "actor": actor})

    def set_alias(self, model: ModelRow, alias: Alias, *, actor: str) -> None:
        """Makes a registered model its line's champion or canary.

        Raises:
            StorageError: the model does not verify: it is not served.
            UsageError: `previous` follows from the champions and is not set by hand.
        """
        if alias == "previous":
            raise UsageError("Alias previous is the champion before; expected champion or canary.")
        self._require_whole(model)
        with transaction(self._cx):
            self._decide("alias", {"model": model.id, "alias": alias, "actor": actor})
            self._point(model.line, alias, model.id)

    def drop_canary(self, line: str, *, reason: str, actor: str) -> str:
        """Takes the canary of a line out of traffic; returns its id."""
        with transaction(self._cx):
            model = self._need(line, "canary")
            self._decide(
                "rollback", {"line": line, "canary": model, "reason": reason, "actor": actor}
            )
            self._forget(line, "canary")
        return model

    def rollback(self, line: str, *, reason: str, actor: str) -> tuple[str, str]:
        """The previous champion becomes champion again; returns (withdrawn, restored).

        The withdrawn model stays registered; its reign is marked, so a second rollback goes one
        champion further back instead of returning to it.

        Raises:
            NotFoundError: the line has no champion, or none before it.
            StorageError: the model to restore does not verify.
        """
        restored = self._model(self._need(line, "previous"))
        self._require_whole(restored)
        now = self._clock()
        with transaction(self._cx):
            withdrawn = self._need(line, "champion")
            self._decide(
                "rollback",
                {
                    "line": line,
                    "withdrawn": withdrawn,
                    "restored": restored.id,
                    "reason": reason,
                    "actor": actor,
                },
            )
            self._cx.execute(
                "UPDATE reigns SET ended_at = coalesce(ended_at, ?), withdrawn = 1"
                " WHERE line = ? AND model = ?",
                (now, line, withdrawn),
            )
            self._cx.execute(
                "UPDATE reigns SET ended_at = NULL WHERE id ="
                " (SELECT max(id) FROM reigns WHERE line = ? AND model = ?)",
                (line, restored.id),
            )
            self._set(line, "champion", restored.id)
            self._set_previous(line, restored.id)
            if self._alias(line, "canary") in (withdrawn, restored.id):
                self._forget(line, "canary")
        return withdrawn, restored.id

    def _publish(self, staged: Path, manifest: Manifest) -> tuple[Manifest, str]:
        """The staged model in its place, verified there; with the sha256 of its manifest."""
        manifest_sha256 = publish(staged, manifest, self.paths)
        folder = self.paths.model(manifest.digest)
        problems = problems_of(folder)
        if problems:
            raise StorageError(f"{problems[0]} It was not registered.", log=str(folder))
        return read_manifest(folder), manifest_sha256

    # Inside a transaction

    def _known(self, kept: Manifest) -> bool:
        row = self._cx.execute("SELECT digest FROM models WHERE id = ?", (kept.id,)).fetchone()
        if row is not None and row[0] != kept.digest:
            raise KeyConflictError(f"{kept.id} is another model's id: {row[0][:16]}.")
        return row is not None

    def _require_unmoved(self, line: str, champion: str, own_canary: str | None) -> None:
        now = self._alias(line, "champion"), self._alias(line, "canary")
        if now[0] != champion or own_canary not in (None, now[1]):
            raise AliasMovedError(
                f"{line}: champion is {now[0]} and canary {now[1]}; the learner knew {champion} "
                f"and {own_canary}. Nothing was changed."
            )

    def _alias_for(self, line: str, model: str, target: Target) -> Alias | None:
        if target == "none":
            return None
        if target != "auto":
            return target
        champion = self._alias(line, "champion")
        return "champion" if champion in (None, model) else "canary"

    def _insert(self, manifest: Manifest, manifest_sha256: str, now: float) -> None:
        base = manifest.base_model
        self._cx.execute(
            "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                manifest.id,
                manifest.line,
                manifest.digest,
                manifest.kind,
                manifest.mission,
                manifest.arm,
                None if base is None else base.ref,
                None if base is None else base.digest,
                manifest.lineage.run_id,
                manifest.lineage.verdict,
                manifest.lineage.forced,
                manifest_sha256,
                sum(facts.size_bytes for facts in manifest.files.values()),
                now,
            ),
        )

    def _point(self, line: str, alias: Alias, model: str) -> None:
        if alias == "canary":
            if self._alias(line, "champion") == model:
                raise UsageError(f"{model} is champion of {line}; its canary must be another one.")
            self._set(line, "canary", model)
            return
        if self._alias(line, "champion") == model:
            return
        now = self._clock()
        self._cx.execute(
            "UPDATE reigns SET ended_at = ? WHERE line = ? AND ended_at IS NULL", (now, line)
        )
        self._cx.execute(
            "INSERT INTO reigns (line, model, began_at) VALUES (?, ?, ?)", (line, model, now)
        )
        self._set(line, "champion", model)
        self._set_previous(line, model)
        if self._alias(line, "canary") == model:
            self._forget(line, "canary")

    def _set_previous(self, line: str, champion: str) -> None:
        """The newest champion before this one's last reign that was not withdrawn."""
        row = self._cx.execute(
            "SELECT model FROM reigns WHERE line = ?1 AND withdrawn = 0 AND model != ?2 AND id <"
            " (SELECT max(id) FROM reigns WHERE line = ?1 AND model = ?2) ORDER BY id DESC LIMIT 1",
            (line, champion),
        ).fetchone()
        if row is None:
            self._forget(line, "previous")
        else:
            self._set(line, "previous", row[0])

    def _set(self, line: str, alias: Alias, model: str) -> None:
        self._cx.execute(
            "INSERT INTO aliases VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT (line, alias) DO UPDATE SET model = ?3, since = ?4",
            (line, alias, model, self._clock()),
        )

    def _forget(self, line: str, alias: Alias) -> None:
        self._cx.execute("DELETE FROM aliases WHERE line = ? AND alias = ?", (line, alias))

    def _alias(self, line: str, alias: Alias) -> str | None:
        row = self._cx.execute(
            "SELECT model FROM aliases WHERE line = ? AND alias = ?", (line, alias)
        ).fetchone()
        return None if row is None else str(row[0])

    def _need(self, line: str, alias: Alias) -> str:
        model = self._alias(line, alias)
        if model is None:
            raise NotFoundError(
                f"{line} has no {alias} model.", go_on="python fleet.py registry list"
            )
        return model

    def _model(self, model: str) -> ModelRow:
        columns = ", ".join(ModelRow.__slots__)
        row = self._cx.execute(f"SELECT {columns} FROM models WHERE id = ?", (model,)).fetchone()
        return ModelRow(**dict(zip(ModelRow.__slots__, row, strict=True)))

    def _decide(self, kind: str, body: dict[str, Any]) -> None:
        chain.append(self._cx, self._clock(), kind, body)

    def _require_whole(self, model: ModelRow) -> None:
        folder = self.paths.model(model.digest)
        problems = problems_of(folder, manifest_sha256=model.manifest_sha256)
        if problems:
            raise StorageError(
                f"{model.id} does not verify: {problems[0]}",
                log=str(folder / MANIFEST),
                go_on="python fleet.py registry verify",
            )


def _patient_lock(path: Path, wait_s: float) -> IO[str]:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return lock_for_writing(path)
        except LedgerError:
            if time.monotonic() >= deadline:
                raise
