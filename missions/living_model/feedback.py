"""Simulated users: who answers, how late, how wrongly, and one burst of poison.

A schedule is drawn once for a seed, before the stream starts, and is the same for every arm of
that seed: arms differ in what they do with feedback, never in what they get. It knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from missions.living_model.data import Item


class FeedbackConfig(BaseModel):
    """Noise of the feedback."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probability: float = Field(default=0.7, gt=0, le=1)
    """Chance that a prompt gets feedback at all."""
    max_delay: int = Field(default=40, ge=1)
    """Feedback arrives 1 to this many prompts later, uniformly."""
    wrong: float = Field(default=0.05, ge=0, lt=1)
    """Share of feedback with the right values in a wrong known format."""
    poison_copies: int = Field(default=2, ge=1)
    """How often each poisoned correction is sent: a flood. It holds the right values in the last
    of the wrong known formats, the same one for nearly all prompts: plausible, hence learnable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """One correction."""

    served: int
    """Number of the prompt that it is about."""
    arrives: int
    """Number of the first prompt before which it may be used."""
    prompt: str
    target: str
    right: bool


def schedule(
    stream: Sequence[Item],
    config: FeedbackConfig,
    poison: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Feedback, ...]:
    """All feedback of a stream, sorted by arrival.

    Args:
        poison: first and one-past-last prompt of the burst. Inside it every prompt gets poisoned
            feedback, with the usual delay.
    """
    events: list[Feedback] = []
    for served, item in enumerate(stream):
        answers, delay = (
            rng.random() < config.probability,
            int(rng.integers(1, config.max_delay + 1)),
        )
        mistaken, choice = rng.random() < config.wrong, int(rng.integers(len(item.wrong)))
        poisoned = poison[0] <= served < poison[1]
        if not (answers or poisoned):
            continue
        target = item.wrong[choice] if mistaken else item.target
        if poisoned:
            target = item.wrong[-1]
        event = Feedback(
            served=served,
            arrives=served + delay,
            prompt=item.prompt,
            target=target,
            right=target == item.target,
        )
        events += [event] * (config.poison_copies if poisoned else 1)
    return tuple(sorted(events, key=lambda event: (event.arrives, event.served)))
