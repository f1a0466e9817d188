"""Decisions of the fleet as pure functions: state and observation in, decision out.

Nothing here reads a clock, a file or Ray; the coordinator observes, asks and acts.
"""

from fleet.policies.placement import (
    Job,
    Load,
    Node,
    Request,
    admit,
    place,
    preflight,
    reinforce,
    schedule,
)
from fleet.policies.retry import Cause, LeaseVerdict, RetryDecision, judge_lease, retry
from fleet.policies.seeds import Standing, complete_seeds, early_end, next_view

__all__ = [
    "Cause",
    "Job",
    "LeaseVerdict",
    "Load",
    "Node",
    "Request",
    "RetryDecision",
    "Standing",
    "admit",
    "complete_seeds",
    "early_end",
    "judge_lease",
    "next_view",
    "place",
    "preflight",
    "reinforce",
    "retry",
    "schedule",
]
