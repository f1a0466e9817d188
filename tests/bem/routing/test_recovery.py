"""Does training find what was planted? Settings were chosen on seeds 0-2; see the figures below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from bem import AdapterHost, make_config
from bem.data import Batch
from bem.evaluate import target_loss
from bem.routing.balance import utilisation
from bem.training import fit

CLUSTERS = 4
Train = Callable[..., "Found"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    recovered: float
    largest_load: float


@pytest.fixture
def train(planted_host: Callable[[], AdapterHost], planted_batch: Callable[..., Batch]) -> Train:
    def run(seed: int, **settings: float) -> Found:
        return trained(planted_host(), planted_batch, seed, **settings)

    return run


def trained(
    host: AdapterHost,
    planted_batch: Callable[..., Batch],
    seed: int,
    *,
    balance_weight: float = 1.0,
    one_answer: bool = False,
    head_start: float = 0.0,
    steps: int = 200,
) -> Found:
    """A bank of four rank-1 experts, top 1; then each fresh prompt's expert against its cluster.

    `head_start` is added to the first expert's logit: training begins with all rows on it.
    """
    draw = torch.Generator().manual_seed(seed)
    config = make_config(
        "banked",
        experts=CLUSTERS,
        rank=1,
        top_k=1,
        gate="straight_through",
        targets="mlp",
        code_spread=1.0,
        balance_weight=balance_weight,
    )
    adapter = host.add("bank", config, generator=draw)
    with torch.no_grad():
        adapter.controller.heads_bias_N[0] += head_start
    host.use("bank")

    def step_loss(step: int) -> torch.Tensor:
        batch = planted_batch(32, draw, one_answer=one_answer)
        return target_loss(host, batch, batch.routing())

    fit(step_loss, host.parameter_groups(1e-2, controller_lr_scale=3.0), steps=steps)
    fresh = planted_batch(400, torch.Generator().manual_seed(999))
    context = fresh.routing(record=True)
    with torch.no_grad():
        target_loss(host, fresh, context)
    gates_BSK = context.trace["bank"][0]
    count_KC = torch.zeros(CLUSTERS, CLUSTERS)
    for expert, cluster in zip(gates_BSK[:, 0].argmax(-1).tolist(), fresh.clusters, strict=True):
        count_KC[expert, int(cluster)] += 1
    matched = count_KC[linear_sum_assignment(-count_KC.numpy())]
    return Found(
        recovered=float(matched.sum()) / 400, largest_load=max(utilisation(gates_BSK).load)
    )


def test_the_router_finds_planted_clusters_from_the_task_alone(train: Train) -> None:
    """Seeds 0-6: .975 to 1.0. One answer for all prompts, so nothing to find: .61, .39."""
    assert train(3).recovered >= 0.95
    assert train(1, one_answer=True).recovered < 0.7


def test_the_balance_loss_prevents_collapse(train: Train) -> None:
    """The same run, which begins with every row on one expert, with the loss and without."""
    off = train(0, head_start=3.0, steps=100, balance_weight=0.0)
    on = train(0, head_start=3.0, steps=100)
    assert off.largest_load > 0.99
    assert on.largest_load < 0.4
