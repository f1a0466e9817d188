"""Which part a linear plays in its decoder layer, by the names that model families use.

It knows no adapter. A family with other names is refused where a role is asked for, not guessed.

Legend: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from bem.errors import InvalidInputError
from bem.interfaces import Site

ATTENTION_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
MLP_OUTPUTS = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")
MLP_GATES = ("gate_proj", "w1")
MLP_INPUTS = ("c_fc", "dense_h_to_4h", "fc1", "fc_in", "up_proj")
FUSED_PARTS = {"c_attn": 3}
"""Linears that hold several projections one after the other, with their number."""


def in_attention(site: Site) -> bool:
    """Whether the linear belongs to attention."""
    return "attn" in site.name or "attention" in site.name


def leaf(site: Site) -> str:
    """The last part of the linear's name."""
    return site.name.rsplit(".", 1)[-1]


def is_attention_output(site: Site) -> bool:
    """Whether it reads the heads and writes to the residual stream."""
    return in_attention(site) and leaf(site) in ATTENTION_OUTPUTS


def is_mlp_output(site: Site) -> bool:
    """Whether it is the MLP's down projection."""
    return not in_attention(site) and leaf(site) in MLP_OUTPUTS


def mlp_outputs(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The MLP's down projections among `sites`."""
    return _found([s for s in sites if is_mlp_output(s)], sites, "MLP output", MLP_OUTPUTS)


def residual_writers(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The linears among `sites` whose outputs are added to the residual stream."""
    chosen = [s for s in sites if is_attention_output(s) or is_mlp_output(s)]
    return _found(chosen, sites, "residual writer", (*ATTENTION_OUTPUTS, *MLP_OUTPUTS))


def mlp_gates(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The linears whose outputs enter the MLP's activation: its gate, or its only input."""
    mlp = [s for s in sites if not in_attention(s)]
    gates = [s for s in mlp if leaf(s) in MLP_GATES]
    chosen = gates or [s for s in mlp if leaf(s) in MLP_INPUTS]
    return _found(chosen, sites, "MLP gate", (*MLP_GATES, *MLP_INPUTS))


def _found(
    chosen: Sequence[Site], sites: Sequence[Site], role: str, names: tuple[str, ...]
) -> tuple[Site, ...]:
    if not chosen:
        here = ", ".join(sorted({leaf(site) for site in sites})) or "none"
        raise InvalidInputError(
            f"No {role} among the targets ({here}). Known names: {', '.join(dict.fromkeys(names))}."
        )
    return tuple(chosen)
