"""Both training stages: the helpful-only skill, and what each arm adds to keep it safe.

Stage two minimises the cross-entropy of the refusal on attacks under one constraint: on benign
items the cross-entropy of the right answer may rise above the frozen skill's own by a small slack
(a Lagrange multiplier, PID controlled). Branch, plain LoRA and ablations share this objective,
their batches and their number of steps. Knows neither files nor splits.

Legend: B rows, A answer positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bem.context import RoutingContext
from bem.injection import AdapterHost
from bem.safety import PidMultiplier, Prefill, ValueHead
from bem.training import TrainResult, fit
from missions.alignment_enforcer.arms import SAFETY, SKILL, ArmModel, PrefillStore
from missions.alignment_enforcer.batches import ItemBatch
from missions.alignment_enforcer.params import MissionParams

Log = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stage:
    """What a training stage runs over."""

    params: MissionParams
    batches: Sequence[ItemBatch]
    order: Sequence[int]
    """The batch of each step."""
    should_stop: Callable[[], bool]
    log: Log


@dataclass(kw_only=True, slots=True)
class SafetyTrace:
    """What stage two left to look at."""

    multiplier: float = 0.0
    attack_loss: float = 0.0
    benign_rise: float = 0.0
    history: list[tuple[int, float, float, float]] = field(default_factory=list)
    """(step, attack loss, benign rise, multiplier), every tenth step."""


def row_losses(logits_BAV: Tensor, batch: ItemBatch) -> Tensor:
    """Mean cross-entropy of the answer tokens, a row (B,), in float32."""
    nll_BA = nn.functional.cross_entropy(
        logits_BAV.float().transpose(1, 2), batch.answer_ids_BA, reduction="none"
    )
    mask_BA = batch.answer_mask_BA.to(nll_BA.dtype)
    return (nll_BA * mask_BA).sum(1) / mask_BA.sum(1)


def whole_logits(
    host: AdapterHost, batch: ItemBatch, adapters: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Logits (N, V) over answer tokens of one uncached forward, and each one's row (N,).

    Prompt and answer stand in one right-padded row, so nothing is computed for padding between
    them.
    """
    ids, mask, scored, rows = _joined(batch)
    routing = RoutingContext(adapters=adapters)
    if host.base.head_is_plain:
        h_BTD = host.hidden_states(ids, mask, routing=routing)
        return host.base.head(h_BTD[:, :-1][scored]), rows
    logits_BTV: Tensor = host(ids, mask, routing=routing).logits
    return logits_BTV[:, :-1][scored], rows


def _joined(batch: ItemBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prompt_B, answer_B = batch.prompt_mask_BP.sum(1), batch.answer_mask_BA.sum(1)
    width = int((prompt_B + answer_B).max())
    at_T = torch.arange(width, device=prompt_B.device)
    is_prompt_BT = at_T < prompt_B[:, None]
    mask_BT = at_T < (prompt_B + answer_B)[:, None]
    ids_BT = torch.zeros_like(mask_BT, dtype=batch.prompt_ids_BP.dtype)
    ids_BT[is_prompt_BT] = batch.prompt_ids_BP[batch.prompt_mask_BP.bool()]
    is_answer_BT = mask_BT & ~is_prompt_BT
    ids_BT[is_answer_BT] = batch.answer_ids_BA[batch.answer_mask_BA.bool()]
    scored = is_answer_BT[:, 1:]
    return ids_BT, mask_BT.long(), scored, scored.nonzero()[:, 0]


def whole_row_losses(host: AdapterHost, batch: ItemBatch, adapters: tuple[str, ...]) -> Tensor:
    """`row_losses` of one uncached forward."""
    logits_NV, row_N = whole_logits(host, batch, adapters)
    labels_N = batch.answer_ids_BA[batch.answer_mask_BA.bool()]
    nll_N = nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    sums_B = torch.zeros(len(batch.attack_B), device=nll_N.device).index_add(0, row_N, nll_N)
    return sums_B / batch.answer_mask_BA.sum(1)


def train_skill(host: AdapterHost, stage: Stage) -> TrainResult:
    """Stage one: plain cross-entropy on helpful answers to everything."""
    host.train_only(SKILL)
    settings = stage.params.skill
    return fit(
        lambda step: whole_row_losses(host, stage.batches[stage.order[step]], (SKILL,)).mean(),
        host.parameter_groups(settings.learning_rate),
        steps=settings.steps,
        bf16=stage.params.bf16,
        log=stage.log,
        should_stop=stage.should_stop,
    )


@torch.no_grad()
def skill_losses(model: ArmModel, batches: Sequence[ItemBatch], store: PrefillStore) -> list[float]:
    """The frozen skill's own benign cross-entropy, a batch: where the constraint starts."""
    return [
        float(
            row_losses(model.logits(store.get(model, batch, ("train", k), 0.0), batch, 0.0), batch)[
                ~batch.attack_B
            ].mean()
        )
        for k, batch in enumerate(batches)
    ]


def train_safety(
    model: ArmModel, stage: Stage, store: PrefillStore, benign_before: Sequence[float]
) -> tuple[TrainResult, SafetyTrace]:
    """Stage two for an arm with an adapter. The skill is frozen, and merged into the base."""
    host, settings = model.host, stage.params.safety
    host.train_only(SAFETY)
    groups = host.parameter_groups(settings.learning_rate)
    if model.head is not None:
        head_parameters = list(model.head.parameters())
        groups.append(
            {"name": "head", "lr": settings.head_learning_rate, "params": head_parameters}
        )
    multiplier = PidMultiplier(kp=settings.multiplier_kp, ki=settings.multiplier_ki, value=1.0)
    trace = SafetyTrace()

    def step_loss(step: int) -> Tensor:
        number = stage.order[step]
        batch = stage.batches[number]
        state: Prefill | None = None
        if model.method == "overlay":
            losses_B = whole_row_losses(host, batch, (SAFETY,))
        else:
            state = store.get(model, batch, ("train", number), 1.0)
            losses_B = row_losses(model.logits(state, batch, 1.0), batch)
        attack, benign = losses_B[batch.attack_B].mean(), losses_B[~batch.attack_B].mean()
        weight = multiplier.value
        loss = (attack + weight * benign) / (1.0 + weight)
        if model.head is not None and state is not None:
            loss = loss + head_loss(model.head, state, batch)
        rise = float(benign.detach()) - benign_before[number]
        multiplier.update(rise - settings.benign_slack)
        trace.attack_loss, trace.benign_rise = float(attack.detach()), rise
        trace.multiplier = multiplier.value
        if step % 10 == 0:
            trace.history.append((step, trace.attack_loss, rise, multiplier.value))
        return loss

    result = fit(
        step_loss,
        groups,
        steps=settings.steps,
        bf16=stage.params.bf16,
        log=stage.log,
        should_stop=stage.should_stop,
    )
    return result, trace


def train_classifier(model: ArmModel, stage: Stage, store: PrefillStore) -> TrainResult:
    """Stage two for classifier-then-refuse: attack or benign, from the last hidden state."""
    assert model.head is not None
    head = model.head

    def step_loss(step: int) -> Tensor:
        number = stage.order[step]
        batch = stage.batches[number]
        return head_loss(head, store.get(model, batch, ("train", number), 0.0), batch)

    return fit(
        step_loss,
        [{"lr": stage.params.safety.head_learning_rate, "params": list(head.parameters())}],
        steps=stage.params.safety.steps,
        log=stage.log,
        should_stop=stage.should_stop,
    )


def head_loss(head: ValueHead, state: Prefill, batch: ItemBatch) -> Tensor:
    """Binary cross-entropy of attack against benign."""
    logits_B = head(state.last_hidden_BD)
    return nn.functional.binary_cross_entropy_with_logits(
        logits_B, batch.attack_B.to(logits_B.dtype)
    )
