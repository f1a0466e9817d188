"""The loss of each arm of mission D, at equal forward tokens.

A step forwards two halves of equal size: clean documents, and a second half that is more clean
documents (`lm`) or the first half scrambled (all others). What differs is the loss on it:

    lm      CE(x) + CE(x')                                   x' further clean documents
    augment CE(x) + CE(S x)                                  plain data augmentation
    sep     CE(x) + w KL(sg p(.|x) || S^-1 p(.|S x)) + v VICReg(middle layer of x, S x)
    sep_ce  the same + CE(S x)

Shapes: B documents of one half, T tokens, V vocabulary, N answer positions of one half, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from bem.data import IGNORED, Batch
from bem.injection import AdapterHost
from bem.scramble import SymbolBijection, VicregWeights, equivariance_kl, vicreg
from missions.scramble_pretraining.params import SepParams

Objective = Literal["lm", "augment", "sep", "sep_ce"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True, kw_only=True, slots=True)
class Halves:
    """A batch of 2B rows (first half x, second half x' or S x) and what undoes its scrambling."""

    batch: Batch
    bijection: SymbolBijection | None
    """S of every row of the first half; None where the second half is clean."""


class Projector:
    """A fixed random projection of hidden states: VICReg without trainable parameters.

    Departure from arXiv 2105.04906, whose expander is trained: here it would be the only part in
    which arms differ in size.
    """

    def __init__(self, hidden_size: int, features: int, generator: torch.Generator) -> None:
        self._weight_DF = torch.randn(hidden_size, features, generator=generator)
        self._weight_DF /= hidden_size**0.5

    def __call__(self, h_ND: Tensor) -> Tensor:
        unit_ND = functional.layer_norm(h_ND.float(), h_ND.shape[-1:])
        return unit_ND @ self._weight_DF.to(h_ND.device)


def step_loss(
    objective: Objective,
    host: AdapterHost,
    halves: Halves,
    *,
    weights: SepParams,
    projector: Projector,
) -> Tensor:
    """Mean loss of one step (nats per answer token)."""
    batch = halves.batch
    wants_states = objective in ("sep", "sep_ce") and weights.vicreg_weight > 0
    out = host(
        batch.input_ids_BT,
        batch.attention_mask_BT,
        routing=batch.routing(),
        output_hidden_states=wants_states,
    )
    scored_BT = batch.labels_BT[:, 1:] != IGNORED
    rows = scored_BT.shape[0] // 2
    logits_BTV = out.logits[:, :-1].float()
    labels_BT = batch.labels_BT[:, 1:]

    def cross_entropy(half: slice) -> Tensor:
        mask_BT = scored_BT[half]
        return functional.cross_entropy(logits_BTV[half][mask_BT], labels_BT[half][mask_BT])

    first, second = slice(0, rows), slice(rows, 2 * rows)
    loss = cross_entropy(first)
    if objective in ("lm", "augment", "sep_ce"):
        loss = loss + cross_entropy(second)
    if objective in ("sep", "sep_ce"):
        assert halves.bijection is not None
        mask_BT = scored_BT[first]
        undone_BTV = halves.bijection.undo_logits(logits_BTV[second])
        kl = equivariance_kl(logits_BTV[first][mask_BT], undone_BTV[mask_BT])
        loss = loss + weights.kl_weight * kl
        if wants_states:
            middle = len(out.hidden_states) // 2
            h_BTD = out.hidden_states[middle][:, :-1]
            states = vicreg(
                projector(h_BTD[first][mask_BT]), projector(h_BTD[second][mask_BT]), VicregWeights()
            )
            loss = loss + weights.vicreg_weight * states
    return loss
