"""The models that a server holds, and what each name means; swapped whole, while answers go on.

A model is loaded aside, put on the host between two steps, and only then named in a new view. A
request pins the id that it was given until its answer ends, so a model that no view names any more
leaves the host only when its last answer has. A model that cannot be loaded costs no other its
place; it is tried again, ever more rarely, for what was wrong may pass (a disk, a copy under way).
Knows no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace

from bem.base import BaseModel as FrozenBase
from bem.engine import EngineLoop
from fleet.serving.catalog import Catalog, Entry, Listing
from fleet.serving.loading import Loaded, load_entry
from fleet.serving.traffic import Resolved, Table

LOG = logging.getLogger("fleet.serving")
ATTACH_S = 60.0
"""How long the engine may take to begin putting adapters on or off between two steps."""
LOOK_S = 1.0
"""How often it is asked whether the engine lives, where that is under way for longer."""
RETRY_S, LONGEST_RETRY_S = 5.0, 300.0
"""After how long skipped models are tried again: at first, and at most; it doubles between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What is served at one moment."""

    version: int = -1
    table: Table = field(default_factory=Table)
    models: Mapping[str, Loaded] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Models that should be served and are not, with the reason."""


class EngineBusyError(TimeoutError):
    """The engine did not come to what it was asked between two steps; nothing was done."""


class Shelf:
    """Follows a catalog. Every method may come from any thread; one `refresh` goes on at a time."""

    def __init__(
        self,
        catalog: Catalog,
        base: FrozenBase,
        loop: EngineLoop,
        *,
        canary_share: float,
        load: Callable[[Entry, FrozenBase], Loaded] = load_entry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._base = base
        self._loop = loop
        self._load = load
        self._share = canary_share
        self._clock = clock
        self._lock = threading.Lock()
        """Of the view and the pins; held for moments."""
        self._refreshing = threading.Lock()
        """Of what `refresh` does; held while models load."""
        self._retry_s = RETRY_S
        self._retry_at_s = 0.0
        self._view = View()
        self._pins: Counter[str] = Counter()
        self._retiring: dict[str, Loaded] = {}
        self.swaps = 0
        """Views that came after the first."""

    @property
    def view(self) -> View:
        """What is served now."""
        return self._view

    def set_canary_share(self, share: float) -> None:
        """From the next request on."""
        with self._lock:
            self._share = share
            table = replace(self._view.table, canary_share=share)
            self._view = replace(self._view, table=table)

    def pin(self, name: str, key: str) -> tuple[Resolved, Loaded] | None:
        """The model that a name means for this key, held until `release`; None: there is none."""
        with self._lock:
            resolved = self._view.table.resolve(name, key)
            if resolved is None:
                return None
            self._pins[resolved.model] += 1
            return resolved, self._view.models[resolved.model]

    def pin_overlay(self) -> Loaded | None:
        """The champion among the safety overlays, held until `release`; None: there is none."""
        with self._lock:
            for aliases in self._view.table.lines.values():
                loaded = self._view.models.get(aliases.get("champion", ""))
                if loaded is not None and loaded.overlay is not None:
                    self._pins[loaded.id] += 1
                    return loaded
        return None

    def release(self, model: str) -> None:
        """An answer of this model has ended."""
        with self._lock:
            self._pins[model] -= 1
            if self._pins[model] <= 0:
                del self._pins[model]

    def refresh(self, *, force: bool = False) -> bool:
        """Take over what changed in the catalog, and try skipped models again where their time has
        come; True where something changed."""
        with self._refreshing:
            return self._refresh(force=force)

    def _refresh(self, *, force: bool) -> bool:
        self._sweep()
        before = self._view
        moved = self._catalog.version() != before.version
        again = bool(before.skipped) and self._clock() >= self._retry_at_s
        if not (force or moved or again):
            return False
        listing = self._catalog.listing()
        models, skipped = self._models(listing)
        self._plan_retry(grow=again and not moved and len(skipped) >= len(before.skipped))
        with self._lock:
            table = Table(
                lines=listing.lines,
                ids={entry.id: entry.line for entry in listing.entries if entry.id in models},
                canary_share=self._share,
            )
            gone = {k: v for k, v in self._view.models.items() if k not in models}
            self._view = View(version=listing.version, table=table, models=models, skipped=skipped)
            self._retiring = {k: v for k, v in self._retiring.items() if k not in models} | gone
        changed = moved or force or models.keys() != before.models.keys()
        if changed and before.version >= 0:
            self.swaps += 1
        self._sweep()
        return changed or skipped != before.skipped

    def _plan_retry(self, *, grow: bool) -> None:
        self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S) if grow else RETRY_S
        self._retry_at_s = self._clock() + self._retry_s

    def _models(self, listing: Listing) -> tuple[dict[str, Loaded], dict[str, str]]:
        """Those of the listing, new ones loaded and put on the host."""
        models: dict[str, Loaded] = {}
        skipped: dict[str, str] = {}
        for entry in listing.entries:
            known = self._view.models.get(entry.id) or self._retiring.get(entry.id)
            if known is not None:
                models[entry.id] = known
                continue
            try:
                loaded = self._load(entry, self._base)
                self._wait(self._loop.call(lambda made=loaded: self._attach(made)))  # type: ignore[misc]
            except Exception as error:  # whatever is wrong with one, the others are served
                expected = isinstance(error, ValueError | OSError | KeyError)
                if not expected:
                    LOG.exception("%s cannot be loaded", entry.id)
                said = " ".join(str(error).split())
                skipped[entry.id] = said if expected else f"{type(error).__name__}: {said}"
                continue
            models[entry.id] = loaded
        return models, skipped

    def _sweep(self) -> None:
        """Models that nobody names and no answer holds leave the host."""
        with self._lock:
            free = [model for model in self._retiring if not self._pins[model]]
        for model in free:
            with self._lock:
                one = self._retiring.pop(model)
            try:
                self._wait(self._loop.call(lambda gone=one: self._detach(gone)))  # type: ignore[misc]
            except EngineBusyError as error:
                LOG.warning("%s stays on the host for now: %s", model, error)
                with self._lock:
                    self._retiring[model] = one

    def _attach(self, loaded: Loaded) -> None:
        host = self._loop.engine.host
        put = []
        try:
            for name, adapter in loaded.adapters.items():
                host.attach(name, adapter)
                put.append(name)
        except Exception:
            for name in put:
                host.remove(name)
            raise

    def _detach(self, loaded: Loaded) -> None:
        for name in loaded.adapters:
            self._loop.engine.host.remove(name)

    def _wait(self, future: Future[None]) -> None:
        """Until it is done. What is reported as not done must not be done later: what has begun
        cannot be cancelled any more, and is waited for however long it takes.

        Raises:
            EngineBusyError: the engine did not come to it in time, and never will.
        """
        if not wait([future], ATTACH_S).done and future.cancel():
            raise EngineBusyError(f"The engine did not come to it within {ATTACH_S:g} s.")
        while not wait([future], LOOK_S).done:
            if not self._loop.is_alive():
                raise RuntimeError("The engine's thread has ended.")
        future.result()
