"""The start adapter of a seed: a generated BEM that has learned the initial family.

Trained once a seed and shared by every arm of that seed, as one set of weights: what differs
between arms is only what they may change afterwards. It has never seen a changed tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bem.base import BaseModel
from bem.data import encode, pad, pad_id_of
from bem.diagnostics import code_report
from bem.evaluate import target_loss
from bem.injection import AdapterHost
from bem.registry import make_config
from bem.training import TrainResult, fit
from bem.training_checkpoint import StageCheckpoints
from missions.living_model.data import Item, to_examples
from missions.living_model.params import StartParams
from missions.seeding import torch_generator

ADAPTER = "living"
_CODE_ROWS = 64
"""Rows on which code variance and the shuffled-code gap are measured."""


class Order:
    """Row numbers in random order, epoch after epoch; can be put back where it stood."""

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        self._rows = rows
        self._generator = generator
        self._left: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next rows."""
        if len(self._left) < count:
            self._left += torch.randperm(self._rows, generator=self._generator).tolist()
        chosen, self._left = self._left[:count], self._left[count:]
        return chosen

    def state_dict(self) -> dict[str, Any]:
        left = torch.tensor(self._left, dtype=torch.int64)
        return {"left": left, "generator": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._left = state_dict["left"].tolist()
        self._generator.set_state(state_dict["generator"])


def train_start(
    base: BaseModel,
    items: Sequence[Item],
    params: StartParams,
    seed: int,
    *,
    log: Callable[[int, dict[str, float]], None],
    should_stop: Callable[[], bool],
    checkpoints: StageCheckpoints | None = None,
) -> tuple[AdapterHost, TrainResult]:
    """A host with the trained adapter selected; every draw comes from the seed's streams."""
    host = AdapterHost(base)
    config = make_config(
        "generated",
        rank=params.rank,
        alpha=params.alpha,
        controller_width=params.controller_width,
        pool=params.pool,
        feature_layer=params.feature_layer,
        targets=params.targets,
    )
    host.add(ADAPTER, config, generator=torch_generator(seed, "B", "init"))
    host.use(ADAPTER)
    host.train_only(ADAPTER)
    rows = encode(to_examples(items), base.tokenizer)
    pad_id = pad_id_of(base.tokenizer)
    order = Order(len(rows), torch_generator(seed, "B", "order"))

    def step_loss(step: int) -> Tensor:
        chosen = order.take(params.batch_size)
        batch = pad([rows[i] for i in chosen], pad_id=pad_id, device=base.device)
        return target_loss(host, batch, batch.routing())

    result = fit(
        step_loss,
        host.parameter_groups(params.lr, params.controller_lr_scale),
        steps=params.steps,
        bf16=params.bf16,
        log=log,
        log_every=25,
        should_stop=should_stop,
        checkpoints=checkpoints,
        carried={"order": order},
    )
    return host, result


def code_figures(host: AdapterHost, items: Sequence[Item], seed: int) -> Mapping[str, float]:
    """Is the controller used? Variance of its codes, and the loss when rows swap them."""
    tokenizer = host.base.tokenizer
    rows = encode(to_examples(items[:_CODE_ROWS]), tokenizer)
    batch = pad(rows, pad_id=pad_id_of(tokenizer), device=host.base.device)
    report = code_report(host, ADAPTER, batch, generator=torch_generator(seed, "B", "codes"))
    return {"code_variance": report.variance, "shuffled_code_gap": report.gap}
