"""Runs the command line with the fakes in place of the missions, for tests that need a process."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import fleet.launch
import fleet.resume
from fleet import cli

HERE = Path(__file__).resolve().parent
_carry_out = fleet.launch.carry_out
_resume = fleet.resume.carry_out


def with_fakes(order: fleet.launch.Order) -> int:
    """`carry_out` on the fakes."""
    path = f"{HERE.parents[1]}{os.pathsep}{HERE}"
    changed = dataclasses.replace(order, catalog="fake_catalog", worker_env={"PYTHONPATH": path})
    return _carry_out(changed)


def resume_with_fakes(order: fleet.resume.ResumeOrder) -> int:
    """`carry_out` of a resume on the fakes."""
    path = f"{HERE.parents[1]}{os.pathsep}{HERE}"
    return _resume(dataclasses.replace(order, worker_env={"PYTHONPATH": path}))


if __name__ == "__main__":
    fleet.resume.carry_out = resume_with_fakes
    fleet.launch.carry_out = with_fakes
    sys.exit(cli.run(sys.argv[1:]))
