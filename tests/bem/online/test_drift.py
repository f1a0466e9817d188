"""ADWIN over a stream of answers: quiet on a level one, quick after a change."""

from __future__ import annotations

import numpy as np

from bem.online import DriftMonitor, drift_points


def test_quiet_on_a_level_stream() -> None:
    rng = np.random.default_rng(0)
    alarms = [len(drift_points(rng.random(5_000) < 0.9)) for _ in range(4)]
    assert sum(alarms) <= 1


def test_a_change_is_told_after_some_dozen_answers() -> None:
    rng = np.random.default_rng(1)
    delays = []
    for _ in range(10):
        hits = np.concatenate([rng.random(500) < 0.9, rng.random(300) < 0.4])
        after = [at for at in drift_points(hits) if at > 500]
        delays.append(after[0] - 500)
    assert np.median(delays) < 100


def test_one_by_one_as_at_once() -> None:
    rng = np.random.default_rng(2)
    hits = list(np.concatenate([rng.random(300) < 0.9, rng.random(300) < 0.2]))
    monitor = DriftMonitor()
    told = [at for at, hit in enumerate(hits, start=1) if monitor.update(not hit)]
    assert told == drift_points(hits)
    assert told
