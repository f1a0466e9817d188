"""The sweep that Ray must agree with: the same search and trials in this process."""

from __future__ import annotations

from pathlib import Path

import torch
from fake_catalog import FakeMission

from fleet.sweep.halving import MissionSearch
from fleet.sweep.optuna_proposer import OptunaProposer
from fleet.sweep.records import SweepOutcome, Trial
from fleet.sweep.trial import Bench
from missions.spec import MissionSpec
from missions.sweep_check import file_settings


def run_here(spec: MissionSpec, folder: Path, code_version: str) -> SweepOutcome:
    """Every trial one after the other, without Ray and without a ledger."""
    sweep, mission = spec.sweep, FakeMission(spec.id)
    assert sweep is not None
    bench = Bench(spec, mission, folder, code_version=code_version, device=torch.device("cpu"))

    def proposer(arm: str) -> OptunaProposer:
        return OptunaProposer(sweep, arm, file_settings(spec, mission, arm, "test"))

    search = MissionSearch(spec, proposer)
    while isinstance(trial := search.next(), Trial):
        search.start(trial)
        search.tell(bench.run(trial))
    return search.outcome()
