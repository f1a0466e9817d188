"""Training of the two kinds of contestant on streams of chains.

The planner's three experts are trained together: each acts on the positions of a chain where its
skill writes (strength 1 there, 0 elsewhere). The fused adapter acts on all of these and on the last
token of the prompt, and also learns which marker comes next (its loss there may weigh more). It
knows neither plans nor policies.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bem.context import RoutingContext
from bem.data import IGNORED, Batch, pad_id_of
from bem.distributed import Share
from bem.evaluate import target_logits
from bem.injection import AdapterHost
from bem.interfaces import AdapterConfig
from bem.registry import make_config
from bem.state_tree import NumpyDraws
from bem.training import TrainResult, fit
from bem.training_checkpoint import StageCheckpoints
from missions.agentic_planner.chains import (
    NOBODY,
    SKILL_NAMES,
    SKILLS,
    Chain,
    Marks,
    training_batch,
)
from missions.agentic_planner.params import (
    AdapterParams,
    FusedTrainingParams,
    TrainingParams,
)
from missions.seeding import torch_generator

FUSED = "fused"
SKILL_ADAPTERS = tuple(SKILL_NAMES[skill] for skill in SKILLS)
_BATCHES_SORTED_TOGETHER = 4
Log = Callable[[int, dict[str, float]], None]


def adapter_config(params: AdapterParams) -> AdapterConfig:
    """The generated BEM of these settings."""
    return make_config("generated", code="sequence", **params.model_dump())


def add_adapters(host: AdapterHost, names: Sequence[str], params: AdapterParams, seed: int) -> None:
    """Fresh adapters on the host, each from its own stream."""
    for name in names:
        generator = torch_generator(seed, "agentic_planner", "init", name)
        host.add(name, adapter_config(params), generator=generator)


def skill_routing(batch: Batch, skill_BT: Tensor) -> RoutingContext:
    """Each position under the expert whose skill acts there."""
    return batch.routing(
        adapters=SKILL_ADAPTERS,
        strength={name: (skill_BT == i).float() for i, name in enumerate(SKILL_ADAPTERS)},
    )


def fused_routing(batch: Batch, skill_BT: Tensor) -> RoutingContext:
    """The one adapter wherever a skill acts, and on the prompt's last token."""
    position_T = torch.arange(skill_BT.shape[1], device=skill_BT.device)
    last_BT = position_T == batch.prefix_mask_BT.sum(1)[:, None] - 1
    acts_BT = (skill_BT != NOBODY) | last_BT
    return batch.routing(adapters=(FUSED,), strength={FUSED: acts_BT.float()})


def train_skills(
    host: AdapterHost,
    batches: BatchStream,
    params: TrainingParams,
    *,
    log: Log,
    should_stop: Callable[[], bool],
    checkpoints: StageCheckpoints | None = None,
    share: Share | None = None,
) -> TrainResult:
    """Trains the three experts of the host together."""
    host.train_only(*SKILL_ADAPTERS)
    return _train(host, batches, params, params.steps, None, log, should_stop, checkpoints, share)


def train_fused(
    host: AdapterHost,
    batches: BatchStream,
    params: FusedTrainingParams,
    *,
    steps: int,
    log: Log,
    should_stop: Callable[[], bool],
    checkpoints: StageCheckpoints | None = None,
    share: Share | None = None,
) -> TrainResult:
    """Trains the one adapter of the host for `steps`."""
    host.train_only(FUSED)
    weight = params.marker_weight
    return _train(host, batches, params, steps, weight, log, should_stop, checkpoints, share)


def _train(
    host: AdapterHost,
    batches: BatchStream,
    params: TrainingParams,
    steps: int,
    marker_weight: float | None,
    log: Log,
    should_stop: Callable[[], bool],
    checkpoints: StageCheckpoints | None,
    share: Share | None,
) -> TrainResult:
    """`marker_weight` None: the experts, which learn no markers."""
    learn_markers = marker_weight is not None
    routing = fused_routing if learn_markers else skill_routing
    pad_id = pad_id_of(host.base.tokenizer)
    ids = list(Marks.of(host.base.tokenizer).marker.values())
    markers = torch.tensor(ids, device=host.base.device)

    def step_loss(step: int) -> Tensor:
        chains = next(batches)
        if share is not None:
            chains = share.mine(chains)
        batch, skill_BT = training_batch(
            chains, pad_id=pad_id, learn_markers=learn_markers, device=host.base.device
        )
        logits_NV = target_logits(host, batch, routing(batch, skill_BT))
        labels_N = batch.labels_BT[:, 1:]
        labels_N = labels_N[labels_N != IGNORED]
        nll_N = nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")
        weight_N = torch.where(torch.isin(labels_N, markers), marker_weight or 1.0, 1.0)
        whole = weight_N.sum() if share is None else share.total(weight_N.sum())
        return (nll_N * weight_N).sum() / whole

    return fit(
        step_loss,
        host.parameter_groups(lr=params.lr, controller_lr_scale=0.2),
        steps=steps,
        bf16=params.bf16,
        log=log,
        should_stop=should_stop,
        checkpoints=checkpoints,
        carried={"batches": batches},
        share=share,
    )


class BatchStream:
    """Endless batches: every chain of a draw once an epoch; a few batches' chains are sorted by
    length together, so that little is padded, and their batches come in random order.

    Can be put back where it stood: it remembers where its generators were when the epoch began, and
    how many batches of it were taken.

    Args:
        draw: the chains of an epoch; it may use `also`, and no other generator.
    """

    def __init__(
        self,
        draw: Callable[[], Sequence[Chain]],
        batch: int,
        rng: np.random.Generator,
        *also: np.random.Generator,
    ) -> None:
        self._draw = draw
        self._batch = batch
        self._rng = rng
        self._generators = {f"draws_{i}": NumpyDraws(g) for i, g in enumerate((rng, *also))}
        self._begin_epoch()

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> list[Chain]:
        found = next(self._epoch, None)
        if found is None:
            self._begin_epoch()
            found = next(self._epoch)
        self._taken += 1
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"began": self._began, "taken": self._taken}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        for name, generator in self._generators.items():
            generator.load_state_dict(state_dict["began"][name])
        self._begin_epoch()
        for _ in range(state_dict["taken"]):
            next(self)

    def _begin_epoch(self) -> None:
        self._began = {name: g.state_dict() for name, g in self._generators.items()}
        self._taken = 0
        self._epoch = self._batches()

    def _batches(self) -> Iterator[list[Chain]]:
        chains = self._draw()
        size = min(self._batch, len(chains))
        order = [int(i) for i in self._rng.permutation(len(chains))]
        for start in range(0, len(order), size * _BATCHES_SORTED_TOGETHER):
            group = sorted(
                order[start : start + size * _BATCHES_SORTED_TOGETHER],
                key=lambda i: (chains[i].length, i),
            )
            parts = [group[i : i + size] for i in range(0, len(group), size)]
            for position in self._rng.permutation(len(parts)):
                yield [chains[i] for i in parts[int(position)]]
