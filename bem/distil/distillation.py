"""A BEM as a static LoRA: the one delta that does best over given contexts, and what it loses.

First in closed form, a site at a time: the low-rank map nearest to the delta that the adapter
adds, in mean square over the tokens seen (`regression`). Then, where asked, gradient steps on the
outputs of the whole model; the better of the two is kept. A static LoRA can be merged; a BEM
that depends on its context cannot be one, and the report says how far it is. It knows no kind of
adapter but the LoRA that comes out.

Legend: B rows, T positions, I inputs, O outputs, N target positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bem.adapters.lora.layer import LoraLayer
from bem.context import RoutingContext
from bem.data import Batch, Encoded, pad, pad_id_of
from bem.distil.regression import LowRankMap, Moments, reduced_rank_regression
from bem.errors import InvalidInputError
from bem.evaluate import Routing, buckets, prompt_routing, target_logits
from bem.injection import AdapterHost
from bem.interfaces import AdapterLayer, Site
from bem.registry import make_config
from bem.training import fit

Objective = Literal["kl", "mse"]
"""Of the outputs: KL(adapter || LoRA) of the next token, or the mean square of their logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilReport:
    """How near the LoRA came. KL in nats a target token, of the adapter's next-token distribution
    against that of the other: KL(adapter || other)."""

    name: str
    """Of the LoRA on the host."""
    rank: int
    measured_on: Literal["held_out", "examples"]
    kl_before: float
    """Against the base: what there was to lose."""
    kl_closed_form: float
    """Against the LoRA in closed form."""
    kl_after: float
    """Against the LoRA that was kept: what is lost."""
    refined: bool
    """Whether the gradient steps were kept."""
    unexplained: dict[str, float]
    """By site: the share of the adapter's delta, in mean square over the examples' tokens, that the
    closed form leaves."""

    @property
    def lost(self) -> float:
        """`kl_after` as a share of `kl_before`; 0 where there was nothing to lose."""
        return self.kl_after / self.kl_before if self.kl_before > 0 else 0.0


def distil(
    host: AdapterHost,
    name: str,
    examples: Sequence[Encoded],
    *,
    into: str,
    rank: int,
    generator: torch.Generator,
    routing: Routing = prompt_routing,
    held_out: Sequence[Encoded] = (),
    held_out_routing: Routing | None = None,
    steps: int = 0,
    objective: Objective = "kl",
    batch_size: int = 16,
    lr: float = 1e-3,
    max_tokens: int = 4096,
    memory_mib: int = 2048,
) -> DistilReport:
    """Put a LoRA of `rank` on the host, under the name `into`, that does what `name` does.

    Args:
        examples: the contexts; all tokens shape the closed form, outputs count at targets.
        generator: draws the batches of the gradient steps.
        routing: the adapter's contexts; fixed side signals or strengths distil it as it is there.
        held_out: what the report's KL is measured on; empty: the examples themselves.
        held_out_routing: their contexts, where they differ from `routing`.
        steps: gradient steps on the outputs after the closed form; 0: none.
        max_tokens: of one batch without gradients.
        memory_mib: for the sums of the closed form; sites that do not fit take another pass.

    Raises:
        InvalidInputError: no example, or a name, rank or objective that cannot be.
    """
    if not examples:
        raise InvalidInputError("Distilling needs at least one example.")
    if objective not in ("kl", "mse"):
        raise InvalidInputError(f"Unknown objective '{objective}'. Known: kl, mse.")
    adapter = host[name]
    config = make_config(
        "lora", rank=rank, alpha=float(rank), targets=tuple(site.name for site in adapter.sites)
    )
    student = host.add(into, config, generator=generator)
    measured, measured_routing = examples, routing
    if held_out:
        measured, measured_routing = held_out, held_out_routing or routing
    with torch.no_grad():
        unexplained = {}
        found = _closed_form(host, name, examples, routing, rank, max_tokens, memory_mib)
        for site, layer in zip(student.sites, student.layers, strict=True):
            assert isinstance(layer, LoraLayer)
            best = found[site.name]
            layer.down_RI.copy_(best.down_RI)
            layer.up_OR.copy_(best.up_OR)
            unexplained[site.name] = best.residual / best.energy if best.energy else 0.0

    def kl(other: str | None, rows: Sequence[Encoded], contexts: Routing) -> float:
        return output_kl(host, name, other, rows, routing=contexts, max_tokens=max_tokens)

    closed = kl(into, measured, measured_routing)
    refined = False
    if steps:
        before = {key: value.clone() for key, value in student.state_dict().items()}
        start = kl(into, examples, routing)
        _refine(host, name, into, examples, routing, objective, generator, steps, batch_size, lr)
        refined = kl(into, examples, routing) < start
        if not refined:
            student.load_state_dict(before)
    return DistilReport(
        name=into,
        rank=rank,
        measured_on="held_out" if held_out else "examples",
        kl_before=kl(None, measured, measured_routing),
        kl_closed_form=closed,
        kl_after=kl(into, measured, measured_routing) if refined else closed,
        refined=refined,
        unexplained=unexplained,
    )


@torch.no_grad()
def output_kl(
    host: AdapterHost,
    name: str,
    other: str | None,
    examples: Sequence[Encoded],
    *,
    routing: Routing = prompt_routing,
    max_tokens: int = 4096,
) -> float:
    """Mean KL(name || other) of the next token over target positions, in nats; None: the base.

    `other` acts at strength 1, whatever the contexts say to `name`.
    """
    total, count = 0.0, 0
    for batch, index in _batches(host, examples, max_tokens):
        teacher_NV, student_NV = _both(host, batch, index, routing, name, other)
        total += float(_kl(teacher_NV, student_NV).sum())
        count += len(teacher_NV)
    return total / count


def _kl(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """KL by position (N), in double precision: near equality it is a difference of near equals."""
    log_p_NV = teacher_NV.double().log_softmax(-1)
    log_q_NV = student_NV.double().log_softmax(-1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def _both(
    host: AdapterHost,
    batch: Batch,
    index: Sequence[int],
    routing: Routing,
    name: str,
    other: str | None,
) -> tuple[Tensor, Tensor]:
    """Logits (N, V) of the adapter, without gradient, and of the other one."""
    with torch.no_grad():
        teacher_NV = target_logits(host, batch, _acting(routing(batch, index), name))
    context = batch.routing(adapters=() if other is None else (other,))
    return teacher_NV, target_logits(host, batch, context)


def _acting(context: RoutingContext, name: str) -> RoutingContext:
    context.adapters = (name,)
    return context


def _batches(
    host: AdapterHost, examples: Sequence[Encoded], max_tokens: int
) -> Iterator[tuple[Batch, list[int]]]:
    pad_id = pad_id_of(host.base.tokenizer)
    for index in buckets([e.length for e in examples], max_tokens):
        rows = [examples[i] for i in index]
        yield pad(rows, pad_id=pad_id, device=host.base.device), index


def _closed_form(
    host: AdapterHost,
    name: str,
    examples: Sequence[Encoded],
    routing: Routing,
    rank: int,
    max_tokens: int,
    memory_mib: int,
) -> dict[str, LowRankMap]:
    """The best map of each site, by its name."""
    found: dict[str, LowRankMap] = {}
    adapter = host[name]
    for chosen in _groups(adapter.sites, memory_mib):
        sums = {
            i: Moments(
                adapter.sites[i].in_features, adapter.sites[i].out_features, host.base.device
            )
            for i in chosen
        }
        for batch, index in _batches(host, examples, max_tokens):
            with _watching(adapter.layers, sums, batch.attention_mask_BT.bool()):
                host.hidden_states(
                    batch.input_ids_BT,
                    batch.attention_mask_BT,
                    routing=_acting(routing(batch, index), name),
                )
        for i, moments in sums.items():
            found[adapter.sites[i].name] = reduced_rank_regression(moments, rank)
    return found


def _groups(sites: Sequence[Site], memory_mib: int) -> list[list[int]]:
    """Indices of sites whose sums fit together; one that fits nowhere stands alone."""
    groups: list[list[int]] = []
    left = 0
    for i, site in enumerate(sites):
        size = Moments.size_bytes(site.in_features, site.out_features)
        if size > left or not groups:
            groups.append([])
            left = memory_mib * 2**20
        groups[-1].append(i)
        left -= size
    return groups


@contextmanager
def _watching(layers: nn.ModuleList, sums: dict[int, Moments], mask_BT: Tensor) -> Iterator[None]:
    """Add what goes into these layers, and what they add, to the sums of their sites."""

    def watch(moments: Moments) -> Callable[[nn.Module, tuple[Tensor, Tensor], Tensor], None]:
        def hook(layer: nn.Module, args: tuple[Tensor, Tensor], out_BTO: Tensor) -> None:
            x_BTI, y_BTO = args
            moments.add(x_BTI[mask_BT], (out_BTO - y_BTO)[mask_BT])

        return hook

    hooks = []
    for i, moments in sums.items():
        layer = layers[i]
        assert isinstance(layer, AdapterLayer)
        hooks.append(layer.register_forward_hook(watch(moments)))
    try:
        yield
    finally:
        for made in hooks:
            made.remove()


def _refine(
    host: AdapterHost,
    name: str,
    into: str,
    examples: Sequence[Encoded],
    routing: Routing,
    objective: Objective,
    generator: torch.Generator,
    steps: int,
    batch_size: int,
    lr: float,
) -> None:
    """Gradient steps on the LoRA; which parameters take gradients is as before afterwards."""
    flags = [(p, p.requires_grad) for p in host.adapters.parameters()]
    pad_id = pad_id_of(host.base.tokenizer)

    def step_loss(step: int) -> Tensor:
        index = torch.randint(len(examples), (batch_size,), generator=generator).tolist()
        batch = pad([examples[i] for i in index], pad_id=pad_id, device=host.base.device)
        teacher_NV, student_NV = _both(host, batch, index, routing, name, into)
        if objective == "mse":
            return nn.functional.mse_loss(student_NV.float(), teacher_NV.float())
        return nn.functional.kl_div(
            student_NV.float().log_softmax(-1),
            teacher_NV.float().log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )

    try:
        host.train_only(into)
        fit(step_loss, host.parameter_groups(lr), steps=steps)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
