"""Legend: B rows, T positions, D hidden size, S sites, R rank, K chunks, N codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from bem import AdapterHost, BaseModel, RoutingContext, load_base, make_config
from bem.adapters.generated import GeneratedAdapter
from bem.adapters.generated.naive import chunk_codes
from bem.data import Encoded
from bem.errors import InvalidInputError, RoutingError
from bem.evaluate import assert_agreement, greedy_generate
from bem.forward.streams import CodesBySite
from bem.routing.chunks import ChunkController


def chunked(host: AdapterHost, **fields: object) -> GeneratedAdapter:
    draw = torch.Generator().manual_seed(3)
    config = make_config("generated", **{"rank": 2, "code": "chunk", "chunk_size": 3, **fields})
    adapter = host.add("chunked", config, generator=draw)
    assert isinstance(adapter, GeneratedAdapter)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    host.use("chunked")
    return adapter


@torch.no_grad()
@pytest.mark.parametrize("decay", [0.0, 0.7])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_codes_equal_a_loop_over_past_chunks(llama: BaseModel, size: int, decay: float) -> None:
    adapter = chunked(AdapterHost(llama), chunk_size=size, chunk_decay=decay)
    h_BTD = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(0))
    valid_BT = torch.ones(2, 11, dtype=torch.bool)
    by_site = CodesBySite(adapter.advance(h_BTD, valid_BT, None))
    assert len(by_site[:2]) == 2
    fast_BTSR = torch.stack(list(by_site), dim=2)
    for row in range(2):
        slow_TSR = chunk_codes(adapter, h_BTD[row])
        torch.testing.assert_close(fast_BTSR[row], slow_TSR, rtol=1e-5, atol=1e-5)
    assert bool((fast_BTSR[:, :size] == 1).all())


@torch.no_grad()
def test_padding_anywhere_moves_nothing() -> None:
    """Codes at real tokens and the state are those of the row without its holes."""
    controller = ChunkController(
        hidden_size=4,
        width=3,
        code_size=2,
        chunk_size=2,
        decay=0.5,
        head_spread=6.0,
        generator=torch.Generator().manual_seed(0),
    )
    h_1TD = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(1))
    valid_1T = torch.tensor([[False, False, True, True, False, True, True, True, False]])

    def codes(h: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        codes_BKN, chunk_BT, state = controller(h, valid, None)
        return codes_BKN[0, chunk_BT[0]], state

    dense_TN, dense_state = codes(h_1TD[:, valid_1T[0]], torch.ones(1, 5, dtype=torch.bool))
    holes_TN, holes_state = codes(h_1TD, valid_1T)
    torch.testing.assert_close(holes_TN[valid_1T[0]], dense_TN)
    for key, tensor in dense_state.items():
        torch.testing.assert_close(holes_state[key], tensor)


@torch.no_grad()
def test_a_hierarchy_decodes_to_rounding_error_in_double_precision(llama_folder: Path) -> None:
    """The gap between full and cached forwards is rounding and nothing else: 1e-13 in float64."""
    host = AdapterHost(load_base(llama_folder, dtype=torch.float64))
    chunked(host, code="hierarchy", chunk_decay=0.5, feature_layer=1)
    host.adapters.double()
    ids_BT = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(0))
    prefix_BT = (torch.arange(12) < 4).expand(2, -1)
    full = host(ids_BT, routing=RoutingContext(prefix_mask_BT=prefix_BT)).logits
    cache, context = (
        DynamicCache(config=host.model.config),
        RoutingContext(prefix_mask_BT=prefix_BT[:, :4]),
    )
    parts = [
        host(ids_BT[:, a:b], routing=context, past_key_values=cache).logits
        for a, b in [(0, 4), (4, 9), (9, 10), (10, 12)]
    ]
    assert float((torch.cat(parts, dim=1) - full).abs().max()) < 1e-13
    assert context.streams["chunked"].positions == 12


def test_generation_of_padded_rows_agrees_with_teacher_forcing(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    chunked(host, code="hierarchy", chunk_size=2)
    rows = [
        Encoded(prompt_ids=tuple(range(10, 10 + n)), target_ids=(5,), id=str(n), cluster="c")
        for n in (2, 3, 7)
    ]
    tokens = greedy_generate(host, rows, max_new_tokens=6)
    found = [
        Encoded(prompt_ids=r.prompt_ids, target_ids=tuple(t), id=r.id, cluster="c")
        for r, t in zip(rows, tokens, strict=True)
    ]
    assert_agreement(host, found, [True] * 3)


@torch.no_grad()
def test_a_beam_reorders_the_stream_with_its_cache(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    chunked(host, chunk_size=2)
    ids_BT = torch.randint(3, 250, (3, 7), generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 0])
    cache, context = DynamicCache(config=host.model.config), RoutingContext()
    host(ids_BT[:, :5], routing=context, past_key_values=cache)
    cache.reorder_cache(order)
    step = host(ids_BT[:, 5:], routing=context, past_key_values=cache).logits
    moved_BT = torch.cat([ids_BT[order, :5], ids_BT[:, 5:]], dim=1)
    full = host(moved_BT, routing=RoutingContext()).logits
    torch.testing.assert_close(step, full[:, 5:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hugging_face_beam_search_scores_what_the_full_forward_scores(llama: BaseModel) -> None:
    """Each beam's score is the sum of log-probabilities under one full forward of its tokens."""
    host = AdapterHost(llama)
    chunked(host, code="hierarchy", chunk_size=2, alpha=16.0)
    ids_BT = torch.randint(3, 250, (2, 5), generator=torch.Generator().manual_seed(0))
    beams, new = 4, 6
    prefix_BT = torch.ones(2, 5, dtype=torch.bool)
    rows = torch.arange(2).repeat_interleave(beams)
    with host.routing(RoutingContext(prefix_mask_BT=prefix_BT).take(rows)):
        out = llama.model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            max_new_tokens=new,
            min_new_tokens=new,
            return_dict_in_generate=True,
            output_scores=True,
        )
    assert any(row != sorted(row) for row in out.beam_indices.tolist())
    full_BT = torch.ones_like(out.sequences, dtype=torch.bool)
    full_BT[:, 5:] = False
    logits = host(out.sequences, routing=RoutingContext(prefix_mask_BT=full_BT)).logits
    logp = logits[:, 4:-1].log_softmax(-1).gather(-1, out.sequences[:, 5:, None]).sum((1, 2))
    torch.testing.assert_close(out.sequences_scores, logp / new, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_does_not_fit_is_refused(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    chunked(host)
    ids_BT = torch.randint(3, 250, (1, 6), generator=torch.Generator().manual_seed(0))
    with pytest.raises(RoutingError, match="keeps their state"):
        host(ids_BT)
    cache, context = DynamicCache(config=host.model.config), RoutingContext()
    host(ids_BT, routing=context, past_key_values=cache)
    with pytest.raises(RoutingError, match="seen 0 positions, the KV cache holds 6"):
        host(ids_BT[:, :1], routing=RoutingContext(), past_key_values=cache)
    host(ids_BT[:, :1], routing=context, past_key_values=cache)
    cache.crop(-3)
    with pytest.raises(RoutingError, match="seen 7 positions, the KV cache holds 4"):
        host(ids_BT[:, :1], routing=context, past_key_values=cache)
    with pytest.raises(RoutingError, match="counts real tokens"):
        host(ids_BT, torch.ones(1, 1, 6, 6), routing=RoutingContext())
    with pytest.raises(InvalidInputError, match="uncertainty needs a sequence code"):
        make_config("generated", code="token", uncertainty=True)


@torch.no_grad()
def test_given_codes_replace_chunk_codes_and_a_record_names_sites(llama: BaseModel) -> None:
    host = AdapterHost(llama)
    adapter = chunked(host)
    ids_BT = torch.randint(3, 250, (2, 6), generator=torch.Generator().manual_seed(0))
    neutral = torch.ones(2, len(adapter.sites), 2)
    context = RoutingContext(record=True)
    own = host(ids_BT, routing=context).logits
    given = host(ids_BT, routing=RoutingContext(codes={"chunked": neutral})).logits
    assert torch.equal(own[:, :3], given[:, :3])
    assert not torch.allclose(own[:, 3:], given[:, 3:], atol=1e-3)
    assert torch.equal(host(ids_BT, routing=RoutingContext()).logits, own)
    assert sorted(context.site_codes["chunked"]) == list(range(len(adapter.sites)))
    assert context.site_codes["chunked"][0].shape == (2, 6, 2)


@torch.no_grad()
@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_a_step_of_one_token_is_a_step_of_many(decay: float) -> None:
    """Code and state of one token, valid or not, are those that the general way gives; the code is
    the very same tensor until a row's chunk closes."""
    controller = ChunkController(
        hidden_size=4,
        width=3,
        code_size=2,
        chunk_size=3,
        decay=decay,
        head_spread=6.0,
        generator=torch.Generator().manual_seed(0),
    )
    h_BTD = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(1))
    valid_BT = torch.rand(2, 12, generator=torch.Generator().manual_seed(2)) < 0.7
    _, _, past = controller(h_BTD[:, :2], valid_BT[:, :2], None)
    same = 0
    for t in range(2, 12):
        h_B1D, valid_B1 = h_BTD[:, t : t + 1], valid_BT[:, t : t + 1]
        with torch.enable_grad():
            slow, slow_chunk_B1, slow_state = controller(h_B1D, valid_B1, past)
        fast, fast_chunk_B1, fast_state = controller(h_B1D, valid_B1, past)
        rows = torch.arange(2)
        torch.testing.assert_close(
            fast[rows, fast_chunk_B1[:, 0]], slow[rows, slow_chunk_B1[:, 0]].detach()
        )
        for key, tensor in slow_state.items():
            torch.testing.assert_close(fast_state[key], tensor)
        closes = bool((past["count"] + valid_B1[:, 0] == 3).any())
        assert (fast_state["code"] is past["code"]) is not closes
        same += not closes
        past = fast_state
    assert 0 < same < 10


@torch.no_grad()
def test_two_conversations_in_turn_do_not_share_what_stays(llama: BaseModel) -> None:
    """Codes and products that stay over decode steps belong to one context."""
    host = AdapterHost(llama)
    chunked(host, code="hierarchy", chunk_decay=0.5)
    ids_BT = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(0))

    def begin(row: int) -> tuple[RoutingContext, DynamicCache]:
        context = RoutingContext(prefix_mask_BT=torch.ones(1, 4, dtype=torch.bool))
        cache = DynamicCache(config=host.model.config)
        host(ids_BT[row : row + 1, :4], routing=context, past_key_values=cache)
        return context, cache

    def step(row: int, at: int, context: RoutingContext, cache: DynamicCache) -> Tensor:
        token_11 = ids_BT[row : row + 1, at : at + 1]
        made: Tensor = host(token_11, routing=context, past_key_values=cache).logits
        return made

    alone = []
    for row in range(2):
        conversation = begin(row)
        alone.append([step(row, at, *conversation) for at in range(4, 12)])
    both = [begin(0), begin(1)]
    for at in range(4, 12):
        for row in range(2):
            assert torch.equal(step(row, at, *both[row]), alone[row][at - 4])
