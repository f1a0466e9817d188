"""A safety branch over a frozen skill: value head, gated continuation, dual ascent, measures."""

from bem.safety.branch import Prefill, continue_greedy, continue_logits, prefill
from bem.safety.lagrangian import PidMultiplier
from bem.safety.orthogonality import SpanOverlap, site_orthogonality, span_overlap
from bem.safety.value_head import ValueHead

__all__ = [
    "PidMultiplier",
    "Prefill",
    "SpanOverlap",
    "ValueHead",
    "continue_greedy",
    "continue_logits",
    "prefill",
    "site_orthogonality",
    "span_overlap",
]
