"""Time to fix and parts of the stream, against plain loops."""

from __future__ import annotations

import numpy as np

from missions.living_model.metrics import Fix, in_burst, time_to_fix


def test_time_to_fix_by_hand() -> None:
    hits = [False] * 10 + [True, False, True, True, True]
    affected = [2, 4, 6, 8, 10, 11, 12, 14]
    # Hits at the affected prompts: 0 0 0 0 1 0 1 1; windows of 4 reach 3 of 4 at prompt 14.
    fix = time_to_fix(hits, affected, 2, window=4, threshold=0.75, censor=100)
    assert fix == Fix(prompts=13, event=True)
    assert time_to_fix(hits, affected, 2, window=4, threshold=0.75, censor=12) == Fix(
        prompts=12, event=False
    )
    assert time_to_fix(hits, affected, 2, window=4, threshold=1.0, censor=50).event is False


def test_time_to_fix_against_every_window() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        hits = [bool(hit) for hit in rng.random(120) < rng.random(120).cumsum() / 60]
        affected = sorted(int(at) for at in rng.choice(np.arange(20, 120), 40, replace=False))
        window, threshold, censor = 7, 0.6, 80
        inside = [at for at in affected if at - 20 < censor]
        ends = [
            inside[i]
            for i in range(window - 1, len(inside))
            if np.mean([hits[at] for at in inside[i - window + 1 : i + 1]]) >= threshold
        ]
        expected = Fix(prompts=ends[0] - 19, event=True) if ends else Fix(prompts=80, event=False)
        found = time_to_fix(hits, affected, 20, window=window, threshold=threshold, censor=censor)
        assert found == expected


def test_the_burst_ends_when_it_has_settled() -> None:
    flags = [in_burst(at, (1700, 1780), 100) for at in (1700, 1750, 1850, 1880, 1900)]
    assert flags == [False, True, True, True, False]
