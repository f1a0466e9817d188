"""Trains one arm of mission E from scratch: next tokens of the last section, answers foremost.

    loss = mean CE over answers + filler_weight * mean CE over its other tokens
           + gate_penalty * mean gate

Only the last section is predicted, so everything before it is worth exactly what is remembered of
it. Knows no statistics.

Legend: B streams, T tokens, A positions of the last chunk that are predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bem.memory import MemoryLM, MemoryLMConfig
from bem.state_tree import NumpyDraws
from bem.training import TrainResult, fit
from bem.training_checkpoint import StageCheckpoints
from missions.long_memory.data import training_batch, training_rng
from missions.long_memory.params import ArmParams, LongMemoryParams
from missions.long_memory.streams import StreamFactory
from missions.seeding import torch_generator


def build(params: LongMemoryParams, arm: ArmParams, seed: int) -> MemoryLM:
    """A fresh model of an arm; arms of one seed draw from streams of the same name."""
    config = MemoryLMConfig(
        vocab=params.stream.vocab,
        store=arm.store,
        gate=arm.gate,
        **params.model.model_dump(),
    )
    return MemoryLM(config, generator=torch_generator(seed, "E", "init"))


def train_arm(
    model: MemoryLM,
    factory: StreamFactory,
    params: LongMemoryParams,
    seed: int,
    *,
    gate_penalty: float,
    log: Callable[[int, dict[str, float]], None],
    should_stop: Callable[[], bool],
    checkpoints: StageCheckpoints | None = None,
) -> TrainResult:
    """Minimises the loss on the seed's stream of batches."""
    rng = training_rng(seed)
    device = model.embedding.weight.device
    chunk = params.model.chunk
    model.train()

    def step_loss(step: int) -> Tensor:
        streams = training_batch(factory, params, rng, step)
        ids_BT = torch.from_numpy(streams.ids_BT.astype(np.int64)).to(device)
        logits_BTL, gate_BT = model.tail(ids_BT, 1)
        answers_BA = torch.from_numpy(factory.answers(streams.ids_BT[:, -chunk:])[:, 1:])
        ce_BA = tail_nll(logits_BTL, ids_BT)
        weight_BA = answer_weights(answers_BA.to(device), params.train.filler_weight)
        loss = (weight_BA * ce_BA).sum()
        if model.store.gated:
            loss = loss + gate_penalty * torch.sigmoid(gate_BT).mean()
        return loss

    return fit(
        step_loss,
        parameter_groups(model, params),
        steps=params.train.steps,
        log=log,
        log_every=20,
        should_stop=should_stop,
        checkpoints=checkpoints,
        carried={"streams": NumpyDraws(rng)},
    )


def tail_nll(logits_BTL: Tensor, ids_BT: Tensor) -> Tensor:
    """(B, A): negative log-likelihood of all tokens of the last chunk but its first."""
    chunk = logits_BTL.shape[1]
    wanted_BA = ids_BT[:, -chunk + 1 :]
    flat = functional.cross_entropy(
        logits_BTL[:, :-1].flatten(0, 1).float(), wanted_BA.flatten(), reduction="none"
    )
    return flat.view(wanted_BA.shape)


def answer_weights(answers_BA: Tensor, filler_weight: float) -> Tensor:
    """Weights whose sum with the CE is mean over answers + filler_weight * mean over the rest."""
    answers = answers_BA.float()
    rest = 1.0 - answers
    return answers / answers.sum() + filler_weight * rest / rest.sum()


def parameter_groups(model: MemoryLM, params: LongMemoryParams) -> list[Mapping[str, Any]]:
    """The gate with its own learning rate, and all else."""
    gate = model.gate_parameters() if model.store.gated else []
    gate_ids = {id(p) for p in gate}
    rest = [p for p in model.parameters() if id(p) not in gate_ids]
    lr = params.train.lr
    groups: list[Mapping[str, Any]] = [{"params": rest, "lr": lr}]
    if gate:
        groups.append({"params": gate, "lr": lr * params.train.gate_lr_factor})
    return groups
