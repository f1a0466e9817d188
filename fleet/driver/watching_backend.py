"""Train's torch backend, whose workers also watch for SIGTERM.

A training loop runs beside the main thread of its worker, which alone may take signals; a backend
is where Train lets a function run on it. Imports Ray Train: import it where a trainer is made.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig

from fleet.workers.preemption import watch_sigterm

_TorchBackend: Any = TorchConfig().backend_cls


class WatchingBackend(_TorchBackend):  # type: ignore[misc]
    """Sets up torch as ever, then the signal."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(watch_sigterm)


class WatchingTorchConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` with that backend."""

    @property
    def backend_cls(self) -> type[WatchingBackend]:
        return WatchingBackend
