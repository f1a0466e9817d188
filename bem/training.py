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
    parameters = [p for group in groups for p in group["params"] if p.requires_grad]
    if not parameters:
        raise InvalidInputError("Nothing to train: no parameter in the groups takes a gradient.")
    if steps < 1:
        raise InvalidInputError(f"steps is {steps}; give at least 1.")
    warmup = max(1, steps // 20) if warmup is None else warmup
    auxiliary = [group["auxiliary_loss"] for group in groups if "auxiliary_loss" in group]
    after_step = [group["after_step"] for group in groups if "after_step" in group]
    optimizer = torch.optim.AdamW(
        [{k: v for k, v in group.items() if k not in _CALLS} for group in groups],
        betas=betas,
        weight_decay=weight_decay,
        fused=True,
    )
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    device = parameters[0].device.type
    losses: list[float] = []
    started = time.process_time()
    stopped = False
    for step in range(steps):
        if should_stop is not None and should_stop():
            stopped = True
            break
        factor = learning_rate_factor(step, steps=steps, warmup=warmup, floor=floor)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        with torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = step_loss(step)
            for extra in auxiliary:
                loss = loss + extra()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(f"The loss of step {step} is {value}.")
        loss.backward()  # type: ignore[no-untyped-call]
        norm = _clip(parameters, clip)
        if not math.isfinite(norm):
            raise NonFiniteLossError(f"The gradient norm of step {step} is {norm}.")
        optimizer.step()
        for call in after_step:
            call(step)
        optimizer.zero_grad(set_to_none=True)
        losses.append(value)
        if log is not None and (step % log_every == 0 or step == steps - 1):
            log(step, {"loss": value, "gradient_norm": norm, "lr": peaks[0] * factor})
    return TrainResult(
        steps=len(losses),
        stopped=stopped,
        losses=tuple(losses),
        cpu_s=time.process_time() - started,
    )


def _clip(parameters: list[torch.nn.Parameter], clip: float | None) -> float:
    bound = math.inf if clip is None else clip
    return float(torch.nn.utils.clip_grad_norm_(parameters, bound))
