"""One process that serves: base, engine loop, shelf, sessions, and the watch over the registry.

`start` blocks until what the registry names is loaded. Afterwards one thread follows the registry
and another runs the engine; the API's event loop only asks and is told. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import warnings
from collections.abc import Callable

import torch

from bem.base import BaseModel as FrozenBase
from bem.base import load_base
from bem.engine import Engine, EngineLoop, Event, Limits
from bem.injection import AdapterHost
from bem.mixed import SlowRowsWarning
from fleet.registry.forms import base_path
from fleet.serving.catalog import Catalog, RegistryCatalog
from fleet.serving.living.desk import Desk
from fleet.serving.metrics import Metrics
from fleet.serving.model_traffic import ModelTraffic
from fleet.serving.sessions import SessionStore
from fleet.serving.settings import ServingSettings
from fleet.serving.shelf import Shelf

LOG = logging.getLogger("fleet.serving")
STALLED_S = 30.0
"""A loop that has not come round for so long is not healthy: the process should be replaced."""


class Outbox:
    """Events from the engine's thread to the event loop, one wake-up a step."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filled: list[tuple[Callable[[Event], None], Event]] = []

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this event loop."""
        self._loop = loop

    def put(self, deliver: Callable[[Event], None], event: Event) -> None:
        """On the engine's thread: `deliver(event)` will run on the event loop."""
        self._filled.append((deliver, event))

    def flush(self) -> None:
        """After a step."""
        if not self._filled:
            return
        batch, self._filled = self._filled, []
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, batch)


def _deliver(batch: list[tuple[Callable[[Event], None], Event]]) -> None:
    for deliver, event in batch:
        deliver(event)


class Server:
    """What the API is built over."""

    def __init__(
        self,
        settings: ServingSettings,
        *,
        catalog: Catalog | None = None,
        base: FrozenBase | None = None,
    ) -> None:
        self.settings = settings
        self.catalog = catalog or RegistryCatalog(settings.registry)
        self.base = base or load_base(base_path(settings.base), device=settings.engine.device)
        self.host = AdapterHost(self.base)
        engine = settings.engine
        self.engine = Engine(
            self.host,
            Limits(
                rows=engine.rows,
                queue=engine.queue,
                positions=engine.positions,
                prefill_tokens=engine.prefill_tokens,
            ),
        )
        self.loop = EngineLoop(self.engine)
        self.outbox = Outbox()
        self.loop.after_step(self.outbox.flush)
        self.shelf = Shelf(self.catalog, self.base, self.loop, canary_share=settings.canary_share)
        self.sessions = SessionStore(
            max_sessions=settings.sessions.max_sessions, idle_s=settings.sessions.idle_s
        )
        self.metrics = Metrics()
        self.traffic = ModelTraffic()
        self.desk = Desk(settings, self.shelf, self.base, self.metrics)
        self.started_s = time.time()
        self.watch_error = ""
        """What the last look at the registry ended in; empty where it went well."""
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._follow, name="registry-watch", daemon=True)

    def start(self) -> None:
        """Run the engine, load what the registry names, then follow it."""
        torch.set_num_threads(self.settings.engine.threads)
        # Rows without a stacked form are slower, not wrong; said once, not at every swap.
        warnings.filterwarnings("ignore", category=SlowRowsWarning)
        # What is there by now stays: a full collection walks all of it, and while it does (a third
        # of a second) no thread goes on. Models come later: they must be collected when they go.
        gc.collect()
        gc.freeze()
        try:
            self.loop.start()
            # OpenMP counts threads by thread: the engine's must be told itself.
            self.loop.call(lambda: torch.set_num_threads(self.settings.engine.threads)).result(60)
            self.refresh()
            self._watch.start()
        except BaseException:
            gc.unfreeze()
            raise

    def stop(self) -> None:
        """End the threads; answers under way are lost."""
        self._stop.set()
        try:
            self.desk.stop()
            self.loop.stop()
            self.host.detach()
        finally:
            gc.unfreeze()

    def refresh(self, *, force: bool = False) -> bool:
        """Look at the registry now."""
        changed = self.shelf.refresh(force=force)
        if changed:
            view = self.shelf.view
            self.metrics.view(len(view.models), len(view.skipped), self.shelf.swaps)
            LOG.info("registry version %d: %d models", view.version, len(view.models))
            for model, reason in view.skipped.items():
                LOG.warning("%s is not served: %s", model, reason)
        return changed

    def problem(self) -> str:
        """Why the process should be replaced; empty where it need not."""
        if not self.loop.is_alive():
            return "the engine's thread has ended"
        if self.loop.silent_s() > STALLED_S:
            return f"the engine has not come round for {self.loop.silent_s():.0f} s"
        return ""

    def _follow(self) -> None:
        while not self._stop.wait(self.settings.poll_s):
            try:
                self.refresh()
                self.watch_error = ""
            except Exception as error:  # noqa: BLE001 - told, and tried again
                text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                if text != self.watch_error:
                    LOG.warning("the registry could not be followed: %s", text)
                self.watch_error = text
