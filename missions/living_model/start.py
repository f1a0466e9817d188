"""The start adapter of a seed: a generated BEM that has learned the initial family.

Trained once a seed and shared by every arm of that seed, as one set of weights: what differs
between arms is only what they may change afterwards. It has never seen a changed tool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bem.base import BaseModel
from bem.data import encode, pad, pad_id_of
from bem.diagnostics import code_report
from bem.evaluate import target_loss
from bem.injection import AdapterHost
from bem.registry import make_config
from bem.training import TrainResult, fit
from missions.living_model.data import Item, to_examples
from missions.living_model.params import StartParams
from missions.seeding import torch_generator

ADAPTER = "living"
_CODE_ROWS = 64
"""Rows on which code variance and the shuffled-code gap are measured."""


def train_start(
    base: BaseModel,
    items: Sequence[Item],
    params: StartParams,
    seed: int,
    *,
    log: Callable[[int, dict[str, float]], None],
    should_stop: Callable[[], bool],
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
    generator = torch_generator(seed, "B", "order")
    order: list[int] = []

    def step_loss(step: int) -> Tensor:
        nonlocal order
        if len(order) < params.batch_size:
            order = order + torch.randperm(len(rows), generator=generator).tolist()
        chosen, order = order[: params.batch_size], order[params.batch_size :]
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
    )
    return host, result


def code_figures(host: AdapterHost, items: Sequence[Item], seed: int) -> Mapping[str, float]:
    """Is the controller used? Variance of its codes, and the loss when rows swap them."""
    tokenizer = host.base.tokenizer
    rows = encode(to_examples(items[:_CODE_ROWS]), tokenizer)
    batch = pad(rows, pad_id=pad_id_of(tokenizer), device=host.base.device)
    report = code_report(host, ADAPTER, batch, generator=torch_generator(seed, "B", "codes"))
    return {"code_variance": report.variance, "shuffled_code_gap": report.gap}
