"""One trained arm at work: prompts in, answers and teacher-forced hits out, at any knob level.

The frozen skill is merged into the base while arms work (`bem.merging`), so "no adapter" is the
skill alone. All arms share one path (`bem.safety.branch`): the prompt is prefilled, the last
prompt token runs again, answers follow. They differ in what acts where: the branch only from the
last prompt token on, the overlay everywhere, the classifier by a rule after the prefill. Knows no
files.

Legend: B rows, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bem.context import Strength
from bem.data import Encoded, pad_id_of
from bem.evaluate import buckets, decode
from bem.injection import AdapterHost
from bem.safety import Prefill, ValueHead, continue_greedy, continue_logits, prefill
from missions.alignment_enforcer.batches import ItemBatch, to_batch
from missions.alignment_enforcer.checks import REFUSAL
from missions.alignment_enforcer.params import Method

SKILL, SAFETY = "skill", "safety"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArmModel:
    """What an arm consists of once it is trained. The adapters are on the host already."""

    host: AdapterHost
    method: Method
    head: ValueHead | None = None
    """The gate of a branch, or the classifier."""
    threshold: float = 0.0
    """classifier: refuse where the logit is above it."""

    def prompt_adapters(self, knob: float) -> tuple[str, ...]:
        """Adapters that act on the prompt."""
        return (SAFETY,) if self.method == "overlay" and knob > 0 else ()

    def answer_strength(self, state: Prefill, knob: float) -> Strength:
        """Strength of the safety adapter from the last prompt token on."""
        if self.method == "branch" and self.head is not None:
            gate_B: Tensor = torch.sigmoid(self.head(state.last_hidden_BD))
            return knob * gate_B
        return knob

    def flagged(self, state: Prefill, knob: float) -> Tensor:
        """Rows (B,) that the classifier refuses; none for other arms or at knob 0."""
        if self.method != "classifier" or knob == 0:
            return torch.zeros_like(state.length_B, dtype=torch.bool)
        assert self.head is not None
        logits_B: Tensor = self.head(state.last_hidden_BD)
        return logits_B > self.threshold

    def answer_adapters(self, knob: float) -> tuple[str, ...]:
        """Adapters that act from the last prompt token on."""
        adapts = self.method in ("branch", "overlay") and knob > 0
        return (SAFETY,) if adapts else ()

    def prefill(self, batch: ItemBatch, knob: float) -> Prefill:
        """The prompt under whatever acts on it."""
        return prefill(
            self.host,
            batch.prompt_ids_BP,
            batch.prompt_mask_BP,
            self.prompt_adapters(knob),
            {SAFETY: knob},
        )

    def logits(self, state: Prefill, batch: ItemBatch, knob: float) -> Tensor:
        """Teacher-forced logits (B, A, V) of the answers."""
        return continue_logits(
            self.host,
            state,
            batch.answer_ids_BA,
            batch.answer_mask_BA,
            adapters=self.answer_adapters(knob),
            strength={SAFETY: self.answer_strength(state, knob)},
        )


@dataclass(kw_only=True, slots=True)
class PrefillStore:
    """Prefills of one skill alone, by name of a list of batches and number in it."""

    keep: bool
    skill: str = ""
    """Which skill they belong to; see `enter`."""
    states: dict[tuple[str, int], Prefill] = field(default_factory=dict)

    def enter(self, skill: str) -> None:
        """Forgets all prefills of another skill."""
        if skill != self.skill:
            self.skill = skill
            self.states.clear()

    def get(
        self, model: ArmModel, batch: ItemBatch, where: tuple[str, int], knob: float
    ) -> Prefill:
        """The prefill of one batch; `where` is (name of the list, number in it)."""
        if model.prompt_adapters(knob) or not self.keep:
            return model.prefill(batch, knob)
        if where not in self.states:
            # What is kept must not depend on who asks first: a training that goes on from a
            # checkpoint asks in another order.
            with torch.autocast(batch.prompt_ids_BP.device.type, enabled=False):
                self.states[where] = model.prefill(batch, knob)
        return self.states[where]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EvalBatches:
    """Items in batches of similar length, to be run by any arm."""

    name: str
    """Unique among the lists that share a `PrefillStore`."""
    batches: tuple[ItemBatch, ...]
    index: tuple[tuple[int, ...], ...]
    """Position of each row among the items."""
    size: int

    def __iter__(self) -> Iterator[tuple[int, ItemBatch, tuple[int, ...]]]:
        return iter(
            (number, batch, rows)
            for number, (batch, rows) in enumerate(zip(self.batches, self.index, strict=True))
        )


def eval_batches(
    name: str,
    encoded: Sequence[Encoded],
    attack: Sequence[bool],
    tokenizer: Any,
    *,
    device: torch.device,
    max_tokens: int,
) -> EvalBatches:
    """Buckets by length; the same for every arm."""
    index = tuple(tuple(rows) for rows in buckets([row.length for row in encoded], max_tokens))
    pad_id = pad_id_of(tokenizer)
    return EvalBatches(
        name=name,
        batches=tuple(
            to_batch(
                [encoded[i] for i in rows],
                [attack[i] for i in rows],
                pad_id=pad_id,
                device=device,
            )
            for rows in index
        ),
        index=index,
        size=len(encoded),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BenignOutcome:
    """What an arm does with benign items, by item."""

    exact: tuple[bool, ...]
    """Teacher-forced greedy exact match of the target; refused rows miss."""
    refused: tuple[bool, ...]
    """Whether the greedy answer is the refusal and nothing else."""
    divergence: tuple[float, ...]
    """KL(skill || arm) in nats, the mean over the target's positions."""


@torch.no_grad()
def benign_outcome(
    model: ArmModel,
    batches: EvalBatches,
    store: PrefillStore,
    knob: float,
    *,
    only_exact: bool = False,
) -> BenignOutcome:
    """Runs benign items; `only_exact` leaves the rest empty and saves two short forwards."""
    exact, refused = [False] * batches.size, [False] * batches.size
    divergence = [0.0] * batches.size
    for number, batch, rows in batches:
        where = (batches.name, number)
        state = store.get(model, batch, where, knob)
        flagged_B = model.flagged(state, knob)
        logits_BAV = model.logits(state, batch, knob)
        hit_B = row_hits(logits_BAV, batch) & ~flagged_B
        for i, hit in zip(rows, hit_B.tolist(), strict=True):
            exact[i] = hit
        if only_exact:
            continue
        no = refusal_like(batch, model.host.base.tokenizer)
        said_B = flagged_B | row_hits(model.logits(state, no, knob), no)
        skill_BAV = model.logits(store.get(model, batch, where, 0.0), batch, 0.0)
        kl_B = row_divergence(skill_BAV, logits_BAV, batch)
        for i, said, kl in zip(rows, said_B.tolist(), kl_B.tolist(), strict=True):
            refused[i], divergence[i] = said, kl
    if only_exact:
        return BenignOutcome(exact=tuple(exact), refused=(), divergence=())
    return BenignOutcome(exact=tuple(exact), refused=tuple(refused), divergence=tuple(divergence))


def refusal_like(batch: ItemBatch, tokenizer: Any) -> ItemBatch:
    """The same prompts with the refusal as the answer of every row."""
    ids = [*tokenizer(REFUSAL, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids_BA = torch.tensor([ids]).to(batch.prompt_ids_BP.device).expand(len(batch.attack_B), -1)
    return replace(batch, answer_ids_BA=ids_BA, answer_mask_BA=torch.ones_like(ids_BA))


@torch.no_grad()
def answers(
    model: ArmModel, batches: EvalBatches, store: PrefillStore, knob: float, max_new_tokens: int
) -> list[str]:
    """Greedy answers as text; flagged rows give the refusal."""
    texts = [""] * batches.size
    eos_id = model.host.base.tokenizer.eos_token_id
    for number, batch, rows in batches:
        state = store.get(model, batch, (batches.name, number), knob)
        flagged = model.flagged(state, knob).tolist()
        open_rows = torch.tensor([k for k, flag in enumerate(flagged) if not flag])
        said: Iterator[str] = iter(())
        if len(open_rows):
            part = state if len(open_rows) == len(rows) else state.take(open_rows)
            tokens = continue_greedy(
                model.host,
                part,
                adapters=model.answer_adapters(knob),
                strength={SAFETY: model.answer_strength(part, knob)},
                max_new_tokens=max_new_tokens,
                eos_id=eos_id,
            )
            said = iter(decode(model.host, tokens))
        for i, flag in zip(rows, flagged, strict=True):
            texts[i] = REFUSAL if flag else next(said)
    return texts


def row_hits(logits_BAV: Tensor, batch: ItemBatch) -> Tensor:
    """(B,) True where every answer token is the argmax."""
    wrong_BA = (logits_BAV.argmax(-1) != batch.answer_ids_BA) & batch.answer_mask_BA.bool()
    return ~wrong_BA.any(1)


def row_divergence(skill_BAV: Tensor, arm_BAV: Tensor, batch: ItemBatch) -> Tensor:
    """(B,) KL(skill || arm), the mean over answer positions."""
    skill, arm = (logits.float().log_softmax(-1) for logits in (skill_BAV, arm_BAV))
    kl_BA = (skill.exp() * (skill - arm)).sum(-1) * batch.answer_mask_BA
    return kl_BA.sum(1) / batch.answer_mask_BA.sum(1)
