"""Scores one trained arm of mission D: per query and per fact, at every kept step.

Metrics (all per example, 1 or 0 unless said):
    acc_permuted      answer right on scrambled contexts, after training
    aulc_permuted     area under its learning curve: trapezoid over the kept steps, in [0, 1]
    acc_heldout, aulc_heldout   the same on contexts over symbols that training never showed
    acc_clean         contexts drawn like training (the shortcut mostly holds)
    shortcut_permuted the answer given is f(key) although the context says otherwise
    nll_permuted      negative log-likelihood of the right answer, in nats
    closed_book       every token of the fact's value right, for all facts

Shapes: N documents, Q queries, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from bem.base import BaseModel
from bem.checkpoint import load_adapter
from bem.context import RoutingContext
from bem.evaluate import teacher_forced_exact_match
from bem.injection import AdapterHost
from missions.protocol import Run
from missions.scramble_pretraining.corpus import Documents
from missions.scramble_pretraining.data import TestSets, World
from missions.scramble_pretraining.params import ScrambleParams
from missions.scramble_pretraining.training import ADAPTER
from stats.scores import ScoreTable

FloatArray = npt.NDArray[np.float64]
_ROWS_PER_FORWARD = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a model answered: token, and the NLL of the right one; both (N, Q)."""

    given_NQ: Tensor
    right_NQ: Tensor
    nll_NQ: Tensor


@torch.inference_mode()
def answer(host: AdapterHost, documents: Documents) -> Answers:
    """Teacher-forced answers to every query of every document."""
    given, right, nll = [], [], []
    device = host.base.device
    for start in range(0, len(documents), _ROWS_PER_FORWARD):
        part = documents.take(slice(start, start + _ROWS_PER_FORWARD))
        ids_NT = part.ids_NT.to(device)
        prefix_NT = part.prefix_T.to(device).expand(ids_NT.shape)
        routing = RoutingContext(prefix_mask_BT=prefix_NT)
        h_NTD = host.hidden_states(ids_NT, routing=routing)
        logits_NQV = host.base.head(h_NTD[:, part.answers_Q - 1]).float()
        right_NQ = ids_NT[:, part.answers_Q]
        given.append(logits_NQV.argmax(-1).cpu())
        right.append(right_NQ.cpu())
        loss_N = functional.cross_entropy(
            logits_NQV.flatten(0, 1), right_NQ.flatten(), reduction="none"
        )
        nll.append(loss_N.view(right_NQ.shape).cpu())
    return Answers(given_NQ=torch.cat(given), right_NQ=torch.cat(right), nll_NQ=torch.cat(nll))


def area_under_curve(steps: Sequence[int], correct: Sequence[FloatArray]) -> FloatArray:
    """Trapezoid area of each example's learning curve over the steps, divided by their span."""
    if list(steps) != sorted(set(steps)) or len(steps) < 2:
        raise ValueError(f"steps must rise strictly and be two at least, got {list(steps)}.")
    area: FloatArray = np.trapezoid(np.stack(correct), x=np.array(steps, dtype=float), axis=0)
    area /= steps[-1] - steps[0]
    return area


def score_run(
    base: BaseModel,
    params: ScrambleParams,
    world: World,
    tests: TestSets,
    run: Run,
    folder: Path,
) -> ScoreTable:
    """Scores the kept adapters of one run."""
    steps = params.training.curve_steps
    curves: dict[str, list[FloatArray]] = {"permuted": [], "heldout": []}
    tables: list[ScoreTable] = []

    def add(metric: str, name: str, value: FloatArray) -> None:
        tables.append(
            ScoreTable.from_columns(
                arm=run.arm,
                seed=run.seed,
                example_id=[
                    f"{name}-{n:04d}-q{q}"
                    for n in range(value.shape[0])
                    for q in range(value.shape[1])
                ],
                cluster_id=[
                    f"{name}-{n:04d}" for n in range(value.shape[0]) for _ in range(value.shape[1])
                ],
                metric=metric,
                value=value.reshape(-1),
            )
        )

    for step in steps:
        host = AdapterHost(base)
        try:
            load_adapter(host, ADAPTER, folder / f"step_{step:05d}")
            host.use(ADAPTER)
            permuted = answer(host, tests.permuted)
            heldout = answer(host, tests.heldout)
            curves["permuted"].append(_correct(permuted))
            curves["heldout"].append(_correct(heldout))
            if step == steps[-1]:
                prior_NQ = world.factory.prior_of(tests.permuted.keys_NQ)
                fooled_NQ = (permuted.given_NQ == prior_NQ) & (permuted.right_NQ != prior_NQ)
                add("acc_permuted", "permuted", _correct(permuted))
                add("nll_permuted", "permuted", permuted.nll_NQ.double().numpy())
                add("shortcut_permuted", "permuted", fooled_NQ.double().numpy())
                add("acc_heldout", "heldout", _correct(heldout))
                add("acc_clean", "clean", _correct(answer(host, tests.clean)))
                hits = teacher_forced_exact_match(host, world.facts)
                tables.append(
                    ScoreTable.from_columns(
                        arm=run.arm,
                        seed=run.seed,
                        example_id=[fact.id for fact in world.facts],
                        metric="closed_book",
                        value=np.array(hits, dtype=float),
                    )
                )
        finally:
            host.detach()
    for name, correct in curves.items():
        add(f"aulc_{name}", name, area_under_curve(steps, correct))
        for step, values in zip(steps, correct, strict=True):
            add(f"acc_{name}@{step}", name, values)
    return ScoreTable.concat(tables)


def _correct(answers: Answers) -> FloatArray:
    hits: FloatArray = (answers.given_NQ == answers.right_NQ).double().numpy()
    return hits
