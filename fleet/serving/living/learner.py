"""The learner of one line: a thread that takes feedback in batches and runs the canary suite.

It holds the line's learner lock, so that of several server processes over one registry one learns;
all of them hand feedback in, through the line's spool. What a canary run says is done to the shadow
and to the registry in one go: a step that the registry cannot take now (another writer, a full
disk) is tried again until it can, and feedback waits. Knows no HTTP and no engine.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from bem.base import BaseModel as FrozenBase
from bem.online import DriftMonitor
from fleet.errors import AliasMovedError, LedgerError, StorageError
from fleet.ledger.database import lock_for_writing
from fleet.serving.living import publishing
from fleet.serving.living.shadow import Shadow
from fleet.serving.living.source import (
    NotLivingError,
    Place,
    Start,
    find_start,
    follow,
    read_aliases,
)
from fleet.serving.living.spool import Batch, Spool
from fleet.serving.metrics import Metrics

LOG = logging.getLogger("fleet.serving")
LOST = (
    "optimizer moments, replay, recent feedback and steps since that model was registered begin "
    "anew; feedback that waited is taken up"
)
RETRY_S = 1.0
LOOK_S = 0.25
"""How often it looks for what other processes handed in."""
T = TypeVar("T")


class Learner:
    """Feedback in, steps of the registry out."""

    def __init__(
        self,
        registry: Path,
        spool: Spool,
        load: Callable[[], FrozenBase],
        metrics: Metrics,
        *,
        queue: int,
        threads: int = 1,
    ) -> None:
        self.line = line = spool.line
        self._spool = spool
        self._registry = registry
        self._load = load
        self._metrics = metrics
        self._most = queue
        self._threads = threads
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"learner {line}", daemon=True)
        self._lock: IO[str] | None = None
        self._drift = DriftMonitor()
        self._shadow: Shadow | None = None
        self._start: Start | None = None
        self._place: Place | None = None
        self._since = self._since_wrong = 0
        self._good_since = 0
        self._points: list[int] = []
        self._version = -1
        self.state = "starting"
        """starting, learning, failed or stopped."""
        self.error = ""
        """Why it failed, or what the registry said last while a step waits for it."""
        self.counts = dict.fromkeys(
            ("learned", "quarantined", "promote", "hold", "rollback", "drift"), 0
        )
        self.last: dict[str, Any] | None = None
        """The last canary run."""

    def start(self) -> None:
        """Begins; the shadow is loaded on the thread.

        Raises:
            LedgerError: another process learns for this line.
            NotLivingError, StorageError: the line has nothing to begin from.
        """
        self._spool.make()
        self._lock = lock_for_writing(self._spool.lock)
        try:
            find_start(self._registry, self.line)
        except BaseException:
            self._lock.close()
            raise
        self._thread.start()

    def stop(self, wait_s: float = 10.0) -> None:
        """Ends after the batch under way; feedback that waits stays for the next learner."""
        self._stopped.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def wake(self) -> None:
        """There is feedback."""
        self._changed.set()

    def status(self) -> dict[str, Any]:
        """For whoever runs the server."""
        place, shadow, start = self._place, self._shadow, self._start
        return {
            "state": self.state,
            "error": self.error,
            "waiting": len(self._spool),
            "counts": dict(self.counts),
            "from": None if start is None else start.manifest.id,
            "champion": None if place is None else place.champion,
            "own_canary": None if place is None else place.own_canary,
            "shadow": None if shadow is None else shadow.state.model_dump(),
            "feedback_since_canary": self._since,
            "drift_points": list(self._points),
            "last_canary": self.last,
        }

    @property
    def has_left(self) -> bool:
        """Whether it has ended and another may have taken its line."""
        return self._lock is not None and self._lock.closed

    # On the thread

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        self._tell()  # in place of what an earlier learner, which may have failed, said last
        try:
            self._begin("a server took it up")
            while not self._stopped.is_set():
                batch = self._next()
                if batch.items:
                    self._take(batch)
                    self._tell()
            self.state = "stopped"
        except NotLivingError as error:  # a champion that does not learn took over
            self.error = str(error)
            self.state = "stopped"
        except Exception as error:
            LOG.exception("the learner of %s has failed", self.line)
            self.error = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.state = "failed"
        finally:
            self._tell()
            if self._lock is not None:
                self._lock.close()

    def _tell(self) -> None:
        """For the other processes, which are asked for the learner's status too."""
        try:
            self._spool.tell(self.status())
        except (StorageError, OSError) as error:
            LOG.warning("the status of the learner of %s cannot be kept: %s", self.line, error)

    def _begin(self, why: str) -> None:
        if self._shadow is not None:
            self._shadow.close()
        start = find_start(self._registry, self.line)
        shadow = Shadow(start.manifest.id, start.folder, self._load)
        self._start, self._shadow, self._place = start, shadow, start.place
        self._since = self._since_wrong = self._good_since = 0
        self._points = []
        self._write(
            lambda: publishing.record_start(
                self._registry,
                start.manifest.id,
                self.line,
                start_score=shadow.state.start_score,
                reason=f"{why}; {LOST}",
            )
        )
        self.state = "learning"
        self._tell()

    def _next(self) -> Batch:
        assert self._shadow is not None
        # A spool smaller than a batch would wait for ever.
        size = min(self._shadow.settings.prompts_per_update, self._most)
        while not self._stopped.is_set():
            self._changed.clear()
            batch = self._write(lambda: self._spool.take(size))
            if batch is not None and batch.items:
                return batch
            self._changed.wait(LOOK_S)
        return Batch()

    def _take(self, batch: Batch) -> None:
        """Learns from a batch, which waits until that is done: whoever dies in between loses what
        it learned too, so the next one begins without it. A model is registered only after, so
        none has learned twice from the same feedback."""
        self._look()
        shadow = self._shadow
        assert shadow is not None
        before = shadow.state.feedback
        try:
            hits = shadow.learn(batch.items)
        except Exception:
            self._spool.failed(batch.names)
            raise
        for at, hit in enumerate(hits, start=before + 1):
            if self._drift.update(not hit):
                self._points.append(at)
                self.counts["drift"] += 1
                self._metrics.drift()
        count = len(batch.items)
        self._since += count
        self._good_since += count
        self._since_wrong += hits.count(False)
        self.counts["learned"] += count
        self._metrics.feedback("learned", count)
        if self._write(lambda: self._spool.done(batch.names)) is None:
            return  # told to stop while the disk refused: the next learner takes them
        if self._since >= shadow.settings.canary.every:
            self._canary(shadow)

    def _look(self) -> None:
        """Begins anew where somebody moved the aliases away from this learner."""
        assert self._place is not None
        version, aliases = read_aliases(self._registry, self.line)
        if version == self._version:
            return
        place = follow(self._place, aliases)
        if place is None:
            self._begin("its champion or canary was moved by somebody else")
        else:
            self._place = place
        self._version = version

    def _canary(self, shadow: Shadow) -> None:
        start, place = self._start, self._place
        assert start is not None
        assert place is not None
        report, action = shadow.run_canary()
        quarantined = self._quarantine() if action == "rollback" else 0
        step = publishing.Step(
            report=report,
            start_score=shadow.state.start_score,
            feedback=self._since,
            wrong=self._since_wrong,
            drift_points=tuple(self._points),
            quarantined=quarantined,
        )
        model: str | None = None
        moved = False
        if action == "promote":
            try:
                done = self._write(
                    lambda: publishing.publish_step(
                        self._registry, start.manifest, place, shadow.save, step
                    )
                )
            except AliasMovedError:
                done, moved = None, True
            if done is not None:
                manifest, alias = done
                shadow.commit()
                model = manifest.id
                self._good_since = 0
                self._start = Start(
                    line=self.line, manifest=manifest, folder=start.folder, place=place
                )
                self._place = Place(
                    champion=place.own_canary or place.champion,
                    own_canary=model if alias == "canary" else None,
                )
        elif action == "rollback":
            shadow.rollback()
            self._good_since = 0
            self._write(
                lambda: publishing.record_rollback(
                    self._registry, start.manifest.id, self.line, place, step
                )
            )
            self._place = Place(champion=place.champion, own_canary=None)
        else:
            self._write(
                lambda: publishing.record_hold(self._registry, start.manifest.id, self.line, step)
            )
        self.counts[action] += 1
        self._metrics.online_canary(action)
        self.last = {"action": action, "model": model, "moved": moved, **step.facts()}
        self._since = self._since_wrong = 0
        self._points = []
        if moved:
            self._begin("its champion or canary was moved by somebody else")

    def _quarantine(self) -> int:
        """Feedback since the last good state, learned from or still waiting, counts no more."""
        count = self._good_since + (self._write(self._spool.clear) or 0)
        self.counts["quarantined"] += count
        self._metrics.feedback("quarantined", count)
        return count

    def _write(self, step: Callable[[], T]) -> T | None:
        """Does a step on disk, again and again until it is done or the learner stops."""
        while True:
            try:
                done = step()
            except AliasMovedError:
                raise
            except (LedgerError, StorageError, OSError) as error:
                text = " ".join(str(error).split())[:300]
                if text != self.error:
                    LOG.warning("learner of %s waits for the registry: %s", self.line, text)
                self.error = text
                if self._stopped.wait(RETRY_S):
                    return None
                continue
            self.error = ""
            return done
