"""A mixed batch equals each row alone: every layout, prefill, decode, gradients, other kinds.

Legend: B rows, T positions.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from bem import (
    AdapterHost,
    BaseModel,
    RoutingContext,
    adapter_class,
    adapter_kinds,
    make_config,
)
from bem.data import Encoded, pad
from bem.errors import InvalidInputError, RoutingError
from bem.evaluate import greedy_generate
from bem.mixed import BASE_ROW, SlowRowsWarning
from bem.mixed import forward as mixed_forward
from bem.mixed.products import choose_layout

KINDS = {
    "lora": ("lora", {}),
    "sequence": ("generated", {"code": "sequence", "side_size": 2}),
    "token": ("generated", {"code": "token"}),
}
RUNS = ("a", "a", "b", "b", "c", "c")
SCATTERED = ("b", BASE_ROW, "a", "c", "a", "b")
STRENGTHS = torch.tensor([1.0, 0.5, 0.3, 2.0, 0.0, 1.0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add(host: AdapterHost, name: str, kind: str, seed: int, **options: object) -> None:
    draw = generator(seed)
    adapter = host.add(name, make_config(kind, **options), generator=draw)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))


@pytest.fixture
def host(llama: BaseModel) -> Iterator[AdapterHost]:
    made = AdapterHost(llama)
    yield made
    made.detach()


def three(host: AdapterHost, label: str) -> None:
    kind, options = KINDS[label]
    for seed, name in enumerate("abc"):
        add(host, name, kind, seed, rank=3, alpha=6.0 + seed, **options)


def encoded(count: int = 6) -> list[Encoded]:
    draw = generator(7)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=draw).tolist())

    return [
        Encoded(prompt_ids=tokens(3 + i % 4), target_ids=tokens(3), id=str(i), cluster="c")
        for i in range(count)
    ]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


SIDE_BF = torch.randn(6, 2, generator=generator(3))


@torch.no_grad()
def each_row_alone(host: AdapterHost, names: Sequence[str], strength: Tensor) -> list[Tensor]:
    """The naive loop: one row, one adapter, one forward."""
    out = []
    for i, row in enumerate(encoded(len(names))):
        batch = pad([row], pad_id=0)
        host.use(None if names[i] == BASE_ROW else names[i])
        routing = batch.routing(strength=float(strength[i]), side_BF=SIDE_BF[i : i + 1])
        out.append(host(batch.input_ids_BT, routing=routing).logits[0])
    host.use()
    return out


@pytest.mark.parametrize("names", [RUNS, SCATTERED], ids=["runs", "scattered"])
@pytest.mark.parametrize("layout", ["dense", "gather", None])
@pytest.mark.parametrize("label", KINDS)
def test_a_forward_equals_each_row_alone(
    host: AdapterHost,
    monkeypatch: pytest.MonkeyPatch,
    label: str,
    layout: str | None,
    names: tuple[str, ...],
) -> None:
    if layout is not None:
        monkeypatch.setattr(mixed_forward, "choose_layout", lambda **_: layout)
    three(host, label)
    alone = each_row_alone(host, names, STRENGTHS)
    batch = pad(encoded(), pad_id=0)
    routing = batch.routing(rows=names, strength=STRENGTHS, side_BF=SIDE_BF)
    with torch.no_grad():
        mixed = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
        base = host(batch.input_ids_BT, batch.attention_mask_BT, routing=batch.routing()).logits
    for i, row in enumerate(alone):
        close(mixed[i, : len(row)], row)
    for i, name in enumerate(names):
        if name == BASE_ROW or STRENGTHS[i] == 0:
            assert torch.equal(mixed[i], base[i])
        else:
            assert not torch.allclose(mixed[i], base[i], atol=1e-3)


@pytest.mark.parametrize("names", [RUNS, SCATTERED], ids=["runs", "scattered"])
@pytest.mark.parametrize("label", KINDS)
def test_cached_decoding_equals_each_row_alone(
    host: AdapterHost, label: str, names: tuple[str, ...]
) -> None:
    three(host, label)
    rows = encoded()
    alone: list[Tensor] = []
    tokens_BT = torch.randint(3, 250, (6, 3), generator=generator(9))
    prompts_BT = torch.randint(3, 250, (6, 5), generator=generator(8))
    prefix_BT = torch.ones(6, 5, dtype=torch.bool)
    for pick in [range(i, i + 1) for i in range(6)] + [range(6)]:
        index = torch.tensor(list(pick))
        whole = len(index) == 6
        host.use(None if whole or names[pick[0]] == BASE_ROW else names[pick[0]])
        context = RoutingContext(
            prefix_mask_BT=prefix_BT[index],
            side_BF=SIDE_BF[index],
            strength=STRENGTHS[index],
            rows=names if whole else None,
        )
        cache = DynamicCache(config=host.model.config)
        with torch.no_grad():
            parts = [host(prompts_BT[index], routing=context, past_key_values=cache).logits]
            for t in range(3):
                step_BT = tokens_BT[index, t : t + 1]
                parts.append(host(step_BT, routing=context, past_key_values=cache).logits)
        alone.append(torch.cat(parts, dim=1))
    close(alone[-1], torch.cat(alone[:-1]))
    host.use()
    texts = greedy_generate(
        host,
        rows,
        max_new_tokens=4,
        routing=lambda batch, index: batch.routing(
            rows=tuple(names[i] for i in index), side_BF=SIDE_BF[list(index)]
        ),
    )
    for i, name in enumerate(names):
        host.use(None if name == BASE_ROW else name)
        single = greedy_generate(
            host,
            rows[i : i + 1],
            max_new_tokens=4,
            routing=lambda batch, index, i=i: batch.routing(side_BF=SIDE_BF[i : i + 1]),
        )
        assert texts[i] == single[0]


@pytest.mark.parametrize("names", [RUNS, SCATTERED], ids=["runs", "scattered"])
@pytest.mark.parametrize("layout", ["dense", "gather", None])
@pytest.mark.parametrize("label", KINDS)
def test_few_of_many_adapters_decode_as_each_row_alone(
    host: AdapterHost,
    monkeypatch: pytest.MonkeyPatch,
    label: str,
    layout: str | None,
    names: tuple[str, ...],
) -> None:
    """They are taken out of the stack of all; what they gather stays from step to step."""
    if layout is not None:
        monkeypatch.setattr(mixed_forward, "choose_layout", lambda **_: layout)
    kind, options = KINDS[label]
    for seed, name in enumerate("xaybc"):
        add(host, name, kind, seed, rank=3, alpha=6.0 + seed, **options)
    ids_BT = torch.randint(3, 250, (6, 9), generator=generator(8))
    made = []
    with torch.inference_mode():
        for rows in [slice(i, i + 1) for i in range(6)] + [slice(6)]:
            context = RoutingContext(
                prefix_mask_BT=torch.ones(6, 4, dtype=torch.bool)[rows],
                side_BF=SIDE_BF[rows],
                strength={"a": 0.5},
                rows=names[rows],
            )
            cache = DynamicCache(config=host.model.config)
            pieces = torch.split(ids_BT[rows], [4, 1, 1, 1, 1, 1], dim=1)
            parts = [host(p, routing=context, past_key_values=cache).logits for p in pieces]
            made.append(torch.cat(parts, dim=1))
    close(made[-1], torch.cat(made[:-1]))


def test_layouts() -> None:
    assert choose_layout(adapters=8, tokens=1, in_runs=False) == "dense"
    assert choose_layout(adapters=8, tokens=128, in_runs=False) == "gather"
    assert choose_layout(adapters=8, tokens=1, in_runs=True) == "blocks"


def slow_configs() -> list[object]:
    kinds = [k for k in adapter_kinds() if k not in ("lora", "lorahub")]
    return [config for kind in kinds for config in adapter_class(kind).examples()]


@pytest.mark.parametrize("config", slow_configs(), ids=lambda c: f"{c.kind}")
def test_every_kind_beside_others(host: AdapterHost, config: object) -> None:
    """Whatever kinds stand in one batch: prefill and a decode step, codes and gradients."""
    draw = generator(1)
    for name in ("expert_0", "expert_1"):
        add(host, name, "lora", 5, rank=2)
    adapter = host.add("tested", config, generator=draw)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    names = ("tested", "expert_0", BASE_ROW, "tested", "expert_1")
    ids_BT = torch.randint(3, 250, (5, 6), generator=generator(8))
    prefix_BT = (torch.arange(6) < 4).expand(5, -1)
    expected = []
    for i, name in enumerate(names):
        host.use(None if name == BASE_ROW else name)
        context = RoutingContext(prefix_mask_BT=prefix_BT[i : i + 1])
        with torch.no_grad():
            expected.append(host(ids_BT[i : i + 1], routing=context).logits)
    host.use()
    context = RoutingContext(prefix_mask_BT=prefix_BT, rows=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowRowsWarning)
        assert host(ids_BT, routing=context).logits.requires_grad
        with torch.no_grad():
            close(host(ids_BT, routing=context).logits, torch.cat(expected))
        cache = DynamicCache(config=host.model.config)
        context = RoutingContext(prefix_mask_BT=prefix_BT[:, :4], rows=names)
        with torch.no_grad():
            first = host(ids_BT[:, :4], routing=context, past_key_values=cache).logits
            second = host(ids_BT[:, 4:], routing=context, past_key_values=cache).logits
    close(torch.cat([first, second], 1), torch.cat(expected), 2e-5)


def test_rows_without_a_stacked_form_are_announced_once(host: AdapterHost) -> None:
    add(host, "a", "lora", 0, rank=2)
    add(host, "f", "film", 1)
    ids_BT = torch.randint(3, 250, (2, 4), generator=generator(8))
    prefix_BT = torch.ones(2, 4, dtype=torch.bool)

    def forward() -> Tensor:
        context = RoutingContext(prefix_mask_BT=prefix_BT, rows=("a", "f"))
        out: Tensor = host(ids_BT, routing=context).logits
        return out

    with pytest.warns(SlowRowsWarning, match=r"f \(film\)"):
        forward()
    forward()  # warnings are errors here


def test_changed_weights_are_seen(host: AdapterHost) -> None:
    """Stacks are kept between forwards, not over a change of what they hold."""
    three(host, "lora")
    batch = pad(encoded(), pad_id=0)
    host.freeze()

    def forward() -> Tensor:
        with torch.inference_mode():
            routing = batch.routing(rows=SCATTERED)
            out: Tensor = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
            return out.clone()

    before = forward()
    assert torch.equal(forward(), before)
    host["a"].scale_delta(0, 3.0)
    after = forward()
    changed = [not torch.equal(after[i], before[i]) for i in range(6)]
    assert changed == [name == "a" for name in SCATTERED]
    state = {key: value + 0.1 for key, value in host["b"].state_dict().items()}
    host["b"].load_state_dict(state, assign=True)
    third = forward()
    assert [not torch.equal(third[i], after[i]) for i in range(6)] == [
        name == "b" for name in SCATTERED
    ]


@pytest.mark.parametrize("alone", [False, True], ids=["mixed", "alone"])
@pytest.mark.parametrize("label", KINDS)
def test_a_fused_optimizer_step_is_seen(host: AdapterHost, label: str, alone: bool) -> None:
    """Torch counts it as no change of the parameters (`_version` stays)."""
    three(host, label)
    batch = pad(encoded(), pad_id=0)
    parameters = host["a"].trainable()
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=True)
    own = None if alone else SCATTERED

    def forward() -> Tensor:
        routing = batch.routing(rows=SCATTERED, side_BF=SIDE_BF)
        out: Tensor = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
        return out

    for _ in range(2):
        with torch.no_grad():
            before = forward()
        host.use("a")
        host.train_only("a")
        routing = batch.routing(rows=own, side_BF=SIDE_BF)
        logits = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
        logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            after = forward()
        expected = each_row_alone(host, SCATTERED, torch.ones(6))
        for i, row in enumerate(expected):
            close(after[i, : len(row)], row)
        assert not torch.equal(after, before)


def test_moved_weights_are_seen(host: AdapterHost) -> None:
    """`Module.to` changes neither the identity of a parameter nor its version."""
    three(host, "lora")
    batch = pad(encoded(), pad_id=0)

    def forward() -> Tensor:
        with torch.no_grad():
            routing = batch.routing(rows=SCATTERED)
            out: Tensor = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
            return out

    before = forward()
    host["b"].to(torch.bfloat16).to(torch.float32)  # rounded
    after = forward()
    assert [not torch.equal(after[i], before[i]) for i in range(6)] == [
        name == "b" for name in SCATTERED
    ]


@pytest.mark.parametrize("training", [False, True])
def test_replaced_layers_are_seen(host: AdapterHost, training: bool) -> None:
    three(host, "lora")
    batch = pad(encoded(), pad_id=0)

    def forward() -> Tensor:
        with torch.set_grad_enabled(training):
            routing = batch.routing(rows=RUNS)
            out: Tensor = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
            return out

    before = forward()
    layers = host["b"].layers
    layers[-1] = copy.deepcopy(layers[-1])
    with torch.no_grad():
        for parameter in layers[-1].parameters():
            parameter.mul_(2.0)
    after = forward()
    assert [not torch.equal(after[i], before[i]) for i in range(6)] == [n == "b" for n in RUNS]
    if training:
        after.square().sum().backward()
        assert all(parameter.grad is not None for parameter in layers[-1].parameters())


@pytest.mark.parametrize("label", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_each_row_alone(
    host: AdapterHost, label: str, checkpointing: bool
) -> None:
    three(host, label)
    batch = pad(encoded(), pad_id=0)
    if checkpointing:
        host.enable_gradient_checkpointing()
    for i, name in enumerate(SCATTERED):
        host.use(None if name == BASE_ROW else name)
        one = pad(encoded()[i : i + 1], pad_id=0)
        logits = host(one.input_ids_BT, routing=one.routing(side_BF=SIDE_BF[i : i + 1])).logits
        if logits.requires_grad:
            logits.square().sum().backward()
    alone = {n: p.grad.clone() for n, p in host.adapters.named_parameters() if p.grad is not None}
    host.adapters.zero_grad()
    routing = batch.routing(rows=SCATTERED, side_BF=SIDE_BF)
    logits = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
    host.use("a")
    other = batch.routing(side_BF=SIDE_BF)
    host(batch.input_ids_BT, batch.attention_mask_BT, routing=other)  # before the backward
    (logits.square() * batch.attention_mask_BT[..., None]).sum().backward()
    mixed = {n: p.grad for n, p in host.adapters.named_parameters() if p.grad is not None}
    assert alone.keys() == mixed.keys()
    for name, grad in alone.items():
        close(mixed[name], grad, 2e-5)


def test_beams_take_rows_along(host: AdapterHost) -> None:
    """`generate` with beams reorders the KV cache; each prompt's result is that of its own run."""
    add(host, "a", "generated", 0, rank=3, code="chunk", chunk_size=2)
    add(host, "b", "generated", 1, rank=3, code="sequence")
    ids_BT = torch.randint(3, 250, (2, 5), generator=generator(8))
    prefix_BT = torch.ones(2, 5, dtype=torch.bool)

    def beams(ids_BT: Tensor, context: RoutingContext) -> list[list[int]]:
        context.repeat_to(len(ids_BT) * 3, ids_BT.device)
        with host.routing(context):
            out = host.model.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                num_beams=3,
                do_sample=False,
                max_new_tokens=5,
            )
        made: list[list[int]] = out.tolist()
        return made

    with pytest.warns(SlowRowsWarning):
        mixed = beams(ids_BT, RoutingContext(prefix_mask_BT=prefix_BT, rows=("a", "b")))
    for i, name in enumerate("ab"):
        host.use(name)
        alone = beams(ids_BT[i : i + 1], RoutingContext(prefix_mask_BT=prefix_BT[i : i + 1]))
        width = len(alone[0])
        assert mixed[i][:width] == alone[0]


def test_autocast_and_a_bf16_base_stay_close(host: AdapterHost) -> None:
    three(host, "token")
    batch = pad(encoded(), pad_id=0)

    def forward() -> Tensor:
        with torch.no_grad():
            routing = batch.routing(rows=SCATTERED)
            out: Tensor = host(batch.input_ids_BT, batch.attention_mask_BT, routing=routing).logits
        return out.float()

    exact = forward()
    with torch.autocast("cpu", torch.bfloat16):
        rough = forward()
    assert 0 < float((rough - exact).abs().mean()) < 0.05 * float(exact.abs().mean())
    host.model.to(torch.bfloat16)
    try:
        for adapter in host.adapters.values():
            assert next(adapter.parameters()).dtype == torch.float32
        rough = forward()
    finally:
        host.model.to(torch.float32)
    assert 0 < float((rough - exact).abs().mean()) < 0.1 * float(exact.abs().mean())


def test_bad_rows(host: AdapterHost) -> None:
    three(host, "lora")
    ids_BT = torch.full((2, 3), 5)
    with pytest.raises(RoutingError, match="rows names 1 adapters, the batch has 2"):
        host(ids_BT, routing=RoutingContext(rows=("a",)))
    with pytest.raises(InvalidInputError, match=r"'z'.*On this base: a, b, c"):
        host(ids_BT, routing=RoutingContext(rows=("a", "z")))
    with pytest.raises(RoutingError, match="rows or adapters"):
        host(ids_BT, routing=RoutingContext(rows=("a", "b"), adapters=("a",)))
    with pytest.raises(RoutingError, match="code_map"):
        host(ids_BT, routing=RoutingContext(rows=("a", "b"), code_map=lambda c: c))


def prefill(host: AdapterHost, names: Sequence[object], mask_BT: Tensor) -> RoutingContext:
    """The context after it, with the codes."""
    ids_BT = torch.randint(3, 250, mask_BT.shape, generator=generator(8))
    context = RoutingContext(prefix_mask_BT=mask_BT, rows=tuple(names))  # type: ignore[arg-type]
    with torch.no_grad():
        host(ids_BT, routing=context)
    return context


def counted(host: AdapterHost, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a name for each controller that runs alone."""
    ran: list[str] = []
    for name in host.adapters:
        adapter, encode = host[name], host[name].encode
        monkeypatch.setattr(
            adapter, "encode", lambda *args, n=name, e=encode: (ran.append(n), e(*args))[1]
        )
    return ran


@pytest.mark.parametrize("pool", ["attention", "mean", "last"])
def test_controllers_of_a_prefill_run_as_one(
    host: AdapterHost, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    """The codes are those of each controller on its own rows; a change of a controller is seen."""
    for seed, name in enumerate("abc"):
        add(host, name, "generated", seed, rank=3, pool=pool, feature_layer=1)
    mask_BT = torch.arange(5) < torch.tensor([5, 3, 4, 1, 5, 2])[:, None]
    ran = counted(host, monkeypatch)
    for _ in range(2):
        split = prefill(host, SCATTERED, mask_BT).split
        assert split is not None
        assert not ran
        monkeypatch.setattr(mixed_forward.StackedRows, "encode", lambda *_: None)
        alone = prefill(host, SCATTERED, mask_BT).split
        monkeypatch.undo()
        ran = counted(host, monkeypatch)
        assert alone is not None
        for name, part in alone.parts.items():
            close(split.parts[name].context.cache[name], part.context.cache[name])
        with torch.no_grad():
            host["b"].get_parameter("controller.trunk_HD").mul_(1.5)


@pytest.mark.parametrize(
    "options",
    [{"side_size": 2}, {"uncertainty": True}, {"controller_width": 9}],
    ids=["side", "uncertainty", "width"],
)
def test_controllers_that_differ_or_read_more_run_alone(
    host: AdapterHost, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    add(host, "a", "generated", 0, rank=3)
    add(host, "b", "generated", 1, rank=3, **options)
    ran = counted(host, monkeypatch)
    context = RoutingContext(
        prefix_mask_BT=torch.ones(2, 4, dtype=torch.bool),
        rows=("a", "b"),
        sides={"b": SIDE_BF[:2]} if "side_size" in options else {},
    )
    with torch.no_grad():
        host(torch.full((2, 4), 9), routing=context)
    assert sorted(ran) == ["a", "b"]


def test_given_codes_are_used_and_rows_of_the_base_alone_are_fine(host: AdapterHost) -> None:
    three(host, "sequence")
    code_BSR = torch.ones(2, len(host["a"].sites), 3)
    context = RoutingContext(
        prefix_mask_BT=torch.ones(2, 4, dtype=torch.bool),
        rows=("a", "b"),
        codes={"a": code_BSR, "b": 2 * code_BSR},
        side_BF=SIDE_BF[:2],
    )
    with torch.no_grad():
        host(torch.full((2, 4), 9), routing=context)
    assert context.split is not None
    assert torch.equal(context.split.parts["b"].context.cache["b"], 2 * code_BSR[1:])
    base = prefill(host, (BASE_ROW, BASE_ROW), torch.ones(2, 4, dtype=torch.bool))
    assert base.split is not None
    assert not base.split.parts


def test_a_row_that_names_an_adapter_twice_has_it_once(host: AdapterHost) -> None:
    three(host, "lora")
    ids_BT = torch.full((2, 4), 9)
    with torch.no_grad():
        twice = host(ids_BT, routing=RoutingContext(rows=(("a", "a"), "b"))).logits
        once = host(ids_BT, routing=RoutingContext(rows=("a", "b"))).logits
    close(twice, once)
