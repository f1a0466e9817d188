"""Fine-tuning the head of a `BaseEncoder` on pairs of query and text, with hard negatives.

    loss = -log exp(q.p / t) / (sum over the batch's texts and the query's own negatives of exp)

in-batch negatives and mined ones as in DPR (arXiv 2004.04906, eq. 2), on unit vectors with a
temperature t; negatives are mined again with the head as it stands (ANCE, arXiv 2007.00808). Texts
that are right for a query are never its negatives, however they came into the batch. The base
stays frozen: its features are computed once.

Legend: Q queries, B of them in a batch, P negatives a query, D hidden size, E coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bem.errors import InvalidInputError
from bem.retrieval.base_encoder import BaseEncoder
from bem.retrieval.interfaces import FloatArray, unit_rows
from bem.retrieval.kinds import build, check_kind, search
from bem.training import fit


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadResult:
    """The encoder with its new head, and how training went."""

    encoder: BaseEncoder
    losses: tuple[float, ...]
    cpu_s: float


def hard_negatives(
    queries_QE: FloatArray,
    texts_NE: FloatArray,
    right: Sequence[frozenset[int]],
    count: int,
) -> npt.NDArray[np.int64]:
    """(Q, count): the best-ranked texts of each query that are wrong for it.

    `right` holds, for each query, the texts that answer it.
    """
    deepest = count + max(len(ids) for ids in right)
    if deepest > len(texts_NE):
        raise InvalidInputError(
            f"{count} negatives beside {deepest - count} right texts need at least {deepest} "
            f"texts; there are {len(texts_NE)}."
        )
    index = build(check_kind("auto", len(texts_NE)), texts_NE)
    scores_QK, ids_QK = search(index, queries_QE, deepest)
    ids_QK = np.take_along_axis(ids_QK, np.lexsort((ids_QK, -scores_QK), axis=1), axis=1)
    rows = [
        [int(i) for i in ids if int(i) not in known][:count]
        for ids, known in zip(ids_QK, right, strict=True)
    ]
    return np.asarray(rows, dtype=np.int64)


def contrastive_loss(
    queries_BE: Tensor, candidates_CE: Tensor, right_BC: Tensor, own_B: Tensor, temperature: float
) -> Tensor:
    """Mean cross-entropy of each query's own text among the candidates.

    Args:
        queries_BE: unit vectors.
        candidates_CE: unit vectors of the batch's texts and of all negatives.
        right_BC: True where a candidate answers a query; only its own one counts, others are out.
        own_B: each query's own text among the candidates.
        temperature: t of the equation above.
    """
    logits_BC = queries_BE @ candidates_CE.T / temperature
    others_BC = right_BC.clone()
    others_BC[torch.arange(len(own_B)), own_B] = False
    return nn.functional.cross_entropy(logits_BC.masked_fill(others_BC, -math.inf), own_B)


def fit_head(
    encoder: BaseEncoder,
    queries: Sequence[str],
    texts: Sequence[str],
    right: Sequence[frozenset[int]],
    *,
    size: int,
    steps: int,
    generator: torch.Generator,
    batch: int = 32,
    negatives: int = 4,
    refresh: int = 25,
    lr: float = 1e-2,
    temperature: float = 0.05,
) -> HeadResult:
    """Train a head of `size` coordinates; the encoder that is given stays as it is.

    Args:
        right: for each query the texts (by position) that answer it; the first in order of
            position is the one that it is trained on.
        negatives: mined ones a query; 0: only the batch's other texts.
        refresh: steps after which negatives are mined again.
    """
    if len(right) != len(queries) or not all(right):
        raise InvalidInputError("Every query needs at least one right text.")
    f_QD = torch.from_numpy(encoder.features(queries))
    f_ND = torch.from_numpy(encoder.features(texts))
    first_Q = torch.tensor([min(ids) for ids in right])
    spread = 1 / math.sqrt(f_QD.shape[1])
    head_ED = nn.Parameter(torch.randn(size, f_QD.shape[1], generator=generator) * spread)
    mined: list[Tensor] = []

    def vectors(f_XD: Tensor) -> Tensor:
        return nn.functional.normalize(f_XD @ head_ED.T, dim=-1)

    def step_loss(step: int) -> Tensor:
        if negatives and step % refresh == 0:
            with torch.no_grad():
                rows = hard_negatives(
                    unit_rows(vectors(f_QD).numpy()),
                    unit_rows(vectors(f_ND).numpy()),
                    right,
                    negatives,
                )
            mined[:] = [torch.from_numpy(rows)]
        chosen_B = torch.randperm(len(queries), generator=generator)[:batch]
        ids = [first_Q[chosen_B]] + ([mined[0][chosen_B].flatten()] if negatives else [])
        ids_C, own_B = torch.unique(torch.cat(ids), return_inverse=True)
        known = [right[int(q)] for q in chosen_B]
        right_BC = torch.tensor([[int(i) in answers for i in ids_C] for answers in known])
        return contrastive_loss(
            vectors(f_QD[chosen_B]),
            vectors(f_ND[ids_C]),
            right_BC,
            own_B[: len(chosen_B)],
            temperature,
        )

    result = fit(step_loss, [{"params": [head_ED], "lr": lr}], steps=steps)
    head = encoder.with_head(head_ED.detach().numpy().astype(np.float32))
    return HeadResult(encoder=head, losses=result.losses, cpu_s=result.cpu_s)
