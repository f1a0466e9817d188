"""Optimizer groups of a host: what is trained, at which rate, and what the loop must call.

It knows no kind of adapter; `bem.training.fit` takes the groups as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bem.injection import AdapterHost


def parameter_groups(
    host: AdapterHost, lr: float, controller_lr_scale: float
) -> list[dict[str, Any]]:
    """Factors at `lr`, controllers lower; the first group carries the calls of its adapters."""
    slow = {id(p) for n in host.adapters for p in host[n].controller_parameters()}
    parameters = [p for p in host.adapters.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"name": "factors", "lr": lr, "params": [p for p in parameters if id(p) not in slow]},
        {
            "name": "controller",
            "lr": lr * controller_lr_scale,
            "params": [p for p in parameters if id(p) in slow],
        },
    ]
    groups = [group for group in groups if group["params"]]
    trained = [host[n] for n in host.adapters if host[n].num_parameters()]
    if groups and any(adapter.has_auxiliary_loss for adapter in trained):
        groups[0]["auxiliary_loss"] = host.auxiliary_loss
    if groups and any(adapter.has_after_step for adapter in trained):
        groups[0]["after_step"] = host.after_step
    return groups
