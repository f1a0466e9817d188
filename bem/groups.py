"""Optimizer groups of a host: what is trained, at which rate, and what the loop must call.

It knows no kind of adapter; `bem.training.fit` takes the groups as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bem.injection import AdapterHost


def parameter_groups(
    host: AdapterHost, lr: float, controller_lr_scale: float, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Factors at `lr`, controllers lower; the first group carries the calls of its adapters.

    With `names`, those adapters alone: runs that are trained side by side have groups each.
    """
    chosen = tuple(host.adapters) if names is None else tuple(names)
    slow = {id(p) for n in chosen for p in host[n].controller_parameters()}
    every = {id(p): p for n in chosen for p in host[n].parameters() if p.requires_grad}
    parameters = list(every.values())
    groups: list[dict[str, Any]] = [
        {"name": "factors", "lr": lr, "params": [p for p in parameters if id(p) not in slow]},
        {
            "name": "controller",
            "lr": lr * controller_lr_scale,
            "params": [p for p in parameters if id(p) in slow],
        },
    ]
    groups = [group for group in groups if group["params"]]
    trained = [n for n in chosen if host[n].num_parameters()]
    if groups and any(host[n].has_auxiliary_loss for n in trained):
        groups[0]["auxiliary_loss"] = functools.partial(host.auxiliary_loss, names)
    if groups and any(host[n].has_after_step for n in trained):
        groups[0]["after_step"] = functools.partial(host.after_step, names=names)
        groups[0]["carried"] = {
            f"{n}.{key}": value for n in trained for key, value in host[n].carried().items()
        }
    return groups
