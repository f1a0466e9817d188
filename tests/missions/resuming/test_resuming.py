"""Every mission: cut in a first stage, cut in a later one, finished by a new process, same bits.

And a run trained alone is the run of the pack, which a retry of what is missing rests on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from resumed_run import train_first_pack

HERE = Path(__file__).resolve()
CUTS = {"A": (3, 4), "B": (3, 2), "C": (4, 8), "D": (2, 9), "E": (2, 9)}
"""After how many steps the first and the second attempt are cut; C's second is in an arm's head or
safety stage, D's and E's in their second arm, A's in the fused adapter."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As every worker has it: sums of two threads have other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mission", CUTS)
def test_a_training_that_was_cut_ends_with_the_same_bits(mission: str, tmp_path: Path) -> None:
    whole = train_first_pack(mission, tmp_path / "whole")
    assert not whole.told, "nothing to go on from"
    cut = tmp_path / "cut"
    for steps in CUTS[mission]:
        attempt = train_first_pack(mission, cut, stop_after=steps)
        assert attempt.stopped
    assert attempt.told, "the second attempt went on from the first"
    path = f"{HERE.parents[3]}"
    subprocess.run(
        [sys.executable, str(HERE.parent / "resumed_run.py"), mission, str(cut)],
        check=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    again = json.loads((cut / "outcome.json").read_text())
    assert any("goes on at step" in text for text in again["told"])
    assert not [text for text in again["told"] if text.startswith("alarm")]
    assert again["arms"] == json.loads(json.dumps(whole.arms))
    last = list(whole.arms)[-1]
    alone = train_first_pack(mission, tmp_path / "alone", arms=[last])
    assert alone.arms[last]["files"] == whole.arms[last]["files"]
    assert alone.arms[last]["cost"] == whole.arms[last]["cost"]
