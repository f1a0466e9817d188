"""Both training stages: the helpful-only skill, and what each arm adds to keep it safe.

Stage two minimises the cross-entropy of the refusal on attacks under one constraint: on benign
answers the arm may diverge from the frozen skill, KL(skill || arm), by a small slack (a Lagrange
multiplier, PID controlled). Branch, plain LoRA and ablations share this objective,
their batches and their number of steps. Knows neither files nor splits.

Legend: B rows, A answer positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bem.context import RoutingContext
from bem.injection import AdapterHost
from bem.safety import PidMultiplier, Prefill, ValueHead
from bem.training import TrainResult, fit
from bem.training_checkpoint import StageCheckpoints
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
    checkpoints: Callable[[str], StageCheckpoints | None] = lambda stage: None
    """Where a training of this name is kept."""


@dataclass(kw_only=True, slots=True)
class SafetyTrace:
    """What stage two left to look at."""

    multiplier: float = 0.0
    attack_loss: float = 0.0
    benign_kl: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        for name in self.__slots__:
            setattr(self, name, state_dict[name])


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


def train_skill(host: AdapterHost, stage: Stage) -> TrainResult:
    """Stage one: plain cross-entropy on helpful answers to everything."""
    host.train_only(SKILL)
    settings = stage.params.skill

    def step_loss(step: int) -> Tensor:
        batch = stage.batches[stage.order[step]]
        logits_NV, _ = whole_logits(host, batch, (SKILL,))
        return nn.functional.cross_entropy(logits_NV.float(), answer_labels(batch))

    return fit(
        step_loss,
        host.parameter_groups(settings.learning_rate),
        steps=settings.steps,
        bf16=stage.params.bf16,
        log=stage.log,
        should_stop=stage.should_stop,
        checkpoints=stage.checkpoints("skill"),
    )


def answer_labels(batch: ItemBatch) -> Tensor:
    """The answer tokens (N,), row by row."""
    return batch.answer_ids_BA[batch.answer_mask_BA.bool()]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SkillReference:
    """The frozen skill's own predictions on benign answers: where the constraint starts."""

    skill: ArmModel
    batches: Sequence[ItemBatch]
    store: PrefillStore
    kept: dict[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def log_probs(self, number: int) -> Tensor:
        """Log probabilities (N, V) at the answer positions of batch `number`'s benign rows."""
        found = self.kept.get(number)
        if found is None:
            batch = self.batches[number]
            state = self.store.get(self.skill, batch, ("train", number), 0.0)
            logits = self.skill.logits(state, batch, 0.0)[_benign_positions(batch)]
            found = logits.float().log_softmax(-1)
            if self.store.keep:
                self.kept[number] = found
        return found


def _benign_positions(batch: ItemBatch) -> Tensor:
    """(B, A) True at answer tokens of benign rows."""
    return batch.answer_mask_BA.bool() & ~batch.attack_B[:, None]


def attack_loss(logits_NV: Tensor, labels_N: Tensor, row_N: Tensor, batch: ItemBatch) -> Tensor:
    """Cross-entropy of the refusal, the mean over answer tokens of attacks."""
    attack_N = batch.attack_B[row_N]
    return nn.functional.cross_entropy(logits_NV[attack_N].float(), labels_N[attack_N])


def divergence(reference_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """Mean KL(skill || arm) in nats a token."""
    return nn.functional.kl_div(
        logits_NV.float().log_softmax(-1), reference_NV, reduction="batchmean", log_target=True
    )


def train_safety(
    model: ArmModel, stage: Stage, reference: SkillReference
) -> tuple[TrainResult, SafetyTrace]:
    """Stage two for an arm with an adapter. The skill is frozen, and merged into the base."""
    host, settings, store = model.host, stage.params.safety, reference.store
    host.train_only(SAFETY)
    groups = host.parameter_groups(settings.learning_rate)
    if model.head is not None:
        train_head(model, stage, store)
        head_parameters = list(model.head.parameters())
        groups.append(
            {"name": "head", "lr": settings.head_learning_rate, "params": head_parameters}
        )
    multiplier = PidMultiplier(kp=settings.multiplier_kp, ki=settings.multiplier_ki, value=1.0)
    trace = SafetyTrace()

    def step_loss(step: int) -> Tensor:
        number = stage.order[step]
        batch = stage.batches[number]
        penalty: Tensor | float = 0.0
        if model.method == "overlay":
            logits_NV, row_N = whole_logits(host, batch, (SAFETY,))
        else:
            state = store.get(model, batch, ("train", number), 1.0)
            answer_BA = batch.answer_mask_BA.bool()
            logits_NV = model.logits(state, batch, 1.0)[answer_BA]
            row_N = answer_BA.nonzero()[:, 0]
            if model.head is not None:
                penalty = head_loss(model.head, state, batch)
        attack = attack_loss(logits_NV, answer_labels(batch), row_N, batch)
        benign = divergence(reference.log_probs(number), logits_NV[~batch.attack_B[row_N]])
        weight = multiplier.value
        loss: Tensor = (attack + weight * benign) / (1.0 + weight) + penalty
        trace.attack_loss, trace.benign_kl = float(attack.detach()), float(benign.detach())
        trace.multiplier = multiplier.update(trace.benign_kl - settings.benign_slack)
        return loss

    result = fit(
        step_loss,
        groups,
        steps=settings.steps,
        bf16=stage.params.bf16,
        log=stage.log,
        should_stop=stage.should_stop,
        checkpoints=stage.checkpoints("safety"),
        carried={"multiplier": multiplier, "trace": trace},
    )
    return result, trace


def train_head(model: ArmModel, stage: Stage, store: PrefillStore) -> TrainResult:
    """Gate or classifier: attack or benign, from the last hidden state. The same for both."""
    assert model.head is not None
    head, settings = model.head, stage.params.safety

    def step_loss(step: int) -> Tensor:
        number = stage.order[step % len(stage.order)]
        batch = stage.batches[number]
        return head_loss(head, store.get(model, batch, ("train", number), 0.0), batch)

    return fit(
        step_loss,
        [{"lr": settings.head_learning_rate, "params": list(head.parameters())}],
        steps=settings.head_steps,
        weight_decay=settings.head_weight_decay,
        should_stop=stage.should_stop,
        checkpoints=stage.checkpoints("head"),
    )


def head_loss(head: ValueHead, state: Prefill, batch: ItemBatch) -> Tensor:
    """Binary cross-entropy of attack against benign."""
    logits_B = head(state.last_hidden_BD)
    return nn.functional.binary_cross_entropy_with_logits(
        logits_B, batch.attack_B.to(logits_B.dtype)
    )
