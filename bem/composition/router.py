"""A router over adapters that are trained already: how strongly each acts on a prompt.

    w = softmax(sharpness * controller(embeddings of the prompt))        (B, K)

`router_training.py` teaches it, without labels, which adapter alone makes a prompt's target likely.
In use the adapter with the largest weight acts alone (`hard`): what the others would still add is
what tasks lose by being composed. `benchmarks/routing_validation.py` measures it. It knows no kind
of adapter.

Legend: B rows, T positions, K adapters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bem.base import BaseModel
from bem.context import RoutingContext
from bem.data import Batch
from bem.errors import InvalidInputError
from bem.routing.controller import SequenceController


class AdapterRouter(nn.Module):
    """`soft` and `hard` are contexts of a batch, as functions of `bem.evaluate` take them."""

    def __init__(
        self,
        base: BaseModel,
        names: Sequence[str],
        *,
        width: int = 16,
        sharpness: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        """`sharpness`: factor of the logits. Where a router is trained through `soft` (the task's
        loss while all adapters act), at 1 weights of two skills stayed near 0.7, at 4 they decide.
        """
        super().__init__()
        if len(names) < 2:
            raise InvalidInputError(f"A router chooses among adapters; got {len(names)}.")
        self.names = tuple(names)
        self.sharpness = sharpness
        self._embed = (base.model.get_input_embeddings(),)  # a tuple: not a part of the router
        self.controller = SequenceController(
            hidden_size=base.hidden_size,
            side_size=0,
            width=width,
            code_size=len(names),
            pool="attention",
            head_spread=1.0,
            head_bias=0.0,
            generator=generator,
        ).to(base.device)

    def forward(self, batch: Batch) -> Tensor:
        """The weights (B, K), in the order of `names`; a row sums to 1."""
        return self.logits(batch).softmax(-1)

    def logits(
        self, batch: Batch, *, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Before the softmax (B, K). `noise`: each coordinate of each embedding is multiplied by a
        draw of N(1, noise^2), so that no single one decides; for training."""
        h_BTD = self._embed[0](batch.input_ids_BT).detach()
        if noise:
            drawn_BTD = torch.randn(h_BTD.shape, generator=generator).to(h_BTD)
            h_BTD = h_BTD * (1 + noise * drawn_BTD)
        logits_BK: Tensor = self.controller(h_BTD, batch.prefix_mask_BT, None)
        return self.sharpness * logits_BK

    def soft(self, batch: Batch, index: Sequence[int] = ()) -> RoutingContext:
        """All adapters act, each with its weight: differentiable, and they disturb each other."""
        return self.weighted(batch, self(batch))

    @torch.no_grad()
    def hard(self, batch: Batch, index: Sequence[int] = ()) -> RoutingContext:
        """On each row the adapter with the largest weight acts, at full strength."""
        return self.weighted(batch, nn.functional.one_hot(self(batch).argmax(1), len(self.names)))

    @torch.no_grad()
    def choice(self, batch: Batch) -> list[str]:
        """The name that `hard` chooses for each row."""
        return [self.names[k] for k in self(batch).argmax(1).tolist()]

    def weighted(self, batch: Batch, weights_BK: Tensor) -> RoutingContext:
        """All adapters act with given weights."""
        strength = {name: weights_BK[:, k].float() for k, name in enumerate(self.names)}
        return batch.routing(adapters=self.names, strength=strength)
