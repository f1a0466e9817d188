"""Packed training against separate training: gradients, trained weights, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bem import AdapterHost, load_base, make_config
from bem.data import Encoded, pad
from bem.errors import InvalidInputError, NonFiniteLossError
from bem.evaluate import target_loss
from bem.interfaces import AdapterConfig
from bem.packing import fit_packed, pack, packed_losses, packing_pays
from bem.training import fit

LORAS = [make_config("lora", rank=3)] * 3
SEQUENCES = [make_config("generated", rank=3)] * 3
TOKENS = [make_config("generated", rank=3, code="token")] * 3
ARMS = [make_config("lora", rank=4), make_config("generated", rank=2), make_config("lora", rank=4)]
BALANCED = [
    make_config("banked", rank=1, experts=3, router="token", balance_weight=0.1),
    make_config("lora", rank=2),
    make_config("adalora", rank=2, total_steps=6, warmup_steps=1, final_steps=2),
]
PACKS = {"lora": LORAS, "sequence": SEQUENCES, "token": TOKENS, "arms": ARMS}
NAMES = ("x", "y", "z")
LRS = (3e-3, 1e-2, 1e-3)
STEPS = 6


def host_with(folder: Path, configs: list[AdapterConfig]) -> AdapterHost:
    host = AdapterHost(load_base(folder))
    for seed, (name, config) in enumerate(zip(NAMES, configs, strict=True)):
        draw = torch.Generator().manual_seed(seed)
        adapter = host.add(name, config, generator=draw)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return host


def rows(name: str, step: int, count: int = 3) -> list[Encoded]:
    draw = torch.Generator().manual_seed(1000 * NAMES.index(name) + step)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=draw).tolist())

    return [
        Encoded(prompt_ids=tokens(3 + i), target_ids=tokens(2 + i % 2), id=str(i), cluster="c")
        for i in range(count)
    ]


def flat(host: AdapterHost, name: str) -> Tensor:
    return torch.cat([p.detach().flatten() for p in host[name].parameters()])


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize("label", PACKS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_separate_forwards(
    llama_folder: Path, label: str, checkpointing: bool
) -> None:
    """In double precision: the same sums, not only near ones."""
    gradients = []
    for packed in (False, True):
        host = host_with(llama_folder, PACKS[label]).double()
        if checkpointing:
            host.enable_gradient_checkpointing()
        if packed:
            counts = {"x": 3, "y": 1, "z": 3} if label == "arms" else dict.fromkeys(NAMES, 3)
            both = pack({n: rows(n, 0, counts[n]) for n in NAMES}, pad_id=0)
            for _ in range(2):  # which linears read one tensor is known from the second on
                host.adapters.zero_grad()
                losses = packed_losses(host, both)
                assert losses.keys() == set(NAMES)
                torch.stack(list(losses.values())).sum().backward()
        else:
            for name in NAMES:
                host.use(name)
                count = 1 if label == "arms" and name == "y" else 3
                batch = pad(rows(name, 0, count), pad_id=0)
                target_loss(host, batch, batch.routing()).backward()
        gradients.append({n: p.grad for n, p in host.adapters.named_parameters()})
    alone, together = gradients
    for name, grad in alone.items():
        assert grad is not None
        made = together[name]
        assert made is not None
        close(made, grad, 1e-10)


@pytest.mark.parametrize(
    "configs", [LORAS, SEQUENCES, BALANCED], ids=["lora", "sequence", "balanced"]
)
@pytest.mark.filterwarnings("ignore::bem.mixed.SlowRowsWarning")
def test_a_run_in_a_pack_is_the_run_alone(llama_folder: Path, configs: list[AdapterConfig]) -> None:
    """Each with its own rate, clipping, auxiliary losses and rank allocation."""
    alone = host_with(llama_folder, configs)
    together = host_with(llama_folder, configs)
    separate = {}
    for name, lr in zip(NAMES, LRS, strict=True):
        alone.use(name)
        alone.train_only(name)

        def step_loss(step: int, name: str = name) -> Tensor:
            batch = pad(rows(name, step), pad_id=0)
            return target_loss(alone, batch, batch.routing())

        separate[name] = fit(step_loss, alone.parameter_groups(lr), steps=STEPS, clip=0.05)
    together.train_only(*NAMES)
    seen: list[int] = []
    results = fit_packed(
        lambda step: packed_losses(together, pack({n: rows(n, step) for n in NAMES}, pad_id=0)),
        {
            name: together.parameter_groups(lr, names=(name,))
            for name, lr in zip(NAMES, LRS, strict=True)
        },
        steps=STEPS,
        clip=0.05,
        log=lambda step, figures: seen.append(len(figures)),
        log_every=1,
    )
    assert seen == [3] * STEPS
    for name in NAMES:
        assert results[name].losses == pytest.approx(separate[name].losses, rel=1e-5)
        close(flat(together, name), flat(alone, name), 1e-4)  # Adam enlarges small differences


def test_errors(llama_folder: Path) -> None:
    host = host_with(llama_folder, LORAS)
    with pytest.raises(InvalidInputError, match="No rows for y"):
        pack({"x": rows("x", 0), "y": []}, pad_id=0)
    groups = {name: host.parameter_groups(1e-3, names=(name,)) for name in NAMES}
    with pytest.raises(InvalidInputError, match="'x' and 'again' train the same"):
        fit_packed(lambda _: {}, {**groups, "again": groups["x"]}, steps=1)
    with pytest.raises(InvalidInputError, match="losses of x; the pack is x, y, z"):
        fit_packed(lambda _: {"x": torch.zeros(())}, groups, steps=1)
    with torch.no_grad():
        next(host["y"].parameters()).fill_(float("nan"))
    both = pack({name: rows(name, 0) for name in NAMES}, pad_id=0)
    losses = packed_losses(host, both)
    assert [bool(losses[n].isfinite()) for n in NAMES] == [True, False, True]
    with pytest.raises(NonFiniteLossError, match="run 'y' at step 0"):
        fit_packed(lambda _: packed_losses(host, both), groups, steps=2)


def test_stop(llama_folder: Path) -> None:
    host = host_with(llama_folder, LORAS)
    both = pack({name: rows(name, 0) for name in NAMES}, pad_id=0)
    stops = iter([False, False, True])
    results = fit_packed(
        lambda _: packed_losses(host, both),
        {name: host.parameter_groups(1e-3, names=(name,)) for name in NAMES},
        steps=5,
        should_stop=lambda: next(stops),
    )
    assert [(r.steps, r.stopped) for r in results.values()] == [(2, True)] * 3


@pytest.mark.parametrize(
    ("runs", "rows", "tokens", "hidden_size", "pays"),
    [
        (5, 1, 128, 192, True),
        (5, 4, 128, 128, True),
        (5, 4, 129, 128, False),
        (5, 16, 128, 128, False),
        (1, 1, 32, 128, False),
    ],
)
def test_the_rule_follows_the_recorded_benchmark(
    runs: int, rows: int, tokens: int, hidden_size: int, pays: bool
) -> None:
    shape = {"runs": runs, "rows": rows, "tokens": tokens, "hidden_size": hidden_size}
    assert packing_pays(**shape, device="cpu") == pays
    with pytest.raises(InvalidInputError, match="'cpu' only, not on 'cuda'"):
        packing_pays(**shape, device="cuda")
