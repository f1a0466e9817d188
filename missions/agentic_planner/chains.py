"""Chains as tokens: a prompt, then one chunk for each skill of the plan.

    <bos> prompt | <marker R> records newline  values <sep> | <marker E>  result <sep> | ...

Spaces apart, what stands before the two blanks of a chunk is given to it, what follows is written
by its skill. A chunk's tokens belong to its skill from the marker to the separator. It knows
neither adapters nor training.

Legend: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bem.data import IGNORED, Batch
from missions.agentic_planner.world import Item

SKILLS = "REF"
"""Retrieve-use, reason, format: the skills in their order."""
SKILL_NAMES = {"R": "retrieve", "E": "reason", "F": "format"}
_CLAIMED = {"R": "<plan0>", "E": "<plan1>", "F": "<plan2>"}
_SEPARATOR = "<sep>"
PROMPT = -1
"""The skill index of prompt positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The token ids that divide a chain."""

    marker: dict[str, int]
    separator: int

    @classmethod
    def of(cls, tokenizer: Any) -> Marks:
        """The world's claimed tokens; for another tokenizer the first token of a plain word.

        Raises:
            ValueError: a foreign tokenizer gives two marks the same token.
        """
        vocabulary = tokenizer.get_vocab()
        if _SEPARATOR in vocabulary and all(token in vocabulary for token in _CLAIMED.values()):
            return cls(
                marker={skill: vocabulary[token] for skill, token in _CLAIMED.items()},
                separator=vocabulary[_SEPARATOR],
            )
        words = {**{skill: f" {name}" for skill, name in SKILL_NAMES.items()}, "separator": "\n"}
        ids = {
            k: tokenizer(word, add_special_tokens=False)["input_ids"] for k, word in words.items()
        }
        # The last token: byte-level tokenizers spend the first one on the blank.
        chosen = {key: int(tokens[-1]) for key, tokens in ids.items()}
        if len(set(chosen.values())) < len(chosen):
            chosen = {key: int(tokens[min(1, len(tokens) - 1)]) for key, tokens in ids.items()}
        if len(set(chosen.values())) < len(chosen):
            raise ValueError(
                f"Tokenizer '{tokenizer.name_or_path}' gives the marks of mission A the tokens "
                f"{chosen}; they must differ. Add {', '.join(_CLAIMED.values())}, {_SEPARATOR}."
            )
        separator = chosen.pop("separator")
        return cls(marker=chosen, separator=separator)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One chunk of a gold chain."""

    skill: str
    given: tuple[int, ...]
    """The marker, and for R the records."""
    written: tuple[int, ...]
    """What the skill writes, the separator included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """One item as tokens."""

    item: Item
    prompt: tuple[int, ...]
    records: tuple[int, ...]
    """The retrieved records as R gets them."""
    chunks: tuple[Chunk, ...]
    """The gold plan's."""

    @property
    def length(self) -> int:
        """Tokens of prompt and gold chunks."""
        return len(self.prompt) + sum(len(c.given) + len(c.written) for c in self.chunks)


def encode_chains(items: Sequence[Item], tokenizer: Any, marks: Marks) -> list[Chain]:
    """Tokenizes prompts, records and gold chunks."""
    if not items:
        return []
    prompts = tokenizer([item.query.prompt for item in items])["input_ids"]

    def plain(texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    records = plain(["; ".join(item.retrieved) + "\n" for item in items])
    told = iter(plain([text for item in items for _, text in item.query.chain]))
    chains = []
    for item, prompt, record in zip(items, prompts, records, strict=True):
        chunks = tuple(
            Chunk(
                skill=skill,
                given=(marks.marker[skill], *(record if skill == "R" else ())),
                written=(*next(told), marks.separator),
            )
            for skill, _ in item.query.chain
        )
        chains.append(Chain(item=item, prompt=tuple(prompt), records=tuple(record), chunks=chunks))
    return chains


def budgets(chains: Sequence[Chain]) -> dict[str, int]:
    """Most tokens that each skill may write, its separator apart: the longest gold text."""
    longest = dict.fromkeys(SKILLS, 1)
    for chain in chains:
        for chunk in chain.chunks:
            longest[chunk.skill] = max(longest[chunk.skill], len(chunk.written) - 1)
    return longest


def training_batch(
    chains: Sequence[Chain], *, pad_id: int, learn_markers: bool, device: torch.device
) -> tuple[Batch, Tensor]:
    """Gold chains, right padded, and the skill index (B, T) of every position.

    Labels are the written tokens; with `learn_markers` also the first token of each chunk, for an
    adapter that has to choose its next step itself.
    """
    width = max(chain.length for chain in chains)
    ids, labels, skills, prompts = [], [], [], []
    for chain in chains:
        row = list(chain.prompt)
        label = [IGNORED] * len(row)
        skill = [PROMPT] * len(row)
        for chunk in chain.chunks:
            row += [*chunk.given, *chunk.written]
            first = chunk.given[0] if learn_markers else IGNORED
            label += [first, *[IGNORED] * (len(chunk.given) - 1), *chunk.written]
            skill += [SKILLS.index(chunk.skill)] * (len(chunk.given) + len(chunk.written))
        fill = width - len(row)
        ids.append(row + [pad_id] * fill)
        labels.append(label + [IGNORED] * fill)
        skills.append(skill + [PROMPT] * fill)
        prompts.append(len(chain.prompt))
    position_T = torch.arange(width)
    length_B1 = torch.tensor([chain.length for chain in chains])[:, None]
    batch = Batch(
        input_ids_BT=torch.tensor(ids).to(device),
        attention_mask_BT=(position_T < length_B1).long().to(device),
        prefix_mask_BT=(position_T < torch.tensor(prompts)[:, None]).to(device),
        labels_BT=torch.tensor(labels).to(device),
        ids=tuple(chain.item.query.id for chain in chains),
        clusters=tuple(chain.item.query.id for chain in chains),
    )
    return batch, torch.tensor(skills).to(device)
