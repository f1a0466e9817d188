"""One pass of one arm over the stream: serve and score, then learn, and ask the canary.

Prequential order: a prompt is scored with the parameters it was served by, before any feedback
about it exists. Updates happen only between prompts. The canary runs at fixed prompt numbers and
promotes, holds or rolls back; after a rollback, feedback on prompts served since the last good
checkpoint is quarantined, also where it is still on its way. It knows neither tools nor
statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bem.data import IGNORED, Encoded, Example, encode, pad, pad_id_of
from bem.evaluate import target_logits, target_loss, teacher_forced_exact_match
from bem.injection import AdapterHost
from bem.online import (
    Action,
    CanaryConfig,
    CanaryReport,
    LearnerConfig,
    OnlineLearner,
    decide,
)
from missions.living_model.data import Item
from missions.living_model.feedback import Feedback


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
    num_clipped: int = 0
    num_skipped: int = 0
    num_quarantined: int = 0
    """Feedback dropped after rollbacks because of when its prompt was served."""


def to_examples(items: Sequence[Item]) -> list[Example]:
    """Items as bem's examples."""
    return [
        Example(prompt=item.prompt, target=item.target, id=item.id, cluster=item.part)
        for item in items
    ]


class CanarySuite:
    """Fixed prompts: exact match, and how far the live answers are from the last good ones."""

    def __init__(self, host: AdapterHost, items: Sequence[Item]) -> None:
        tokenizer = host.base.tokenizer
        self._host = host
        self._batch = pad(
            encode(to_examples(items), tokenizer),
            pad_id=pad_id_of(tokenizer),
            device=host.base.device,
        )
        scored_BT = self._batch.labels_BT[:, 1:] != IGNORED
        self._labels_N = self._batch.labels_BT[:, 1:][scored_BT]
        self._row_N = scored_BT.nonzero()[:, 0]
        self._live_NV = self._log_probs()
        self._good_NV = self._live_NV

    def run(self) -> CanaryReport:
        """Asks the suite now."""
        self._live_NV = self._log_probs()
        kl_N = (self._good_NV.exp() * (self._good_NV - self._live_NV)).sum(-1)
        return CanaryReport(score=self._score(), kl=float(kl_N.mean()))

    def commit(self) -> None:
        """The answers of the last run are the good ones from now on."""
        self._good_NV = self._live_NV

    @torch.inference_mode()
    def _log_probs(self) -> Tensor:
        logits_NV = target_logits(self._host, self._batch, self._batch.routing())
        return logits_NV.float().log_softmax(-1)

    def _score(self) -> float:
        wrong_N = self._live_NV.argmax(-1) != self._labels_N
        wrong_B = torch.zeros(len(self._batch.ids), dtype=torch.bool)
        wrong_B[self._row_N[wrong_N].cpu()] = True
        return 1.0 - float(wrong_B.float().mean())


def build_learner(
    host: AdapterHost,
    name: str,
    part: str,
    config: LearnerConfig,
    initial: Sequence[Encoded],
    *,
    generator: torch.Generator,
) -> OnlineLearner[Encoded]:
    """A learner over all parameters of adapter `name`, or over its controller's only."""
    host.train_only(name, part=part)
    adapter = host[name]
    slow = {id(parameter) for parameter in adapter.controller_parameters()}
    parameters: dict[str, nn.Parameter] = {
        key: value for key, value in adapter.named_parameters() if value.requires_grad
    }
    pad_id, device = pad_id_of(host.base.tokenizer), host.base.device

    def loss(items: Sequence[Encoded]) -> Tensor:
        batch = pad(items, pad_id=pad_id, device=device)
        return target_loss(host, batch, batch.routing())

    return OnlineLearner(
        parameters,
        [key for key, value in parameters.items() if id(value) in slow],
        loss,
        initial,
        config,
        generator=generator,
    )


def run_stream(
    host: AdapterHost,
    stream: Sequence[Item],
    feedback: Sequence[Feedback],
    learner: OnlineLearner[Encoded] | None,
    suite: CanarySuite,
    canary: CanaryConfig,
    *,
    prompts_per_update: int,
) -> StreamResult:
    """Serves the whole stream. Without a learner nothing changes, and prompts go in larger blocks.

    Args:
        feedback: sorted by arrival.
        suite: built on the start adapter, whose answers are its first good ones.
    """
    tokenizer = host.base.tokenizer
    rows = encode(to_examples(stream), tokenizer)
    start = suite.run()
    if learner is None:
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
        result.hits += teacher_forced_exact_match(host, rows[first : first + prompts_per_update])
        served = len(result.hits)
        while next_event < len(feedback) and feedback[next_event].arrives <= served:
            if quarantined[feedback[next_event].served]:
                result.num_quarantined += 1
            else:
                learner.observe([corrections[next_event]])
            next_event += 1
        learner.update()
        if served % canary.every:
            continue
        report = suite.run()
        action = decide(report, start.score, canary)
        if action == "promote":
            learner.commit()
            suite.commit()
            good_at = served
        elif action == "rollback":
            learner.rollback()
            quarantined[good_at:served] = [True] * (served - good_at)
        result.canary.append(CanaryEvent(at=served, report=report, action=action))
    result.num_updates = learner.num_updates
    result.num_clipped = learner.num_clipped
    result.num_skipped = learner.num_skipped
    return result


def _encode_feedback(host: AdapterHost, feedback: Sequence[Feedback]) -> list[Encoded]:
    examples = [
        Example(prompt=event.prompt, target=event.target, id=str(event.served), cluster="feedback")
        for event in feedback
    ]
    return encode(examples, host.base.tokenizer)


def rolling(values: Mapping[int, bool], window: int) -> list[tuple[int, float]]:
    """(prompt number, mean of the last `window` values) from the first full window on."""
    order = sorted(values)
    numbers = [float(values[at]) for at in order]
    return [
        (order[end - 1], sum(numbers[end - window : end]) / window)
        for end in range(window, len(order) + 1)
    ]
