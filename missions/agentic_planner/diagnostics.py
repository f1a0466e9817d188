"""Is the controller used? Code variance, and what shuffled codes cost on gold dev chains.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bem.data import pad_id_of
from bem.diagnostics import code_variance, shift
from bem.evaluate import target_loss
from bem.injection import AdapterHost
from missions.agentic_planner.chains import Chain, training_batch
from missions.agentic_planner.skills import FUSED, fused_routing, skill_routing
from missions.seeding import torch_generator

_ROWS = 64


@torch.inference_mode()
def code_figures(
    host: AdapterHost, names: Sequence[str], chains: Sequence[Chain], seed: int
) -> dict[str, float]:
    """Variance of each adapter's code over queries, and the shuffled-code gap in nats a token."""
    fused = tuple(names) == (FUSED,)
    batch, skill_BT = training_batch(
        chains[:_ROWS],
        pad_id=pad_id_of(host.base.tokenizer),
        learn_markers=fused,
        device=host.base.device,
    )
    make = fused_routing if fused else skill_routing
    own = make(batch, skill_BT)
    own.record = True
    loss = float(target_loss(host, batch, own))
    order = shift(len(batch.ids), torch_generator(seed, "agentic_planner", "shuffle"))
    permutation = order.to(host.base.device)
    other = make(batch, skill_BT)
    other.code_map = lambda code: code[permutation]
    shuffled = float(target_loss(host, batch, other))
    figures = {f"code_variance_{name}": code_variance(own.trace[name][0]) for name in names}
    return {**figures, "code_shuffled_gap": shuffled - loss}
