"""Runs the command line with the fakes in place of the missions, for tests that need a process."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import fleet.driver.coordinator
import fleet.driver.launch
import fleet.driver.resume
import fleet.sweep.only
from fleet import cli

HERE = Path(__file__).resolve().parent
_carry_out = fleet.driver.launch.carry_out
_resume = fleet.driver.resume.carry_out
_sweep = fleet.sweep.only.carry_out
_run = fleet.driver.coordinator.run_campaign


def with_fakes(order: fleet.driver.launch.Order) -> int:
    """`carry_out` on the fakes."""
    path = f"{HERE.parents[1]}{os.pathsep}{HERE}"
    changed = dataclasses.replace(order, catalog="fake_catalog", worker_env={"PYTHONPATH": path})
    return _carry_out(changed)


def resume_with_fakes(order: fleet.driver.resume.ResumeOrder) -> int:
    """`carry_out` of a resume on the fakes."""
    path = f"{HERE.parents[1]}{os.pathsep}{HERE}"
    return _resume(dataclasses.replace(order, worker_env={"PYTHONPATH": path}))


def sweep_with_fakes(order: fleet.driver.launch.Order, *, trials: int | None) -> int:
    """`carry_out` of a sweep on the fakes."""
    path = f"{HERE.parents[1]}{os.pathsep}{HERE}"
    changed = dataclasses.replace(order, catalog="fake_catalog", worker_env={"PYTHONPATH": path})
    return _sweep(changed, trials=trials)


def run_impatiently(plan: Any, settings: Any, **named: Any) -> Any:
    """`run_campaign` with the limits that a test sets in the environment."""
    stale_s = float(os.environ.get("FAKE_STALE_S", settings.stale_after_s))
    return _run(plan, dataclasses.replace(settings, stale_after_s=stale_s), **named)


if __name__ == "__main__":
    fleet.driver.coordinator.run_campaign = run_impatiently
    fleet.driver.resume.carry_out = resume_with_fakes
    fleet.driver.launch.carry_out = with_fakes
    fleet.sweep.only.carry_out = sweep_with_fakes
    sys.exit(cli.run(sys.argv[1:]))
