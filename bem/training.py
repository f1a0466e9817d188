"""The one training loop: AdamW, warm-up then cosine, clipping, and a clear end.

It knows neither models nor data: a mission gives it a closure that returns the loss of a step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bem.errors import InvalidInputError, NonFiniteLossError

_CALLS = ("auxiliary_loss", "after_step")
"""Keys of a group that are the loop's, not the optimiser's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What came of one training run."""

    steps: int
    """Steps taken; fewer than asked where `should_stop` said so."""
    stopped: bool
    losses: tuple[float, ...]
    """The loss of every step."""
    cpu_s: float
    """CPU seconds of this process."""


def learning_rate_factor(step: int, *, steps: int, warmup: int, floor: float) -> float:
    """Linear from 0 over `warmup` steps, then half a cosine from 1 down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def fit(
    step_loss: Callable[[int], Tensor],
    groups: Sequence[Mapping[str, Any]],
    *,
    steps: int,
    warmup: int | None = None,
    floor: float = 0.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float | None = 1.0,
    bf16: bool = False,
    log: Callable[[int, dict[str, float]], None] | None = None,
    log_every: int = 10,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Minimise `step_loss(step)` over the parameters of `groups` (each with its own `lr`).

    Args:
        step_loss: draws its own batch (from its own generator) and returns a scalar loss.
        groups: as from `AdapterHost.parameter_groups`. A group may carry `auxiliary_loss`, a call
            that returns what is added to the loss of each step, and `after_step`, called with
            the step after the optimiser's own and before gradients are cleared.
        warmup: steps of linear warm-up; None takes a twentieth of `steps`, at least one.
        floor: the cosine ends at this fraction of `lr`.
        clip: largest gradient norm over all groups; None leaves gradients alone.
        bf16: autocast the loss closure to bfloat16.
        log: called with the step and {"loss", "gradient_norm", "lr"}, every `log_every` steps.

    Raises:
        NonFiniteLossError: a loss or a gradient norm is NaN or infinite.
    """
    run = Run(
        groups,
        steps=steps,
        warmup=warmup,
        floor=floor,
        weight_decay=weight_decay,
        betas=betas,
        clip=clip,
    )
    losses: list[float] = []
    started = time.process_time()
    stopped = False
    for step in range(steps):
        if should_stop is not None and should_stop():
            stopped = True
            break
        run.begin(step)
        with torch.autocast(run.device, torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = run.with_auxiliary(step_loss(step))
        value = finite(float(loss.detach()), f"The loss of step {step}")
        loss.backward()  # type: ignore[no-untyped-call]
        figures = run.end(step, value)
        losses.append(value)
        if log is not None and (step % log_every == 0 or step == steps - 1):
            log(step, figures)
    return TrainResult(
        steps=len(losses),
        stopped=stopped,
        losses=tuple(losses),
        cpu_s=time.process_time() - started,
    )


class Run:
    """The optimiser of one run and what a step of it does around the backward.

    `fit` drives one; packed training drives several side by side.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        *,
        steps: int,
        warmup: int | None,
        floor: float,
        weight_decay: float,
        betas: tuple[float, float],
        clip: float | None,
    ) -> None:
        self.parameters = [p for group in groups for p in group["params"] if p.requires_grad]
        if not self.parameters:
            raise InvalidInputError(
                "Nothing to train: no parameter in the groups takes a gradient."
            )
        if steps < 1:
            raise InvalidInputError(f"steps is {steps}; give at least 1.")
        self.device = self.parameters[0].device.type
        self._steps = steps
        self._warmup = max(1, steps // 20) if warmup is None else warmup
        self._floor = floor
        self._clip = clip
        self._auxiliary = [g["auxiliary_loss"] for g in groups if "auxiliary_loss" in g]
        self._after_step = [g["after_step"] for g in groups if "after_step" in g]
        self._optimizer = torch.optim.AdamW(
            [{k: v for k, v in group.items() if k not in _CALLS} for group in groups],
            betas=betas,
            weight_decay=weight_decay,
            fused=True,
        )
        self._peaks = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._factor = 0.0

    def begin(self, step: int) -> None:
        """Set the learning rates of this step."""
        self._factor = learning_rate_factor(
            step, steps=self._steps, warmup=self._warmup, floor=self._floor
        )
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self._factor

    def with_auxiliary(self, loss: Tensor) -> Tensor:
        """The loss and what the adapters add to it."""
        for extra in self._auxiliary:
            loss = loss + extra()
        return loss

    def end(self, step: int, loss: float) -> dict[str, float]:
        """After the backward: clip, step, clear. Returns what a log wants to know."""
        bound = math.inf if self._clip is None else self._clip
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, bound))
        finite(norm, f"The gradient norm of step {step}")
        self._optimizer.step()
        for call in self._after_step:
            call(step)
        self._optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "gradient_norm": norm, "lr": self._peaks[0] * self._factor}


def finite(value: float, what: str) -> float:
    """The value, or NonFiniteLossError."""
    if not math.isfinite(value):
        raise NonFiniteLossError(f"{what} is {value}.")
    return value
