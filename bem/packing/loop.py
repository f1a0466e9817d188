"""The training loop of a pack: one forward and one backward a step, an optimiser a run.

Learning rates, clipping, auxiliary losses and calls after a step are each run's own, so that a run
in a pack is the run alone (`bem.training.fit`). It knows neither models nor data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bem.errors import InvalidInputError
from bem.kept_memory import freed_memory_kept
from bem.state_tree import Stateful
from bem.training import Progress, Run, TrainResult, finite
from bem.training_checkpoint import StageCheckpoints


@freed_memory_kept()
def fit_packed(
    step_losses: Callable[[int], Mapping[str, Tensor]],
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    steps: int,
    warmup: int | None = None,
    floor: float = 0.0,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float | None = 1.0,
    bf16: bool = False,
    log: Callable[[int, dict[str, dict[str, float]]], None] | None = None,
    log_every: int = 10,
    should_stop: Callable[[], bool] | None = None,
    checkpoints: StageCheckpoints | None = None,
    carried: Mapping[str, Stateful] | None = None,
) -> dict[str, TrainResult]:
    """Train every run of a pack at once; the arguments are those of `fit`.

    Args:
        step_losses: one loss a run, by name, from one forward (`packed_losses`).
        groups: by the same names, `host.parameter_groups(lr, scale, names=(name,))`.
        log: called with the step and, by run, what `fit` logs.
        checkpoints: of the whole pack: its runs are kept and found again together.

    Returns:
        A result a run. Each counts its share of the CPU seconds: the pack's over the runs.

    Raises:
        NonFiniteLossError: a loss or gradient norm of one run is not finite; it names the run.
        TrainingStopped: `should_stop` said so, and the state is in `checkpoints`.
    """
    runs = {
        name: Run(
            own,
            steps=steps,
            warmup=warmup,
            floor=floor,
            weight_decay=weight_decay,
            betas=betas,
            clip=clip,
        )
        for name, own in groups.items()
    }
    _check_apart(runs)
    device = next(iter(runs.values())).device
    progress = Progress(runs, carried)
    values = progress.losses
    stopped = False
    for step in range(progress.restore(checkpoints, steps), steps):
        if should_stop is not None and should_stop():
            progress.stop(checkpoints, step)
            stopped = True
            break
        progress.keep(checkpoints, step)
        for run in runs.values():
            run.begin(step)
        with torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext():
            losses = dict(step_losses(step))
            if losses.keys() != runs.keys():
                raise InvalidInputError(
                    f"Step {step} has losses of {', '.join(losses)}; the pack is {', '.join(runs)}."
                )
            losses = {name: run.with_auxiliary(losses[name]) for name, run in runs.items()}
        for name, loss in losses.items():
            value = float(loss.detach())
            values[name].append(finite(value, f"The loss of run '{name}' at step {step}"))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        figures = {name: run.end(step, values[name][-1]) for name, run in runs.items()}
        if log is not None and (step % log_every == 0 or step == steps - 1):
            log(step, figures)
    if not stopped:
        progress.finish(checkpoints, steps)
    cpu_s = progress.cpu_s / len(runs)
    return {
        name: TrainResult(steps=len(own), stopped=stopped, losses=tuple(own), cpu_s=cpu_s)
        for name, own in values.items()
    }


def _check_apart(runs: Mapping[str, Run]) -> None:
    if not runs:
        raise InvalidInputError("A pack needs at least one run.")
    owners: dict[int, str] = {}
    for name, run in runs.items():
        for parameter in run.parameters:
            other = owners.setdefault(id(parameter), name)
            if other != name:
                raise InvalidInputError(f"Runs '{other}' and '{name}' train the same parameter.")
