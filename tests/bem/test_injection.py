from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bem import AdapterHost, BaseModel, RoutingContext, make_config
from bem.data import Encoded, pad
from bem.errors import InvalidInputError, RoutingError
from bem.evaluate import greedy_generate

IDS_BT = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
PREFIX_BT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)


@pytest.fixture
def host(llama: BaseModel) -> Iterator[AdapterHost]:
    made = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        made.add(name, make_config("lora", rank=2), generator=draw)
    made.add("seq", make_config("generated", rank=2, side_size=2), generator=draw)
    with torch.no_grad():
        for parameter in made.adapters.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    yield made
    made.detach()


def logits(host: AdapterHost, context: RoutingContext | None = None) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = host(IDS_BT, routing=context).logits
    return out


def test_use_selects_and_a_context_overrides(host: AdapterHost) -> None:
    base = logits(host)
    host.use("a")
    only_a = logits(host)
    host.use("a", "b")
    both = logits(host)
    assert not torch.equal(both, only_a)
    assert torch.equal(logits(host, RoutingContext(adapters=("a",))), only_a)
    assert torch.equal(logits(host, RoutingContext(adapters=())), base)
    assert torch.equal(logits(host), both)
    host.use(None)
    assert torch.equal(logits(host), base)
    with pytest.raises(InvalidInputError, match=r"'c'.*On this base: a, b, seq"):
        host.use("c")


def test_a_stack_at_one_site_is_the_sum_of_deltas(host: AdapterHost) -> None:
    host.use("a", "b")
    logits(host, RoutingContext(strength={"b": 0.5}))
    site = host["a"].sites[0]
    x_BTI = torch.randn(2, 3, site.in_features, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wrapped = host.model.get_submodule(site.name)
        expected = wrapped.base(x_BTI)
        for name, strength in (("a", 1.0), ("b", 0.5)):
            down_RI, up_OR = host[name].factors(0)
            expected = expected + strength * x_BTI @ (up_OR @ down_RI).T
        torch.testing.assert_close(wrapped(x_BTI), expected)


def test_one_host_a_base(llama: BaseModel) -> None:
    with AdapterHost(llama) as host:
        with pytest.raises(InvalidInputError, match="already carries an AdapterHost"):
            AdapterHost(llama)
        host.add("a", make_config("lora"), generator=torch.Generator().manual_seed(0))
        assert host.model.get_submodule(host["a"].sites[0].name) is not None
    with AdapterHost(llama) as second:
        host.detach()  # nothing twice: the second host stays
        with pytest.raises(InvalidInputError, match="is detached"):
            host(IDS_BT)
        assert llama.hosted
        second.add("a", make_config("lora"), generator=torch.Generator().manual_seed(0))
    assert not llama.hosted


def test_remove_and_names(host: AdapterHost) -> None:
    base = logits(host)
    host.use("a")
    host.remove("a")
    assert host.selected == ()
    assert torch.equal(logits(host), base)
    draw = torch.Generator().manual_seed(0)
    for bad in ("", "x.y", "b"):
        with pytest.raises(InvalidInputError, match="is empty, has a dot or is taken"):
            host.add(bad, make_config("lora"), generator=draw)


def test_train_only_names_parts_and_groups(host: AdapterHost) -> None:
    host.train_only("seq", part="controller")
    controller = host["seq"].controller_parameters()
    assert host.num_trainable() == sum(p.numel() for p in controller)
    assert [g["name"] for g in host.parameter_groups(1.0)] == ["controller"]
    host.train_only("seq")
    groups = {g["name"]: g for g in host.parameter_groups(1.0, controller_lr_scale=0.2)}
    assert groups["factors"]["lr"] == 1.0
    assert groups["controller"]["lr"] == 0.2
    assert {id(p) for p in groups["controller"]["params"]} == {id(p) for p in controller}
    both = sum(p.numel() for g in groups.values() for p in g["params"])
    assert both == host.num_trainable("seq")
    with pytest.raises(InvalidInputError, match="has no controller"):
        host.train_only("a", part="controller")
    with pytest.raises(InvalidInputError, match="Known: all, controller"):
        host.train_only("a", part="gate")


def test_flops_of_a_stack_add_up(host: AdapterHost) -> None:
    shape = {"batch": 2, "seq_len": 5}
    parts = [host[name].forward_flops(**shape) for name in ("a", "b")]
    assert host.forward_flops("a", "b", **shape) == host.base.forward_flops(**shape) + sum(parts)


def test_a_sequence_code_needs_its_prompt(host: AdapterHost) -> None:
    host.use("seq")
    side_BF = torch.zeros(2, 2)
    with pytest.raises(RoutingError, match=r"'seq' reads the prompt"):
        logits(host)
    with pytest.raises(RoutingError, match=r"shape \(2, 4\), the input \(2, 5\)"):
        logits(host, RoutingContext(prefix_mask_BT=PREFIX_BT[:, :4], side_BF=side_BF))
    with pytest.raises(RoutingError, match="expects side_BF with 2 features, got None"):
        logits(host, RoutingContext(prefix_mask_BT=PREFIX_BT))
    host.use()
    cache = host(IDS_BT, use_cache=True).past_key_values
    host.use("seq")
    with pytest.raises(RoutingError, match="decodes without its code"):
        host(IDS_BT[:, :1], routing=RoutingContext(), past_key_values=cache)


def test_codes_are_cached_replaced_mapped_and_recorded(host: AdapterHost) -> None:
    host.use("seq")
    side_BF = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    own = RoutingContext(prefix_mask_BT=PREFIX_BT, side_BF=side_BF, record=True)
    plain = logits(host, own)
    codes = own.cache["seq"]
    assert codes.shape == (2, len(host["seq"].sites), 2)
    assert torch.equal(own.trace["seq"][0], codes)
    given = RoutingContext(codes={"seq": codes})
    torch.testing.assert_close(logits(host, given), plain)
    swapped = RoutingContext(
        prefix_mask_BT=PREFIX_BT, side_BF=side_BF, code_map=lambda code: code.flip(0)
    )
    replaced = RoutingContext(codes={"seq": codes.flip(0)})
    assert not torch.allclose(logits(host, swapped), plain, atol=1e-3)
    torch.testing.assert_close(logits(host, swapped), logits(host, replaced))
    other_side = RoutingContext(prefix_mask_BT=PREFIX_BT, side_BF=side_BF.flip(0))
    assert not torch.allclose(logits(host, other_side), plain, atol=1e-3)


def test_strength_by_position_changes_only_what_follows(host: AdapterHost) -> None:
    base = logits(host)
    host.use("a")
    later_BT = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0, 1.0]])
    out = logits(host, RoutingContext(strength=later_BT))
    assert torch.equal(out[0, :2], base[0, :2])
    assert torch.equal(out[1, :1], base[1, :1])
    assert not torch.allclose(out[0, 2], base[0, 2], atol=1e-3)
    with pytest.raises(RoutingError, match="strength has shape"):
        logits(host, RoutingContext(strength=torch.ones(2, 5, 1)))


def test_strength_by_position_holds_its_last_column_while_decoding(host: AdapterHost) -> None:
    host.use("a")
    strength_BT = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]])
    full = host(IDS_BT[:1], routing=RoutingContext(strength=strength_BT)).logits
    context = RoutingContext(strength=strength_BT[:, :3])
    prefill = host(IDS_BT[:1, :3], routing=context, use_cache=True)
    cache = prefill.past_key_values
    steps = [
        host(IDS_BT[:1, t : t + 1], routing=context, past_key_values=cache).logits for t in (3, 4)
    ]
    torch.testing.assert_close(torch.cat([prefill.logits, *steps], 1), full, rtol=0, atol=2e-5)


def test_hugging_face_generate_greedy_and_with_beams(host: AdapterHost) -> None:
    """`generate` equals our own loop; a beam batch equals its rows alone."""
    host.use("seq", "a")
    draw = torch.Generator().manual_seed(3)
    prompts = torch.randint(3, 250, (3, 6), generator=draw)
    side_BF = torch.randn(3, 2, generator=draw)
    encoded = [
        Encoded(prompt_ids=tuple(row), target_ids=(2,), id=str(i), cluster="c")
        for i, row in enumerate(prompts.tolist())
    ]
    ours = greedy_generate(
        host,
        encoded,
        max_new_tokens=8,
        routing=lambda batch, index: batch.routing(side_BF=side_BF[list(index)]),
    )

    def theirs(rows: list[int], beams: int) -> list[list[int]]:
        context = RoutingContext(
            prefix_mask_BT=torch.ones(len(rows), 6, dtype=torch.bool), side_BF=side_BF[rows]
        ).take(torch.arange(len(rows)).repeat_interleave(beams))
        with host.routing(context), torch.no_grad():
            out = host.model.generate(
                prompts[rows],
                attention_mask=torch.ones(len(rows), 6, dtype=torch.long),
                max_new_tokens=8,
                num_beams=beams,
                do_sample=False,
            )
        made: list[list[int]] = out[:, 6:].tolist()
        return made

    for own, other in zip(ours, theirs([0, 1, 2], 1), strict=True):
        assert own == other[: len(own)]
    together = theirs([0, 1, 2], 2)
    for row in range(3):
        alone = theirs([row], 2)[0]
        assert together[row][: len(alone)] == alone


def test_take_selects_rows_of_everything() -> None:
    context = RoutingContext(
        prefix_mask_BT=PREFIX_BT,
        side_BF=torch.eye(2),
        strength={"a": torch.tensor([0.1, 0.9]), "b": 2.0},
        codes={"a": torch.tensor([[1.0], [2.0]])},
        cache={"b": torch.tensor([[3.0], [4.0]])},
    )
    taken = context.take(torch.tensor([1, 1, 0]))
    assert taken.side_BF is not None
    assert taken.side_BF.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert torch.equal(taken.strength_of("a"), torch.tensor([0.9, 0.9, 0.1]))
    assert taken.strength_of("b") == 2.0
    assert taken.codes["a"].tolist() == [[2], [2], [1]]
    assert taken.cache["b"].tolist() == [[4], [4], [3]]


def test_padding_never_reaches_a_code(host: AdapterHost) -> None:
    host.use("seq")
    rows = [
        Encoded(prompt_ids=(5, 6, 7), target_ids=(8, 2), id="0", cluster="c"),
        Encoded(prompt_ids=(5, 6, 7), target_ids=(9, 9, 9, 9, 2), id="1", cluster="c"),
    ]
    batch = pad(rows, pad_id=0)
    context = batch.routing(side_BF=torch.zeros(2, 2))
    host(batch.input_ids_BT, batch.attention_mask_BT, routing=context)
    codes = context.cache["seq"]
    torch.testing.assert_close(codes[0], codes[1])


def test_side_signals_by_adapter_name(host: AdapterHost) -> None:
    host.use("seq")
    side_BF = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    shared = logits(host, RoutingContext(prefix_mask_BT=PREFIX_BT, side_BF=side_BF))
    named = RoutingContext(prefix_mask_BT=PREFIX_BT, sides={"seq": side_BF})
    assert torch.equal(logits(host, named), shared)
    swapped = named.take(torch.tensor([1, 0])).sides["seq"]
    assert torch.equal(swapped, side_BF[[1, 0]])


def test_a_context_repeats_its_rows_for_beams() -> None:
    side_BF = torch.tensor([[1.0], [2.0]])
    context = RoutingContext(prefix_mask_BT=PREFIX_BT, sides={"seq": side_BF})
    context.repeat_to(4, torch.device("cpu"))
    assert context.sides["seq"].flatten().tolist() == [1.0, 1.0, 2.0, 2.0]
    assert context.prefix_mask_BT is not None
    assert torch.equal(context.prefix_mask_BT, PREFIX_BT[[0, 0, 1, 1]])
    with pytest.raises(RoutingError, match=r"has \[4\] rows, the batch 6"):
        context.repeat_to(6, torch.device("cpu"))


def test_remove_gives_linears_back_that_nobody_else_changes(llama: BaseModel) -> None:
    before = [type(module) for module in llama.model.modules()]
    host = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    host.add("a", make_config("lora", rank=2), generator=draw)
    host.add("b", make_config("lora", rank=2, targets="attention"), generator=draw)
    host.use("a", "b")
    logits(host)
    host.remove("a")
    wrapped = sum(type(module).__name__ == "AdaptedLinear" for module in llama.model.modules())
    assert wrapped == len(host["b"].sites)
    logits(host)
    host.remove("b")
    assert [type(module) for module in llama.model.modules()] == before
    logits(host)
    host.detach()
