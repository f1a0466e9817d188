"""One pass of one arm over the stream: serve and score, then learn, and ask the canary.

Prequential order: a prompt is scored with the parameters it was served by, before any feedback
about it exists. Updates happen only between prompts. The canary runs at fixed prompt numbers and
promotes, holds or rolls back; after a rollback, feedback on prompts served since the last good
checkpoint is quarantined, also where it is still on its way. It knows neither tools nor
statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bem.data import IGNORED, Encoded, Example, encode, pad, pad_id_of
from bem.evaluate import Routing, prompt_routing, target_logits, teacher_forced_exact_match
from bem.injection import AdapterHost
from bem.online import Action, CanaryConfig, CanaryReport, decide
from missions.living_model.data import Item, to_examples
from missions.living_model.feedback import Feedback
from missions.living_model.updaters import Updater


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryEvent:
    """One run of the canary suite."""

    at: int
    """Prompts served so far."""
    report: CanaryReport
    action: Action


@dataclass(kw_only=True, slots=True)
class StreamResult:
    """What one arm did on one stream."""

    hits: list[bool] = field(default_factory=list)
    """Exact match of each prompt, in stream order."""
    canary: list[CanaryEvent] = field(default_factory=list)
    start_score: float = 0.0
    """Canary score of the start adapter."""
    num_updates: int = 0
    num_quarantined: int = 0
    """Feedback dropped after rollbacks because of when its prompt was served."""


class CanarySuite:
    """Fixed prompts: exact match, and how far the live answers are from the last good ones."""

    def __init__(self, host: AdapterHost, examples: Sequence[Example]) -> None:
        tokenizer = host.base.tokenizer
        self._host = host
        self._batch = pad(
            encode(examples, tokenizer),
            pad_id=pad_id_of(tokenizer),
            device=host.base.device,
        )
        scored_BT = self._batch.labels_BT[:, 1:] != IGNORED
        self._labels_N = self._batch.labels_BT[:, 1:][scored_BT]
        self._row_N = scored_BT.nonzero()[:, 0]
        self._live_NV = self._log_probs(prompt_routing)
        self._good_NV = self._live_NV

    def run(self, routing: Routing = prompt_routing) -> CanaryReport:
        """Asks the suite as prompts are served now."""
        self._live_NV = self._log_probs(routing)
        kl_N = (self._good_NV.exp() * (self._good_NV - self._live_NV)).sum(-1)
        return CanaryReport(score=self._score(), kl=float(kl_N.mean()))

    def commit(self) -> None:
        """The answers of the last run are the good ones from now on."""
        self._good_NV = self._live_NV

    @torch.inference_mode()
    def _log_probs(self, routing: Routing) -> Tensor:
        context = routing(self._batch, range(len(self._batch.ids)))
        logits_NV = target_logits(self._host, self._batch, context)
        return logits_NV.float().log_softmax(-1)

    def _score(self) -> float:
        wrong_N = self._live_NV.argmax(-1) != self._labels_N
        wrong_B = torch.zeros(len(self._batch.ids), dtype=torch.bool)
        wrong_B[self._row_N[wrong_N].cpu()] = True
        return 1.0 - float(wrong_B.float().mean())


def run_stream(
    host: AdapterHost,
    stream: Sequence[Item],
    feedback: Sequence[Feedback],
    updater: Updater | None,
    suite: CanarySuite,
    canary: CanaryConfig,
    *,
    prompts_per_update: int,
) -> StreamResult:
    """Serves the whole stream. Without an updater nothing changes, and prompts go in larger blocks.

    Args:
        feedback: sorted by arrival.
        suite: built on the start adapter, whose answers are its first good ones.
    """
    tokenizer = host.base.tokenizer
    rows = encode(to_examples(stream), tokenizer)
    start = suite.run()
    if updater is None:
        return StreamResult(
            start_score=start.score,
            hits=teacher_forced_exact_match(host, rows),
            canary=[
                CanaryEvent(at=at, report=start, action="promote")
                for at in range(canary.every, len(stream) + 1, canary.every)
            ],
        )
    corrections = _encode_feedback(host, feedback)
    result = StreamResult(start_score=start.score)
    quarantined = [False] * len(stream)
    good_at = 0
    next_event = 0
    for first in range(0, len(rows), prompts_per_update):
        block = rows[first : first + prompts_per_update]
        result.hits += teacher_forced_exact_match(host, block, routing=updater.routing)
        served = len(result.hits)
        while next_event < len(feedback) and feedback[next_event].arrives <= served:
            if quarantined[feedback[next_event].served]:
                result.num_quarantined += 1
            else:
                updater.observe([corrections[next_event]])
            next_event += 1
        updater.update()
        if served % canary.every:
            continue
        report = suite.run(updater.routing)
        action = decide(report, start.score, canary)
        if action == "promote":
            updater.commit()
            suite.commit()
            good_at = served
        elif action == "rollback":
            updater.rollback()
            quarantined[good_at:served] = [True] * (served - good_at)
        result.canary.append(CanaryEvent(at=served, report=report, action=action))
    result.num_updates = updater.num_updates
    return result


def _encode_feedback(host: AdapterHost, feedback: Sequence[Feedback]) -> list[Encoded]:
    examples = [
        Example(prompt=event.prompt, target=event.target, id=str(event.served), cluster="feedback")
        for event in feedback
    ]
    return encode(examples, host.base.tokenizer)
