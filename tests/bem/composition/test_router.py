"""The router over trained adapters: weights, contexts, and that it learns from the task alone."""

from __future__ import annotations

import pytest
import torch

from bem import AdapterHost, BaseModel, make_config
from bem.composition.router import AdapterRouter
from bem.data import Batch, Encoded, pad
from bem.errors import InvalidInputError
from bem.evaluate import target_loss, teacher_forced_exact_match
from bem.training import fit

NAMES = ("first", "second")
ANSWERS = {"first": (40, 41), "second": (50, 51)}


def rows(count: int, names: tuple[str, ...] = NAMES, seed: int = 0) -> list[Encoded]:
    """The first token asks for an answer that one adapter gives; the rest says nothing."""
    draw = torch.Generator().manual_seed(seed)
    return [
        Encoded(
            prompt_ids=(
                10 + NAMES.index(name),
                *torch.randint(100, 250, (4,), generator=draw).tolist(),
            ),
            target_ids=ANSWERS[name],
            id=str(i),
            cluster=name,
        )
        for i in range(count)
        for name in (names[i % len(names)],)
    ]


def batch_of(encoded: list[Encoded]) -> Batch:
    return pad(encoded, pad_id=0)


@pytest.fixture
def host(llama: BaseModel) -> AdapterHost:
    """Two LoRAs that give their own answer to any prompt."""
    host, draw = AdapterHost(llama), torch.Generator().manual_seed(0)
    for name in NAMES:
        host.add(name, make_config("lora", rank=2), generator=draw)
        host.use(name)
        host.train_only(name)
        batch = batch_of(rows(16, (name,)))
        fit(
            lambda step, batch=batch: target_loss(host, batch, batch.routing()),
            host.parameter_groups(3e-2),
            steps=40,
        )
    host.freeze()
    return host


def test_it_learns_who_is_right_and_composing_then_costs_nothing(host: AdapterHost) -> None:
    router = AdapterRouter(host.base, NAMES, generator=torch.Generator().manual_seed(1))
    test = rows(40, seed=9)
    batch = batch_of(test)

    def right() -> float:
        picked = router.choice(batch)
        return sum(p == c for p, c in zip(picked, batch.clusters, strict=True)) / len(picked)

    before = right()

    def step_loss(step: int) -> torch.Tensor:
        fresh = batch_of(rows(16, seed=100 + step))
        return target_loss(host, fresh, router.soft(fresh))

    fit(step_loss, [{"params": list(router.parameters()), "lr": 2e-2}], steps=120)
    assert before < 0.9
    assert right() == 1.0
    host.use(*NAMES)
    both = teacher_forced_exact_match(host, test)
    alone = [
        hit
        for i, name in enumerate(NAMES)
        for hit in teacher_forced_exact_match(
            host, test[i::2], routing=lambda b, index, n=name: b.routing(adapters=(n,))
        )
    ]
    routed = teacher_forced_exact_match(host, test, routing=router.hard)
    assert sum(alone) == sum(routed) >= 0.9 * len(test)
    assert sum(both) < len(test) / 2 + 1  # both at full strength: one answer at most is right


def test_weights_sum_to_one_and_hard_is_one_adapter_at_full_strength(host: AdapterHost) -> None:
    router = AdapterRouter(host.base, NAMES, generator=torch.Generator().manual_seed(1))
    batch = batch_of(rows(6))
    weights_BK = router(batch)
    torch.testing.assert_close(weights_BK.sum(1), torch.ones(6))
    with torch.no_grad():
        made = host(batch.input_ids_BT, batch.attention_mask_BT, routing=router.hard(batch)).logits
        for row, name in enumerate(router.choice(batch)):
            one = host(batch.input_ids_BT, routing=batch.routing(adapters=(name,))).logits
            torch.testing.assert_close(made[row], one[row], rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInputError, match="chooses among adapters; got 1"):
        AdapterRouter(host.base, ("a",), generator=torch.Generator())


def test_joint_training_lets_adapters_that_were_trained_apart_act_together(
    host: AdapterHost,
) -> None:
    """Both at full strength destroy each other's answers; trained together on both tasks, they do
    not."""
    test = rows(40, seed=9)
    host.use(*NAMES)
    host.train_only(*NAMES)
    before = teacher_forced_exact_match(host, test)

    def step_loss(step: int) -> torch.Tensor:
        fresh = batch_of(rows(16, seed=200 + step))
        return target_loss(host, fresh, fresh.routing())

    fit(step_loss, host.parameter_groups(2e-2), steps=60)
    after = teacher_forced_exact_match(host, test)
    assert sum(before) <= len(test) / 2
    assert sum(after) >= 0.9 * len(test)
