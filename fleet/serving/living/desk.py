"""Where feedback is handed in: which line it belongs to, and that line's one learner.

Learners begin with the first feedback of their line, so a server that nobody teaches pays nothing.
Of several processes over one registry (replicas of Ray Serve) one learns for a line; the others put
feedback where it looks, and where that one has ended, the next that is given feedback takes over.
A learner that failed is forgotten once another process has its line.
Knows no HTTP.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from bem.base import BaseModel as FrozenBase
from bem.base import load_base
from bem.data import Encoded, Example, encode
from bem.errors import InvalidInputError
from fleet.errors import FleetError, LedgerError, StorageError
from fleet.ledger.database import has_writer
from fleet.registry.forms import base_path
from fleet.serving.errors import BadRequestError, BusyError, UnknownModelError, UnreadyError
from fleet.serving.living.learner import Learner
from fleet.serving.living.source import NotLivingError, is_living
from fleet.serving.living.spool import Spool, told
from fleet.serving.metrics import Metrics
from fleet.serving.settings import ServingSettings
from fleet.serving.shelf import Shelf
from fleet.serving.traffic import BASE

LOG = logging.getLogger("fleet.serving")


class Desk:
    """Learners by line."""

    def __init__(
        self, settings: ServingSettings, shelf: Shelf, base: FrozenBase, metrics: Metrics
    ) -> None:
        """
        Args:
            base: the served one; its tokenizer alone is used here.
        """
        self._settings = settings
        self._shelf = shelf
        self._base = base
        self._metrics = metrics
        self._lock = threading.Lock()
        """Of the learners' table; held for moments."""
        self._starting = threading.Lock()
        """Of beginning one, which verifies a model; held for seconds."""
        self._learners: dict[str, Learner] = {}

    def offer(self, model: str, prompt: str, completion: str, request_id: str) -> dict[str, Any]:
        """Queues one feedback.

        Raises:
            ApiError: unknown model, one that does not learn, text too long, a full queue.
        """
        line = self._line(model)
        item = self._encode(prompt, completion, request_id)
        learner = self._learner(line)
        if learner is not None and learner.state == "failed":
            raise UnreadyError(
                f"The learner of {line} has failed; the server's log says why.",
                code="learner_failed",
            )
        try:
            waiting = self._spool(line).put(item)
        except (StorageError, OSError) as error:
            LOG.warning("feedback cannot be kept: %s", error)
            raise UnreadyError("Feedback cannot be kept now.", retry_after_s=10.0) from error
        if learner is not None:
            learner.wake()
        if waiting is None:
            self._metrics.feedback("refused")
            raise BusyError(
                f"{self._settings.living.queue} feedback wait for the learner of {line}.",
                code="feedback_queue_full",
                retry_after_s=2.0,
            )
        self._metrics.feedback("accepted")
        return {"object": "feedback", "id": request_id, "line": line, "waiting": waiting}

    def status(self) -> dict[str, Any]:
        """For whoever runs the server."""
        with self._lock:
            learners = dict(self._learners)
        elsewhere = {
            line: {**status, "state": status["state"] if self._taken(line) else "ended"}
            for line, status in told(self._settings.registry).items()
        }
        here = {
            line: learner.status()
            for line, learner in learners.items()
            if not (line in elsewhere and self._is_elsewhere(line, learner))
        }
        return {
            "enabled": self._settings.living.enabled,
            "learners": {
                line: {"here": line in here, **(here.get(line) or elsewhere[line])}
                for line in sorted(elsewhere.keys() | here.keys())
            },
        }

    def stop(self) -> None:
        """Ends all learners."""
        with self._lock:
            learners = list(self._learners.values())
        for learner in learners:
            learner.stop()

    def _line(self, name: str) -> str:
        if not self._settings.living.enabled:
            raise BadRequestError("Feedback is turned off on this server.", code="feedback_off")
        view = self._shelf.view
        if view.version < 0:
            raise UnreadyError("The server is not ready.", retry_after_s=2.0)
        if name == BASE:
            raise BadRequestError("The base does not learn.", param="model", code="not_online")
        resolved = view.table.resolve(name, "")
        if resolved is None:
            raise UnknownModelError(
                f"No model {name!r} is served.", param="model", code="model_not_found"
            )
        if not is_living(view.models[resolved.model].manifest):
            raise BadRequestError(
                f"{resolved.model} does not learn: it was not exported with online: true "
                "(mission B's controller_only and all_params are).",
                param="model",
                code="not_online",
            )
        return resolved.line

    def _encode(self, prompt: str, completion: str, request_id: str) -> Encoded:
        example = Example(prompt=prompt, target=completion, id=request_id, cluster="feedback")
        try:
            (row,) = encode([example], self._base.tokenizer, max_len=self._settings.living.tokens)
        except InvalidInputError as error:
            raise BadRequestError(str(error), param="prompt", code="bad_feedback") from error
        return row

    def _spool(self, line: str) -> Spool:
        settings = self._settings
        return Spool(settings.registry, line, base=self._base.digest, most=settings.living.queue)

    def _taken(self, line: str) -> bool:
        """Whether some process learns for this line now."""
        return has_writer(self._spool(line).lock)

    def _is_elsewhere(self, line: str, learner: Learner) -> bool:
        """Whether this process's learner has ended and another process learns for its line."""
        return learner.has_left and self._taken(line)

    def _learner(self, line: str) -> Learner | None:
        """This process's learner, begun where nobody learns; None: another process has it."""
        settings = self._settings
        known = self._running(line)
        if known is not None:
            return known
        with self._starting:
            known = self._running(line)
            if known is not None:
                return known
            try:
                if self._taken(line):
                    return None
                learner = Learner(
                    settings.registry,
                    self._spool(line),
                    lambda: load_base(base_path(settings.base), device=settings.engine.device),
                    self._metrics,
                    queue=settings.living.queue,
                    threads=settings.engine.threads,
                )
                learner.start()
            except NotLivingError as error:
                raise BadRequestError(str(error), param="model", code="not_online") from error
            except (FleetError, OSError) as error:
                if isinstance(error, LedgerError) and self._taken(line):
                    return None  # another process was quicker
                # The reason names files of the server: that is for its log.
                LOG.warning("no learner of %s: %s", line, error)
                raise UnreadyError(
                    f"The learner of {line} cannot begin now; the server's log says why.",
                    code="learner_unready",
                    retry_after_s=10.0,
                ) from error
            with self._lock:
                self._learners[line] = learner
            return learner

    def _running(self, line: str) -> Learner | None:
        with self._lock:
            known = self._learners.get(line)
        if known is None or known.state == "stopped":
            return None
        if self._is_elsewhere(line, known):
            with self._lock:
                if self._learners.get(line) is known:
                    del self._learners[line]
            return None
        return known
