"""Feedback: rates, delays, mistakes and the burst, against what was asked for."""

from __future__ import annotations

import numpy as np

from missions.living_model import data
from missions.living_model.feedback import FeedbackConfig, schedule

CONFIG = FeedbackConfig(probability=0.7, max_delay=40, wrong=0.05)
STREAM = data.make_stream(
    np.random.default_rng(1),
    "dev",
    3000,
    {"signature": 100, "format": 200, "domain": 300},
    0.3,
    set(),
)
BURST = (2000, 2080)


def test_rates_and_delays() -> None:
    events = schedule(STREAM, CONFIG, BURST, np.random.default_rng(2))
    outside = [event for event in events if not BURST[0] <= event.served < BURST[1]]
    count = len(STREAM) - 80
    assert abs(len(outside) / count - 0.7) < 5 * (0.7 * 0.3 / count) ** 0.5
    wrong = sum(not event.right for event in outside) / len(outside)
    assert abs(wrong - 0.05) < 5 * (0.05 * 0.95 / len(outside)) ** 0.5
    delays = [event.arrives - event.served for event in events]
    assert (min(delays), max(delays)) == (1, 40)
    assert [event.arrives for event in events] == sorted(event.arrives for event in events)


def test_wrong_feedback_is_a_wrong_format_of_the_right_values() -> None:
    for event in schedule(STREAM, CONFIG, BURST, np.random.default_rng(2)):
        item = STREAM[event.served]
        if BURST[0] <= event.served < BURST[1]:
            assert event.target == item.wrong[-1] != item.target
        elif event.right:
            assert event.target == item.target
        else:
            assert event.target in item.wrong


def test_the_burst_answers_every_prompt_and_shifts_nothing_else() -> None:
    with_burst = schedule(STREAM, CONFIG, BURST, np.random.default_rng(2))
    without = schedule(STREAM, CONFIG, (2999, 3000), np.random.default_rng(2))
    assert sum(BURST[0] <= event.served < BURST[1] for event in with_burst) == 80 * 2
    calm = [e for e in with_burst if not BURST[0] <= e.served < BURST[1] and e.served < 2999]
    assert calm == [e for e in without if not BURST[0] <= e.served < BURST[1] and e.served < 2999]
