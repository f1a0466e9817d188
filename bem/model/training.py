"""Training on labelled contexts: an adapter and the embeddings of its hints learn together.

The loop is `bem.training.fit`; this draws batches and tells each row its hints and mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from bem.context import RoutingContext
from bem.data import Batch, Encoded, Example, encode, pad, pad_id_of
from bem.errors import InvalidInputError
from bem.evaluate import Routing, target_loss
from bem.injection import AdapterHost
from bem.model.hints import HintTable
from bem.training import TrainResult, fit

Part = Literal["all", "controller", "labels"]
"""What learns: everything; what decides on the code, and the embeddings; the embeddings alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledExample:
    """A prompt, the text that should follow it, and the context that it was written in."""

    prompt: str
    target: str
    hints: Sequence[str] = ()
    mode: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.hints, str):
            raise InvalidInputError(f"hints is the text '{self.hints}'; give a tuple of names.")


def encode_labelled(examples: Sequence[LabelledExample], tokenizer: Any) -> list[Encoded]:
    """Token ids; the id of an example is its place."""
    if not examples:
        raise InvalidInputError("There is no example.")
    plain = [
        Example(prompt=e.prompt, target=e.target, id=str(i), cluster=str(i))
        for i, e in enumerate(examples)
    ]
    return encode(plain, tokenizer)


def fit_labelled(
    host: AdapterHost,
    names: Sequence[str],
    tables: Sequence[HintTable],
    rows: Sequence[Encoded],
    routing: Routing,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    controller_lr_scale: float,
    part: Part,
    generator: torch.Generator,
    bf16: bool,
    log: Callable[[int, dict[str, float]], None] | None,
    should_stop: Callable[[], bool] | None,
) -> TrainResult:
    """Minimise the loss of the targets over `steps` batches, drawn without replacement."""
    if batch_size < 1:
        raise InvalidInputError(f"batch_size is {batch_size}; give at least 1.")
    if part not in ("all", "controller", "labels"):
        raise InvalidInputError(f"Unknown part '{part}'. Known: all, controller, labels.")
    if part == "labels":
        host.freeze()
    else:
        host.train_only(*names, part=part)
    groups = [] if part == "labels" else host.parameter_groups(lr, controller_lr_scale)
    embeddings = [p for table in tables for p in table.parameters() if p.numel()]
    if embeddings:
        groups.append({"name": "labels", "lr": lr, "params": _learning(embeddings)})
    pad_id = pad_id_of(host.base.tokenizer)
    draws = batches(len(rows), batch_size, generator)

    def step_loss(step: int) -> torch.Tensor:
        index = next(draws)
        batch = pad([rows[i] for i in index], pad_id=pad_id, device=host.base.device)
        return target_loss(host, batch, acting(routing, names)(batch, index))

    return fit(step_loss, groups, steps=steps, bf16=bf16, log=log, should_stop=should_stop)


def acting(routing: Routing, names: Sequence[str]) -> Routing:
    """The same contexts, with just these adapters."""

    def named(batch: Batch, index: Sequence[int]) -> RoutingContext:
        context = routing(batch, index)
        context.adapters = tuple(names)
        return context

    return named


def batches(rows: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless: every row once, in a random order, then again in another one."""
    left: list[int] = []
    while True:
        while len(left) < min(size, rows):
            left += torch.randperm(rows, generator=generator).tolist()
        yield left[:size]
        left = left[size:]


def _learning(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    for parameter in parameters:
        parameter.requires_grad_(True)
    return list(parameters)
