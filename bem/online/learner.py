"""The online learner: small updates between prompts, each of which can be taken back.

A batch is fresh feedback first, then a draw from the window of recent feedback, then replay from a
reservoir of everything (initial family included) at a fixed ratio. The gradient is that of the
capped losses plus EWC and proximal pulls, clipped by norm; an update whose gradient is not finite
is skipped and counted. `commit` makes the present state the last good one, `rollback` returns to
it: parameters, optimizer, window and reservoir. It trains whatever parameters it is given: the
controller's alone or a whole adapter's. It knows neither models nor what an item is.

Legend: B items of a batch.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from bem.errors import InvalidInputError
from bem.online.anchors import Anchors, Parameters, copy_of, diagonal_fisher, write_back
from bem.online.replay import Reservoir, ReservoirState

T = TypeVar("T")


class LearnerConfig(BaseModel):
    """How an online learner updates."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    lr: float = Field(gt=0)
    """Adam's learning rate for factors."""
    controller_lr_scale: float = Field(default=0.2, gt=0)
    """Learning rate of controller parameters, relative to `lr`."""
    loss_cap: float = Field(default=math.inf, gt=0)
    """An item whose loss lies above this weighs cap / loss: one wrong correction among many solved
    items would else be most of the gradient. inf leaves losses alone."""
    batch_size: int = Field(default=16, ge=2)
    replay_ratio: float = Field(default=0.3, ge=0, lt=1)
    """Share of the batch that comes from the reservoir."""
    window: int = Field(default=48, ge=1)
    """Most recent feedback items that a batch may repeat."""
    reservoir: int = Field(default=10_000, ge=1)
    """Items that the reservoir holds."""
    ewc: float = Field(default=0.0, ge=0)
    """Weight of the EWC pull (Fisher scaled to mean 1)."""
    proximal: float = Field(default=0.0, ge=0)
    """Weight of the pull to the last good checkpoint."""
    fisher_items: int = Field(default=32, ge=1)
    """Items of the initial family from which the Fisher information is estimated."""
    max_grad_norm: float = Field(default=10.0, gt=0)
    """Cap of the gradient's norm; larger gradients are scaled down and counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateReport:
    """One update."""

    loss: float
    """Mean loss of the batch before the update, neither capped nor with penalties."""
    grad_norm: float
    """Norm before clipping, penalties included."""
    applied: bool
    """False where the gradient was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Good(Generic[T]):
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    recent: tuple[T, ...]
    reservoir: ReservoirState[T]


class OnlineLearner(Generic[T]):
    """Updates given parameters from feedback, with replay, pulls and a last good state.

    Args:
        parameters: what is trained, by name.
        controller: the names among them that take the lower learning rate.
        losses: items -> one loss an item, differentiable in the parameters.
        initial: items of the initial family: they seed the reservoir and give the Fisher.
        generator: source of every draw.
    """

    def __init__(
        self,
        parameters: Parameters,
        controller: Sequence[str],
        losses: Callable[[Sequence[T]], Tensor],
        initial: Sequence[T],
        config: LearnerConfig,
        *,
        generator: torch.Generator,
    ) -> None:
        unknown = sorted(set(controller) - set(parameters))
        if unknown or not parameters:
            raise InvalidInputError(f"Controller names {unknown} are not among the parameters.")
        self.config = config
        self.parameters = dict(parameters)
        self._losses = losses
        self._generator = generator
        self._reservoir: Reservoir[T] = Reservoir(config.reservoir)
        self._reservoir.extend(initial, generator)
        self._recent: deque[T] = deque(maxlen=config.window)
        self._fresh: list[T] = []
        fisher = (
            diagonal_fisher(
                parameters, losses, self._reservoir.sample(config.fisher_items, generator)
            )
            if config.ewc
            else {name: torch.zeros_like(value) for name, value in parameters.items()}
        )
        self.anchors = Anchors(parameters, fisher, ewc=config.ewc, proximal=config.proximal)
        slow = config.lr * config.controller_lr_scale
        groups = [
            {"params": [p for n, p in parameters.items() if n not in controller], "lr": config.lr},
            {"params": [p for n, p in parameters.items() if n in controller], "lr": slow},
        ]
        self._optimizer = torch.optim.Adam(
            [group for group in groups if group["params"]],
            betas=(0.9, 0.99),
        )
        self.num_updates = 0
        self.num_clipped = 0
        self.num_skipped = 0
        self._good = self._state()

    @property
    def reservoir(self) -> tuple[T, ...]:
        """The replay items held."""
        return self._reservoir.items

    def observe(self, items: Sequence[T]) -> None:
        """Take feedback in; it is learned from at the next update."""
        self._fresh.extend(items)

    def update(self) -> UpdateReport | None:
        """One step, or None while no feedback has come at all."""
        batch = self._batch()
        if not batch:
            return None
        self._optimizer.zero_grad(set_to_none=False)
        losses_B = self._losses(batch)
        value_B = losses_B.detach()
        loss = (losses_B * (self.config.loss_cap / value_B).clamp(max=1.0)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.anchors.add_gradients()
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm))
        applied = math.isfinite(norm)
        if applied:
            self._optimizer.step()
            self.num_updates += 1
            self.num_clipped += norm > self.config.max_grad_norm
        else:
            self.num_skipped += 1
        return UpdateReport(loss=float(value_B.mean()), grad_norm=norm, applied=applied)

    def commit(self) -> None:
        """The present state is the last good one; the proximal centre moves to it."""
        self.anchors.recentre()
        self._good = self._state()

    def rollback(self) -> None:
        """Back to the last good state; feedback taken in since is forgotten."""
        good = self._good
        write_back(self.parameters, good.parameters)
        self._optimizer.load_state_dict(copy.deepcopy(good.optimizer))
        self._recent = deque(good.recent, maxlen=self.config.window)
        self._reservoir.restore(good.reservoir)
        self._fresh = []

    def _batch(self) -> list[T]:
        fresh, self._fresh = self._fresh, []
        num_replay = round(self.config.replay_ratio * self.config.batch_size)
        num_live = self.config.batch_size - num_replay
        live = fresh[-num_live:]
        earlier = list(self._recent)
        self._recent.extend(fresh)
        if not self._recent:
            return []
        order = torch.randperm(len(earlier), generator=self._generator)[: num_live - len(live)]
        live += [earlier[int(index)] for index in order]
        replay = self._reservoir.sample(num_replay, self._generator)
        self._reservoir.extend(fresh, self._generator)
        return live + replay

    def _state(self) -> _Good[T]:
        return _Good(
            parameters=copy_of(self.parameters),
            optimizer=copy.deepcopy(self._optimizer.state_dict()),
            recent=tuple(self._recent),
            reservoir=self._reservoir.state(),
        )
