"""Measuring what a base model can do, and refusing one that cannot do enough.

Exact match under teacher forcing: every answer token, the closing token included, is the argmax
given the right tokens before it, which is when greedy decoding writes exactly the answer. Works on
any Hugging Face causal LM with its tokenizer; knows nothing about adapters or missions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bem.base import BaseModel
from missions.data.splits import Split
from missions.data.tasks import SKILLS, TaskItem, sample_item
from missions.errors import BaseBelowFloorError

_SKILL_WORDS = {
    "copy_name": "copies unseen names",
    "lookup": "looks up fields",
    "json": "writes records as JSON",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SkillResult:
    """Exact match of one skill on `num_items` items with its Wilson 95 % interval."""

    skill: str
    exact_match: float
    num_items: int
    low: float
    high: float


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson score interval at 95 % for a share (Wilson 1927)."""
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"need 0 <= hits <= total and total > 0, got {hits} of {total}")
    z = 1.959963984540054
    share = hits / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _rows(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[TaskItem], context: str
) -> list[tuple[list[int], int]]:
    """Token ids of each item and the number of prompt tokens among them."""
    prompts = tokenizer([context + item.prompt for item in items])["input_ids"]
    close = "\n" if context else ""
    answers = tokenizer([item.target + close for item in items], add_special_tokens=False)
    end = [] if context or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [
        ([*prompt, *answer, *end], len(prompt))
        for prompt, answer in zip(prompts, answers["input_ids"], strict=True)
    ]


@torch.no_grad()
def exact_matches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[TaskItem],
    *,
    context: str = "",
    batch_size: int = 50,
) -> list[bool]:
    """Teacher-forced exact match of every item.

    `context` stands in front of every prompt (solved examples for a base that was not trained on
    these prompts); with it the closing token is a newline, without it eos.
    """
    was_training = model.training
    model.eval()
    rows = _rows(tokenizer, items, context)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    hits = [False] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(rows[index][0]) for index in chosen)
        ids_BT = torch.zeros((len(chosen), width), dtype=torch.long)
        for row, index in enumerate(chosen):
            ids = rows[index][0]
            ids_BT[row, : len(ids)] = torch.tensor(ids)
        # Padding stands after each row: a causal model needs no mask for what is before it.
        logits_BTV = model(input_ids=ids_BT.to(model.device), use_cache=False).logits
        best_BT = logits_BTV.argmax(-1).cpu()
        for row, index in enumerate(chosen):
            ids, num_prompt = rows[index]
            told = best_BT[row, num_prompt - 1 : len(ids) - 1]
            hits[index] = told.tolist() == ids[num_prompt:]
    model.train(was_training)
    return hits


def solved_examples(rng: np.random.Generator, skill: str, shots: int) -> str:
    """`shots` train items with their answers, one after the other."""
    items = [sample_item(rng, "train", skill) for _ in range(shots)]
    return "".join(f"{item.prompt}{item.target}\n" for item in items)


def measure_skills(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
    *,
    skills: Sequence[str] = tuple(SKILLS),
    split: Split = "dev",
    num_items: int = 1000,
    shots: int = 0,
) -> list[SkillResult]:
    """Exact match of each skill on fresh items of `split` in surface forms of train."""
    results = []
    for skill in skills:
        items = [sample_item(rng, split, skill) for _ in range(num_items)]
        context = solved_examples(rng, skill, shots)
        hits = sum(exact_matches(model, tokenizer, items, context=context))
        low, high = wilson_interval(hits, num_items)
        results.append(
            SkillResult(
                skill=skill, exact_match=hits / num_items, num_items=num_items, low=low, high=high
            )
        )
    return results


def check_floor(
    base: BaseModel,
    floor: Mapping[str, float],
    *,
    needed_by: str = "the mission",
    num_items: int = 200,
    shots: int = 0,
    seed: int = 0,
) -> tuple[SkillResult, ...]:
    """Measure the named skills and raise if the base misses a floor.

    Args:
        base: any causal LM, as `bem.base.load_base` gives it.
        floor: skill -> least exact match (`{"copy_name": 0.95}`).
        needed_by: who asks, for the message ("mission A").
        num_items: dev items a skill: names and operand pairs that no training stream holds.
        shots: solved examples in front of each prompt, for a base not trained on these prompts.
        seed: seed of the items.

    Returns:
        The measured figures, when all floors are met.

    Raises:
        BaseBelowFloorError: with one line that names base, figure, n and floor.
        ValueError: for an unknown skill.
    """
    unknown = [skill for skill in floor if skill not in SKILLS]
    if unknown:
        raise ValueError(f"unknown skills {unknown} in the floor; known: {', '.join(SKILLS)}")
    results = measure_skills(
        base.model,
        base.tokenizer,
        np.random.default_rng(seed),
        skills=tuple(floor),
        num_items=num_items,
        shots=shots,
    )
    misses = [
        f"base model {base.ref} {_SKILL_WORDS.get(result.skill, 'does ' + result.skill)} at "
        f"{result.exact_match:.2f} (n={result.num_items}); {needed_by} needs >= "
        f"{floor[result.skill]:.2f}"
        for result in results
        if result.exact_match < floor[result.skill]
    ]
    if misses:
        raise BaseBelowFloorError("; ".join(misses))
    return tuple(results)
