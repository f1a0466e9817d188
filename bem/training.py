"""The one training loop: AdamW, warm-up then cosine, clipping, and a clear end.

With checkpoints, a training that was cut short goes on where it stood and ends with the same bits
as one that ran through. It knows neither models nor data: a mission gives it a closure that returns
the loss of a step, and names what else changes from step to step (`carried`).
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

from bem.distributed import Share
from bem.errors import CheckpointError, InvalidInputError, NonFiniteLossError, TrainingStopped
from bem.kept_memory import freed_memory_kept
from bem.state_tree import Stateful
from bem.training_checkpoint import Snapshot, StageCheckpoints, require_finite_state

_CALLS = ("auxiliary_loss", "after_step", "carried")
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


@freed_memory_kept()
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
    checkpoints: StageCheckpoints | None = None,
    carried: Mapping[str, Stateful] | None = None,
    share: Share | None = None,
) -> TrainResult:
    """Minimise `step_loss(step)` over the parameters of `groups` (each with its own `lr`).

    Args:
        step_loss: draws its own batch (from its own generator) and returns a scalar loss.
        groups: as from `AdapterHost.parameter_groups`. A group may carry `auxiliary_loss`, a call
            that returns what is added to the loss of each step, `after_step`, called with the
            step after the optimiser's own and before gradients are cleared, and `carried`, more
            of what the argument of that name holds.
        warmup: steps of linear warm-up; None takes a twentieth of `steps`, at least one.
        floor: the cosine ends at this fraction of `lr`.
        clip: largest gradient norm over all groups; None leaves gradients alone.
        bf16: autocast the loss closure to bfloat16.
        log: called with the step and {"loss", "gradient_norm", "lr"}, every `log_every` steps.
        checkpoints: where the training is kept as it goes, and found again. A stage that had come
            to its end is not trained again: its weights, losses and carried state come back.
        carried: what changes from step to step beside parameters and optimiser, by name: the
            generators of `step_loss`, queues of data, multipliers. Torch's global generators are
            carried anyway.
        share: this process's part in a training that a group of processes shares; `step_loss`
            then returns the loss of its rows, a part of the whole batch's. Every process of the
            group calls `fit` alike and ends with the same parameters. The leader's `checkpoints`
            are written and read; the others are handed what it found, so only it needs the disk,
            but each must be given some, or none.

    Raises:
        InvalidInputError: a shared training with an auxiliary loss (it is not a sum over rows).
        NonFiniteLossError: a loss, a gradient norm or a weight is NaN or infinite.
        TrainingStopped: `should_stop` said so, and the state is in `checkpoints`. Without
            checkpoints, a stop is in the result.
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
    if share is not None:
        _check_shared(share, groups)
        step_loss = share.step(step_loss, run.parameters)
    progress = Progress({"": run}, carried, share)
    losses = progress.losses[""]
    stopped = False
    for step in range(progress.restore(checkpoints, steps), steps):
        if should_stop is not None and should_stop():
            progress.stop(checkpoints, step)
            stopped = True
            break
        progress.keep(checkpoints, step)
        run.begin(step)
        with torch.autocast(run.device, torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = run.with_auxiliary(step_loss(step))
        told = loss.detach() if share is None else share.total(loss) / share.world
        value = finite(float(told), f"The loss of step {step}")
        loss.backward()  # type: ignore[no-untyped-call]
        figures = run.end(step, value)
        losses.append(value)
        if log is not None and (step % log_every == 0 or step == steps - 1):
            log(step, figures)
    if not stopped:
        progress.finish(checkpoints, steps)
    return TrainResult(
        steps=len(losses), stopped=stopped, losses=tuple(losses), cpu_s=progress.cpu_s
    )


def _check_shared(share: Share, groups: Sequence[Mapping[str, Any]]) -> None:
    if any("auxiliary_loss" in group for group in groups):
        raise InvalidInputError(
            f"Strategy '{share.strategy}': an adapter of this run adds an auxiliary loss over the "
            "whole batch, which is not the sum of its rows'. Allowed with it: packed."
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

        self.carried: dict[str, Stateful] = {}
        for group in groups:
            self.carried |= group.get("carried", {})

    def state(self) -> dict[str, Any]:
        """Weights and the optimiser's moments, in the order of the groups."""
        moments = self._optimizer.state_dict()["state"]
        return {
            "weights": [p.detach() for p in self.parameters],
            "moments": {str(index): values for index, values in moments.items()},
        }

    def require_finite(self, step: int) -> None:
        """Raises NonFiniteLossError where a weight is NaN or infinite."""
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise NonFiniteLossError(f"A weight after step {step} is not finite.")

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError where a state is not of this run's shapes."""
        shapes = [tuple(value.shape) for value in state["weights"]]
        own = [tuple(p.shape) for p in self.parameters]
        if shapes != own:
            raise CheckpointError(f"The checkpoint holds weights of {shapes}, this run {own}.")

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["weights"], strict=True):
                parameter.copy_(value)
        known = self._optimizer.state_dict()
        moments = {int(index): values for index, values in state["moments"].items()}
        self._optimizer.load_state_dict({**known, "state": moments})

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
        # A fused step does not count as a change of its parameters; what is kept of them must go.
        torch.autograd.graph.increment_version(self.parameters)
        for call in self._after_step:
            call(step)
        self._optimizer.zero_grad(set_to_none=True)
        return {"loss": loss, "gradient_norm": norm, "lr": self._peaks[0] * self._factor}


class Progress:
    """How far a loop has come, as checkpoints hold it: of one run, or of a pack by name.

    What a shared run trains is the same in every process of its group, so the leader writes for
    all, whenever it is time by its own clock, and at a start all learn what it found.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        carried: Mapping[str, Stateful] | None,
        share: Share | None = None,
    ) -> None:
        self._runs = runs
        self._share = share
        self._writes = share is None or share.leads
        self._carried = dict(carried or {})
        for name, run in runs.items():
            for key, value in run.carried.items():
                self._carried[f"{name}.{key}" if name else key] = value
        self._device = next(iter(runs.values())).device
        self.losses: dict[str, list[float]] = {name: [] for name in runs}
        self._before_s = 0.0
        self._started = time.process_time()

    @property
    def cpu_s(self) -> float:
        """CPU seconds of this process, and of those before it up to the checkpoint."""
        return self._before_s + time.process_time() - self._started

    def restore(self, checkpoints: StageCheckpoints | None, steps: int) -> int:
        """The step to go on with; everything is as it was before that step."""
        if checkpoints is None:
            return 0
        found = checkpoints.newest() if self._writes else None
        if self._share is not None:
            found = self._share.broadcast(found)
        if found is None:
            return 0
        self._check(found, steps)
        state = found.state
        for name, run in self._runs.items():
            run.load(state["runs"][name])
            self.losses[name].extend(state["runs"][name]["losses"].tolist())
        for name, value in self._carried.items():
            value.load_state_dict(state["carried"][name])
        torch.set_rng_state(state["torch"])
        if "device" in state:
            torch.cuda.set_rng_state(state["device"])
        self._before_s = float(state["cpu_s"])
        return found.step

    def keep(self, checkpoints: StageCheckpoints | None, step: int) -> None:
        """Writes a checkpoint before this step, where it is time for one.

        Only who writes knows the time. In a group that is the leader, who would leave the others
        in a sum if it raised here: what is not finite is not written, and told by the loss of this
        step or at the end, where all look.
        """
        if checkpoints is None or not self._writes or not checkpoints.due():
            return
        try:
            self._save(checkpoints, step, finished=False)
        except (NonFiniteLossError, CheckpointError):
            if self._share is None:
                raise

    def stop(self, checkpoints: StageCheckpoints | None, step: int) -> None:
        """Writes a checkpoint at once and leaves the loop, where there is a place to write."""
        if checkpoints is not None:
            self._save(checkpoints, step, finished=False)
            raise TrainingStopped(f"Stopped before step {step}; the checkpoint holds it.")

    def finish(self, checkpoints: StageCheckpoints | None, steps: int) -> None:
        """The stage has come to its end."""
        for run in self._runs.values():
            run.require_finite(steps)
        if checkpoints is not None:
            self._save(checkpoints, steps, finished=True)

    def _save(self, checkpoints: StageCheckpoints, step: int, *, finished: bool) -> None:
        for run in self._runs.values():
            run.require_finite(step)
        state: dict[str, Any] = {
            "runs": {},
            "carried": {name: value.state_dict() for name, value in self._carried.items()},
            "torch": torch.get_rng_state(),
            "cpu_s": self.cpu_s,
        }
        if self._device == "cuda":
            state["device"] = torch.cuda.get_rng_state()
        for name, run in self._runs.items():
            losses = torch.tensor(self.losses[name], dtype=torch.float64)
            state["runs"][name] = {**run.state(), "losses": losses}
        if self._writes:
            checkpoints.save(step, state, finished=finished)
        else:  # at a stop or the end: all of the group leave with the leader, or none
            require_finite_state(step, state)

    def _check(self, found: Snapshot, steps: int) -> None:
        """Before anything is changed. The key has tied the checkpoint to this training already:
        what is caught here is a stage's name that a mission gave to two trainings."""
        names = (found.state["runs"].keys(), found.state["carried"].keys())
        if names != (self._runs.keys(), self._carried.keys()):
            raise CheckpointError(
                f"The checkpoint holds runs {sorted(names[0])} and carries {sorted(names[1])}; "
                f"this training {sorted(self._runs)} and {sorted(self._carried)}."
            )
        if found.step > steps or found.finished != (found.step == steps):
            raise CheckpointError(f"The checkpoint stands at step {found.step} of {steps}.")
        for name, run in self._runs.items():
            run.check(found.state["runs"][name])


def finite(value: float, what: str) -> float:
    """The value, or NonFiniteLossError."""
    if not math.isfinite(value):
        raise NonFiniteLossError(f"{what} is {value}.")
    return value
