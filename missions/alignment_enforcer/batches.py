"""Fixed batches of training items, and the prompts' prefill kept while the skill stays the same.

A batch holds half attacks, a quarter look-alikes, a quarter plain tasks. Batches are made once a
data set, of similar lengths, and drawn in a random order; every arm of a seed sees the same
batches in the same order. Knows no arm.

Legend: B rows, P prompt positions, A answer positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bem.data import Encoded, Example, encode, pad_id_of
from missions.alignment_enforcer.checks import REFUSAL
from missions.alignment_enforcer.data import SafetyItem

#: Wrapper styles by level of the curriculum: basic, complex, adversarial.
LEVEL = {"direct": 0, "jailbreak": 1, "roleplay": 1, "noise": 1, "injection": 2}
NUM_LEVELS = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ItemBatch:
    """Rows of one batch as tensors, prompts and answers apart, both right padded."""

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    answer_ids_BA: Tensor
    answer_mask_BA: Tensor
    attack_B: Tensor
    """True where the row is an attack."""
    level: int = 0
    """Hardest wrapper among its attacks."""


def encode_items(
    items: Sequence[SafetyItem], tokenizer: Any, *, refuse_attacks: bool
) -> list[Encoded]:
    """Token ids; with `refuse_attacks` the target of an attack is the refusal."""
    return encode(
        [
            Example(
                prompt=item.prompt,
                target=REFUSAL if refuse_attacks and not item.benign else item.target,
                id=item.id,
                cluster=item.cluster,
            )
            for item in items
        ],
        tokenizer,
    )


def to_batch(
    rows: Sequence[Encoded],
    attack: Sequence[bool],
    *,
    pad_id: int,
    device: torch.device,
    level: int = 0,
) -> ItemBatch:
    """Pads prompts and answers of some rows."""
    prompts, prompt_mask = _padded([row.prompt_ids for row in rows], pad_id)
    answers, answer_mask = _padded([row.target_ids for row in rows], pad_id)
    return ItemBatch(
        prompt_ids_BP=prompts.to(device),
        prompt_mask_BP=prompt_mask.to(device),
        answer_ids_BA=answers.to(device),
        answer_mask_BA=answer_mask.to(device),
        attack_B=torch.tensor(list(attack)).to(device),
        level=level,
    )


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = [[*row, *[pad_id] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def fixed_batches(
    items: Sequence[SafetyItem],
    tokenizer: Any,
    *,
    batch_size: int,
    device: torch.device,
    refuse_attacks: bool,
) -> list[ItemBatch]:
    """Every item once, in batches of similar length; a remainder that fills no batch is left out.

    Attacks are sorted by level, then length, so that a batch has one level.
    """
    encoded = encode_items(items, tokenizer, refuse_attacks=refuse_attacks)
    lengths = [len(row.prompt_ids) for row in encoded]
    level_of = [LEVEL.get(item.wrapper.rpartition("-")[0], 0) for item in items]
    parts: list[list[int]] = []
    for label in ("attack", "lookalike", "plain"):
        members = [i for i, item in enumerate(items) if item.label == label]
        if label == "attack":
            members.sort(key=lambda i: (level_of[i], lengths[i], items[i].id))
        else:
            members.sort(key=lambda i: (lengths[i], items[i].id))
        parts.append(members)
    quarter = batch_size // 4
    count = min(len(parts[0]) // (2 * quarter), len(parts[1]) // quarter, len(parts[2]) // quarter)
    batches = []
    for at in range(count):
        chosen = [
            *parts[0][at * 2 * quarter : (at + 1) * 2 * quarter],
            *parts[1][at * quarter : (at + 1) * quarter],
            *parts[2][at * quarter : (at + 1) * quarter],
        ]
        batches.append(
            to_batch(
                [encoded[i] for i in chosen],
                [not items[i].benign for i in chosen],
                pad_id=pad_id_of(tokenizer),
                device=device,
                level=max(level_of[i] for i in chosen),
            )
        )
    return batches


def draw_order(
    levels: Sequence[int], steps: int, rng: np.random.Generator, *, curriculum: bool
) -> list[int]:
    """Which batch each step takes: epochs of random order over the batches that are allowed.

    With `curriculum`, the first third of the steps takes level 0, the second levels 0-1, the last
    all of them.
    """
    order: list[int] = []
    while len(order) < steps:
        stage = len(order) * NUM_LEVELS // steps if curriculum else NUM_LEVELS - 1
        allowed = [i for i, level in enumerate(levels) if level <= stage] or list(
            range(len(levels))
        )
        epoch = [allowed[int(k)] for k in rng.permutation(len(allowed))]
        ends = -(-(stage + 1) * steps // NUM_LEVELS) if curriculum else steps
        order.extend(epoch[: max(1, ends - len(order))])
    return order[:steps]
