from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from bem import AdapterHost, BaseModel, RoutingContext, make_config
from bem.adapters.generated import GeneratedAdapter
from bem.data import Batch, Encoded, Example, encode, pad, pad_id_of
from bem.distil import distil, output_kl
from bem.errors import InvalidInputError
from bem.evaluate import target_logits
from bem.merging import merged

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;:!?"


def rows(base: BaseModel, seed: int, count: int) -> list[Encoded]:
    """Random texts: every direction of the inputs is seen."""
    draw = torch.Generator().manual_seed(seed)

    def text(length: int) -> str:
        index = torch.randint(len(LETTERS), (length,), generator=draw)
        return "".join(LETTERS[i] for i in index)

    made = [
        Example(prompt=text(12 + i % 5), target=text(4), id=str(i), cluster="")
        for i in range(count)
    ]
    return encode(made, base.tokenizer)


@pytest.fixture
def host(llama: BaseModel) -> Iterator[AdapterHost]:
    made = AdapterHost(llama)
    draw = torch.Generator().manual_seed(0)
    made.add("bem", make_config("generated", rank=3), generator=draw)
    with torch.no_grad():
        for parameter in made["bem"].parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=draw))
    yield made
    made.detach()


def test_a_constant_code_is_recovered(host: AdapterHost) -> None:
    adapter = host["bem"]
    assert isinstance(adapter, GeneratedAdapter)
    controller = adapter.controller
    with torch.no_grad():
        controller.heads_NH.zero_()
        controller.heads_bias_N.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(3))
    train, test = rows(host.base, 0, 80), rows(host.base, 1, 20)
    draw = torch.Generator().manual_seed(0)
    report = distil(host, "bem", train, into="flat", rank=3, generator=draw, held_out=test)
    assert report.kl_before > 1e-2
    assert report.kl_after < 1e-8
    assert max(report.unexplained.values()) < 1e-8
    batch = pad(test, pad_id=pad_id_of(host.base.tokenizer))
    with torch.no_grad():
        bem_NV = target_logits(host, batch, batch.routing(adapters=("bem",)))
        flat_NV = target_logits(host, batch, batch.routing(adapters=("flat",)))
        with merged(host, "flat"):
            merged_NV = target_logits(host, batch, batch.routing(adapters=()))
    scale = float(bem_NV.abs().max())
    assert float((bem_NV - flat_NV).abs().max()) < 1e-4 * scale
    assert float((bem_NV - merged_NV).abs().max()) < 1e-4 * scale
    for index, code_R in enumerate(controller.heads_bias_N.view(-1, 3)):
        down_RI, up_OR = host["bem"].coded_factors(index, code_R.detach())
        flat_down_RI, flat_up_OR = host["flat"].factors(index)
        delta_OI = up_OR @ down_RI
        error = torch.linalg.matrix_norm(flat_up_OR @ flat_down_RI - delta_OI)
        assert float(error / torch.linalg.matrix_norm(delta_OI)) < 1e-3


def test_what_depends_on_the_context_is_lost_and_told(host: AdapterHost) -> None:
    train, test = rows(host.base, 0, 60), rows(host.base, 1, 20)
    draw = torch.Generator().manual_seed(0)
    flags = {name: p.requires_grad for name, p in host.adapters.named_parameters()}
    report = distil(
        host, "bem", train, into="flat", rank=3, generator=draw, held_out=test, steps=30
    )
    assert 1e-4 < report.kl_after < report.kl_before
    assert report.lost == report.kl_after / report.kl_before
    assert min(report.unexplained.values()) > 1e-3
    assert report.measured_on == "held_out"
    assert host.selected == ()
    assert {n: p.requires_grad for n, p in host.adapters.named_parameters() if n in flags} == flags
    batch = pad(test, pad_id=pad_id_of(host.base.tokenizer))
    with torch.no_grad():
        log_p = target_logits(host, batch, batch.routing(adapters=("bem",))).log_softmax(-1)
        log_q = target_logits(host, batch, batch.routing(adapters=("flat",))).log_softmax(-1)
    naive = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    assert report.kl_after == pytest.approx(float(naive), rel=1e-3)


def test_one_context_of_many_can_be_distilled(host: AdapterHost) -> None:
    """A code that is held fixed makes the adapter static, at any strength."""
    train = rows(host.base, 0, 80)
    sites = len(host["bem"].sites)
    code_SR = torch.randn(sites, 3, generator=torch.Generator().manual_seed(5))

    def fixed(batch: Batch, index: Sequence[int]) -> RoutingContext:
        codes = {"bem": code_SR.expand(len(index), -1, -1)}
        return batch.routing(codes=codes, strength=0.5)

    draw = torch.Generator().manual_seed(0)
    report = distil(
        host, "bem", train, into="flat", rank=3, generator=draw, routing=fixed, memory_mib=0
    )
    assert report.kl_after < 1e-8 < 1e-3 < report.kl_before
    assert output_kl(host, "bem", "flat", train) > 1e-3


def test_too_small_a_rank_loses_and_steps_are_kept_only_if_better(host: AdapterHost) -> None:
    train = rows(host.base, 0, 60)

    def fixed(batch: Batch, index: Sequence[int]) -> RoutingContext:
        codes = {"bem": torch.ones(len(index), len(host["bem"].sites), 3)}
        return batch.routing(codes=codes)

    def at(rank: int, **fields: object) -> float:
        draw = torch.Generator().manual_seed(0)
        report = distil(
            host,
            "bem",
            train,
            into=f"rank{len(host.adapters)}",
            rank=rank,
            generator=draw,
            routing=fixed,
            **fields,  # type: ignore[arg-type]
        )
        assert report.kl_after <= report.kl_closed_form
        assert report.refined == (report.kl_after < report.kl_closed_form)
        return report.kl_after

    closed = {rank: at(rank) for rank in (1, 2, 3)}
    assert closed[3] < closed[2] < closed[1]
    assert at(1, steps=30, lr=3e-3) < closed[1]
    assert at(1, steps=30, lr=3e-3, objective="mse") < closed[1]
    assert at(3, steps=5, lr=1.0) == closed[3]


def test_what_cannot_be_distilled(host: AdapterHost) -> None:
    draw = torch.Generator()
    with pytest.raises(InvalidInputError, match="at least one example"):
        distil(host, "bem", [], into="flat", rank=2, generator=draw)
    train = rows(host.base, 0, 1)
    with pytest.raises(InvalidInputError, match="Unknown adapter name 'nope'"):
        distil(host, "nope", train, into="flat", rank=2, generator=draw)
    with pytest.raises(InvalidInputError, match="field 'rank' is 0"):
        distil(host, "bem", train, into="flat", rank=0, generator=draw)
    with pytest.raises(InvalidInputError, match="is taken"):
        distil(host, "bem", train, into="bem", rank=2, generator=draw)
    with pytest.raises(InvalidInputError, match="Known: kl, mse"):
        distil(host, "bem", train, into="f", rank=2, generator=draw, objective="l1")  # type: ignore[arg-type]
