"""Scores of a trained arm: exact answers, and how predictable the filler stays, by length.

Streams run in batches with carried state of constant size. Rows: `acc@L` and `acc_<load>@L`, one
an answer (1 where the argmax is right), clustered by stream; `spike@L`, one a stream: perplexity of
the predictable filler of its last section at length L over that at the shortest length.

Legend: B streams, T tokens, A predicted positions of the last chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bem.memory import MemoryLM
from bem.memory.gate import hard_gate
from missions.long_memory.data import TestSet
from missions.long_memory.streams import Bytes, StreamFactory
from missions.long_memory.training import tail_nll
from missions.protocol import Run
from stats.scores import ScoreTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LengthResult:
    """What one model did on all streams at one length."""

    correct_BA: npt.NDArray[np.bool_]
    nll_BA: npt.NDArray[np.float64]
    answers_BA: npt.NDArray[np.bool_]
    predictable_BA: npt.NDArray[np.bool_]
    fact_write_rate: float
    """Share of facts whose gate is open."""
    false_writes: float
    """Open gates per stream at positions that complete no fact."""

    def accuracy(self, rows_B: npt.NDArray[np.bool_] | None = None) -> float:
        """Mean over answers, of some streams."""
        chosen = slice(None) if rows_B is None else rows_B
        return float(self.correct_BA[chosen][self.answers_BA[chosen]].mean())


def length_name(length: int) -> str:
    """512 -> 512, 131072 -> 128k."""
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else str(length)


def run_length(
    model: MemoryLM, factory: StreamFactory, ids_BT: Bytes, *, batch: int
) -> LengthResult:
    """Runs all streams of one length through the model."""
    chunk = model.config.chunk
    device = model.embedding.weight.device
    correct, nll, open_facts, facts, open_all = [], [], 0, 0, 0
    with torch.inference_mode():
        for start in range(0, len(ids_BT), batch):
            part_BT = ids_BT[start : start + batch]
            tokens_BT = torch.from_numpy(part_BT).to(device).long()
            logits_BTL, gate_BT = model.tail(tokens_BT, 1)
            right_BA = logits_BTL[:, :-1].argmax(dim=2) == tokens_BT[:, -chunk + 1 :]
            correct.append(right_BA.cpu().numpy())
            nll.append(tail_nll(logits_BTL, tokens_BT).double().cpu().numpy())
            if model.store.gated:
                threshold = model.config.gate.threshold
                open_BT = (hard_gate(gate_BT, threshold) > 0).cpu().numpy()
                fact_BT = factory.fact_ends(part_BT)
                open_facts += int(open_BT[fact_BT].sum())
                facts += int(fact_BT.sum())
                open_all += int(open_BT.sum())
    tail_BT = ids_BT[:, -chunk:]
    return LengthResult(
        correct_BA=np.concatenate(correct),
        nll_BA=np.concatenate(nll),
        answers_BA=factory.answers(tail_BT)[:, 1:],
        predictable_BA=factory.predictable(tail_BT)[:, 1:],
        fact_write_rate=open_facts / facts if facts else 0.0,
        false_writes=(open_all - open_facts) / len(ids_BT),
    )


def run_all(
    model: MemoryLM, factory: StreamFactory, test: TestSet, *, batch: int
) -> dict[int, LengthResult]:
    """Every length; longer streams in smaller batches, so that memory stays level."""
    shortest = min(test.tokens)
    results = {}
    for length, ids_BT in sorted(test.tokens.items()):
        size = len(ids_BT) if length == shortest else batch
        results[length] = run_length(model, factory, ids_BT, batch=size)
    return results


def score_table(run: Run, test: TestSet, results: dict[int, LengthResult]) -> ScoreTable:
    """Per-example rows of one run."""
    shortest = min(results)
    examples: list[str] = []
    clusters: list[str] = []
    metrics: list[str] = []
    values: list[float] = []

    def add(metric: str, example: str, cluster: str, value: float) -> None:
        metrics.append(metric)
        examples.append(example)
        clusters.append(cluster)
        values.append(value)

    for length, result in results.items():
        name = length_name(length)
        for row, stream in enumerate(test.ids):
            right = result.correct_BA[row][result.answers_BA[row]]
            for index, value in enumerate(right.tolist()):
                example = f"{stream}-q{index:02d}"
                add(f"acc@{name}", example, stream, float(value))
                add(f"acc_{test.loads[row]}@{name}", example, stream, float(value))
            if length != shortest and result.predictable_BA[row].any():
                add(f"spike@{name}", stream, stream, _spike(results, shortest, length, row))
    return ScoreTable.from_columns(
        arm=run.arm,
        seed=run.seed,
        example_id=examples,
        cluster_id=clusters,
        metric=metrics,
        value=values,
    )


def _spike(results: dict[int, LengthResult], shortest: int, length: int, row: int) -> float:
    """Perplexity ratio on one stream's predictable filler, long over short."""
    long, short = results[length], results[shortest]
    mask_A = long.predictable_BA[row]
    gap = long.nll_BA[row][mask_A].mean() - short.nll_BA[row][mask_A].mean()
    return float(np.exp(gap))
