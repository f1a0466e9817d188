"""The macro-policy: reads prompt features once, picks a skill at every chunk boundary.

    logits(next skill | f, prefix) = out tanh(trunk norm(f) + state[prefix])

Features are what the prompt's prefill has computed anyway; the prefix is the plan so far. Actions
that the plan space forbids get no probability. It is trained by behaviour cloning on the plans that
are worth it (see `rewards`). It knows neither adapters nor tokens.

Legend: Q queries, N decisions or prefixes, M (query, prefix) pairs, P plans, F features, H width,
A actions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bem.errors import InvalidInputError
from bem.planner.plans import STOP, PlanSpace


class MacroPolicy(nn.Module):
    """A two-layer controller over (features, plan so far)."""

    mean_F: Tensor
    scale_F: Tensor
    legal_NA: Tensor

    def __init__(
        self, space: PlanSpace, *, feature_size: int, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.space = space
        self.feature_size = feature_size
        bound = math.sqrt(3.0 / feature_size)
        self.trunk_HF = nn.Parameter(
            torch.empty(width, feature_size).uniform_(-bound, bound, generator=generator)
        )
        self.state_NH = nn.Parameter(torch.zeros(len(space.prefixes), width))
        self.out_AH = nn.Parameter(torch.zeros(len(space.actions), width))
        self.out_bias_A = nn.Parameter(torch.zeros(len(space.actions)))
        self.register_buffer("mean_F", torch.zeros(feature_size))
        self.register_buffer("scale_F", torch.ones(feature_size))
        legal = [
            [action in space.legal(prefix) for action in space.actions] for prefix in space.prefixes
        ]
        self.register_buffer("legal_NA", torch.tensor(legal), persistent=False)

    def forward(self, features_NF: Tensor, prefix_N: Tensor) -> Tensor:
        """Logits (N, A); forbidden actions are -inf. `prefix_N` indexes `space.prefixes`."""
        f_NF = (features_NF.float() - self.mean_F) * self.scale_F
        u_NH = torch.tanh(nn.functional.linear(f_NF, self.trunk_HF) + self.state_NH[prefix_N])
        logits_NA = nn.functional.linear(u_NH, self.out_AH, self.out_bias_A)
        return logits_NA.masked_fill(~self.legal_NA[prefix_N], -math.inf)

    @torch.no_grad()
    def plan(self, features_QF: Tensor) -> list[str]:
        """The most likely plan, one skill after the other."""
        plans = ["" for _ in range(len(features_QF))]
        open_ = list(range(len(plans)))
        while open_:
            prefix_N = torch.tensor([self.space.prefixes.index(plans[i]) for i in open_])
            index = torch.tensor(open_, device=features_QF.device)
            logits_NA = self(features_QF[index], prefix_N.to(features_QF.device))
            following = []
            for i, action in zip(open_, logits_NA.argmax(1).tolist(), strict=True):
                name = self.space.actions[action]
                plans[i] += name
                if name != STOP:
                    following.append(i)
            open_ = following
        return plans

    @staticmethod
    def count_parameters(space: PlanSpace, *, feature_size: int, width: int) -> int:
        """Parameters by formula."""
        actions = len(space.actions)
        return width * (feature_size + len(space.prefixes) + actions) + actions

    def forward_flops(self, decisions: float) -> float:
        """FLOPs of `decisions` forwards, products only, a multiply-add is two."""
        return 2 * decisions * (self.trunk_HF.numel() + self.out_AH.numel())


def clone_behaviour(
    policy: MacroPolicy,
    features_QF: Tensor,
    weights_QP: Tensor,
    *,
    steps: int,
    lr: float,
    weight_decay: float,
) -> list[float]:
    """Maximise the weighted likelihood of plans, full batch; returns the loss of every step.

    `weights_QP` says how much each plan of the policy's space is worth cloning on each query (rows
    of a one-hot matrix: one plan a query). Also fixes the policy's feature scaling to these
    queries' mean and standard deviation.
    """
    if len(features_QF) == 0 or len(weights_QP) != len(features_QF):
        raise InvalidInputError(f"{len(weights_QP)} rows of plans for {len(features_QF)} queries.")
    features_QF = features_QF.float()
    policy.mean_F.copy_(features_QF.mean(0))
    policy.scale_F.copy_(1.0 / (features_QF.std(0, correction=0) + 1e-5))
    weights_QNA = decision_weights(policy.space, weights_QP.to(features_QF))
    query_M, prefix_M = (weights_QNA.sum(2) > 0).nonzero(as_tuple=True)
    f_MF, target_MA = features_QF[query_M], weights_QNA[query_M, prefix_M]
    total = target_MA.sum()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=weight_decay)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        log_p_MA = policy(f_MF, prefix_M).log_softmax(1)
        loss = -(target_MA * log_p_MA.masked_fill(target_MA == 0, 0.0)).sum() / total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def decision_weights(space: PlanSpace, weights_QP: Tensor) -> Tensor:
    """How much each action after each prefix is worth (Q, N, A): the plans that take it, summed."""
    shape = (len(weights_QP), len(space.prefixes), len(space.actions))
    weights_QNA = weights_QP.new_zeros(shape)
    for column, plan in enumerate(space.plans):
        for prefix, action in space.steps(plan):
            cell = (slice(None), space.prefixes.index(prefix), space.actions.index(action))
            weights_QNA[cell] += weights_QP[:, column]
    return weights_QNA
