"""How a router learns: from what each adapter, alone, makes of the same answers.

    L_k  = -log p(target | prompt, adapter k alone)     `adapter_nlls`, once, without gradient
    q    = softmax(-L)                                  whose the answer is, all alike before it
    loss = - sum_k q_k log w_k                          `fit_router`

No row says whose it is. q is the responsibility of experts in a mixture of experts (Jacobs, Jordan,
Nowlan, Hinton 1991, "Adaptive mixtures of local experts") under equal priors. The base runs forward
only, K times a row and never again, whatever the steps; a router step costs milliseconds.

What it replaces, the task's loss through weighed adapters, has no gradient left where the weights
have decided, rightly or not: two of five routers stayed half-trained. The expected loss
sum_k w_k L_k has the same fault. It knows neither benchmarks nor what the adapters can do.

Legend: N examples, K adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bem.composition.router import AdapterRouter
from bem.data import Encoded, pad, pad_id_of
from bem.errors import InvalidInputError
from bem.evaluate import target_nll
from bem.injection import AdapterHost
from bem.training import TrainResult, fit


def adapter_nlls(
    host: AdapterHost, names: Sequence[str], encoded: Sequence[Encoded], *, max_tokens: int = 4096
) -> Tensor:
    """L (N, K): nats of each example's target under each adapter alone."""
    columns = [
        target_nll(
            host,
            encoded,
            routing=lambda batch, index, name=name: batch.routing(adapters=(name,)),  # type: ignore[misc]
            max_tokens=max_tokens,
        )
        for name in names
    ]
    return torch.tensor(columns).T.contiguous()


def fit_router(
    router: AdapterRouter,
    host: AdapterHost,
    encoded: Sequence[Encoded],
    *,
    nll_NK: Tensor | None = None,
    steps: int = 300,
    rows: int = 32,
    lr: float = 1e-2,
    noise: float = 1.0,
    generator: torch.Generator,
) -> TrainResult:
    """Train the router on examples whose prompts and targets are those of its use.

    Args:
        nll_NK: `adapter_nlls` of these examples, where they are at hand.
        rows: of a step's batch, drawn from a fresh order of all examples each time around.
        noise: of the embeddings that the router reads (`AdapterRouter.logits`).

    Raises:
        InvalidInputError: no examples, or `nll_NK` is not of these examples and adapters, or has a
            value that is not finite.
    """
    if not encoded:
        raise InvalidInputError("A router learns from examples; got none.")
    if nll_NK is None:
        nll_NK = adapter_nlls(host, router.names, encoded)
    shape = (len(encoded), len(router.names))
    if tuple(nll_NK.shape) != shape or not bool(nll_NK.isfinite().all()):
        raise InvalidInputError(
            f"nll_NK has shape {tuple(nll_NK.shape)}, expected {shape} with finite values."
        )
    tokenizer, device = host.base.tokenizer, host.base.device
    posterior_NK = (-nll_NK).softmax(-1).to(device)
    order = _orders(len(encoded), min(rows, len(encoded)), generator)

    def step_loss(step: int) -> Tensor:
        index = next(order)
        batch = pad(
            [encoded[i] for i in index],
            pad_id=pad_id_of(tokenizer),
            device=device,
            prompt_only=True,
        )
        log_weight_BK = router.logits(batch, noise=noise, generator=generator).log_softmax(-1)
        return -(posterior_NK[index] * log_weight_BK).sum(-1).mean()

    return fit(step_loss, [{"params": list(router.parameters()), "lr": lr}], steps=steps)


def _orders(count: int, rows: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Batches of indices without end; a rest smaller than a batch waits for the next order."""
    rest: list[int] = []
    while True:
        if len(rest) < rows:
            rest += torch.randperm(count, generator=generator).tolist()
        yield rest[:rows]
        rest = rest[rows:]
