"""Decisions of the fleet as pure functions: state and observation in, decision out.

Nothing here reads a clock, a file or Ray; the coordinator observes, asks and acts.
"""

from fleet.policies.nodes import Job, Node, Request, assign, matches, occupy, place, take
from fleet.policies.placement import (
    Admission,
    Load,
    admission,
    admit,
    preflight,
    reinforce,
    schedule,
    startable,
    urgent_first,
)
from fleet.policies.retry import Cause, LeaseVerdict, RetryDecision, judge_lease, retry
from fleet.policies.seeds import Standing, complete_seeds, early_end, next_view
from fleet.policies.waiting import Holder, Wait, explain_wait, overdue

__all__ = [
    "Admission",
    "Cause",
    "Holder",
    "Job",
    "LeaseVerdict",
    "Load",
    "Node",
    "Request",
    "RetryDecision",
    "Standing",
    "Wait",
    "admission",
    "admit",
    "assign",
    "complete_seeds",
    "early_end",
    "explain_wait",
    "judge_lease",
    "matches",
    "next_view",
    "occupy",
    "overdue",
    "place",
    "preflight",
    "reinforce",
    "retry",
    "schedule",
    "startable",
    "take",
    "urgent_first",
]
