"""How a router learns: the table of losses, the cross-entropy to its posterior, what it refuses."""

from __future__ import annotations

import pytest
import torch

from bem import AdapterHost, BaseModel, make_config
from bem.composition.router import AdapterRouter
from bem.composition.router_training import adapter_nlls, fit_router
from bem.data import Encoded, pad
from bem.errors import InvalidInputError
from bem.evaluate import target_loss, target_nll

NAMES = ("first", "second", "third")


def rows(count: int, seed: int = 0) -> list[Encoded]:
    """The first token says whose row it is; targets have one to three tokens."""
    draw = torch.Generator().manual_seed(seed)
    return [
        Encoded(
            prompt_ids=(
                10 + i % 3,
                *torch.randint(100, 250, (2 + i % 4,), generator=draw).tolist(),
            ),
            target_ids=tuple(torch.randint(30, 90, (1 + i % 3,), generator=draw).tolist()),
            id=str(i),
            cluster=NAMES[i % 3],
        )
        for i in range(count)
    ]


@pytest.fixture
def host(llama: BaseModel) -> AdapterHost:
    host, draw = AdapterHost(llama), torch.Generator().manual_seed(0)
    for name in NAMES:
        adapter = host.add(name, make_config("generated", rank=2), generator=draw)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    host.freeze()
    return host


def new_router(base: BaseModel, seed: int = 1) -> AdapterRouter:
    return AdapterRouter(base, NAMES, generator=torch.Generator().manual_seed(seed))


def planted(encoded: list[Encoded], gap: float) -> torch.Tensor:
    """Nats by adapter: the right one's are 1."""
    right_N = torch.tensor([NAMES.index(row.cluster) for row in encoded])
    return 1 + gap * (1 - torch.nn.functional.one_hot(right_N, len(NAMES)).float())


def right(router: AdapterRouter, encoded: list[Encoded]) -> float:
    batch = pad(encoded, pad_id=0, prompt_only=True)
    picked = router.choice(batch)
    return sum(p == c for p, c in zip(picked, batch.clusters, strict=True)) / len(picked)


def test_the_table_is_each_adapters_own_loss_row_by_row(host: AdapterHost) -> None:
    encoded = rows(7)
    nll_NK = adapter_nlls(host, NAMES, encoded, max_tokens=20)
    assert nll_NK.shape == (7, 3)
    for k, name in enumerate(NAMES):
        for i, row in enumerate(encoded):
            alone = pad([row], pad_id=0)
            mean = target_loss(host, alone, alone.routing(adapters=(name,)))
            assert float(nll_NK[i, k]) == pytest.approx(float(mean) * len(row.target_ids), rel=1e-4)
    base = target_nll(host, encoded, routing=lambda batch, index: batch.routing(adapters=()))
    assert base != pytest.approx(nll_NK[:, 0].tolist(), rel=1e-3)


def test_it_learns_planted_losses_and_never_runs_the_base(host: AdapterHost) -> None:
    encoded, router = rows(90), new_router(host.base)
    calls: list[int] = []
    hook = host.base.decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    fit_router(
        router,
        host,
        encoded,
        nll_NK=planted(encoded, 5.0),
        steps=150,
        generator=torch.Generator().manual_seed(2),
    )
    hook.remove()
    assert not calls
    assert right(router, rows(60, seed=9)) == 1.0


def test_a_router_that_has_decided_wrongly_comes_back(host: AdapterHost) -> None:
    """The loss through weights has no gradient there; this one has."""
    encoded, router = rows(90), new_router(host.base)
    with torch.no_grad():
        router.controller.heads_bias_N.copy_(torch.tensor([20.0, 0.0, 0.0]))
    weights_BK = router(pad(encoded, pad_id=0, prompt_only=True))
    expected = (weights_BK * planted(encoded, 5.0)).sum(-1).mean()
    (stuck,) = torch.autograd.grad(expected, [router.controller.heads_bias_N])
    assert float(stuck.abs().max()) < 1e-3
    fit_router(
        router,
        host,
        encoded,
        nll_NK=planted(encoded, 5.0),
        steps=400,
        lr=5e-2,
        generator=torch.Generator().manual_seed(2),
    )
    assert right(router, rows(60, seed=9)) == 1.0


def test_where_losses_do_not_tell_adapters_apart_its_weights_stay_equal(host: AdapterHost) -> None:
    encoded, router = rows(90), new_router(host.base)
    fit_router(
        router,
        host,
        encoded,
        nll_NK=planted(encoded, 0.0),
        steps=150,
        generator=torch.Generator().manual_seed(2),
    )
    weights_BK = router(pad(rows(30, seed=9), pad_id=0, prompt_only=True))
    torch.testing.assert_close(weights_BK, torch.full((30, 3), 1 / 3), atol=0.1, rtol=0)


def test_the_same_generator_gives_the_same_router(host: AdapterHost) -> None:
    encoded = rows(20)
    found = []
    for _ in range(2):
        router = new_router(host.base)
        fit_router(router, host, encoded, steps=5, generator=torch.Generator().manual_seed(2))
        found.append(router(pad(encoded, pad_id=0)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_noise_changes_what_is_trained_and_not_what_is_used(host: AdapterHost) -> None:
    router, batch = new_router(host.base), pad(rows(6), pad_id=0)
    draw = torch.Generator().manual_seed(2)
    assert not torch.equal(router.logits(batch, noise=1.0, generator=draw), router.logits(batch))
    torch.testing.assert_close(router(batch), router.logits(batch).softmax(-1))


@pytest.mark.parametrize(
    ("count", "table", "words"),
    [
        (0, None, "learns from examples; got none"),
        (4, torch.zeros(4, 2), r"shape \(4, 2\), expected \(4, 3\)"),
        (4, torch.full((4, 3), float("nan")), "with finite values"),
    ],
)
def test_what_it_refuses(
    host: AdapterHost, count: int, table: torch.Tensor | None, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        fit_router(
            new_router(host.base),
            host,
            rows(count),
            nll_NK=table,
            generator=torch.Generator().manual_seed(2),
        )
