"""Chains as tokens: a prompt, then one chunk for each skill of the plan.

    <bos> prompt | <R> <eos> <bos> copy: records newline / facts <eos>
                 | <E> <eos> <bos> question told newline / result <eos>
                 | <F> <eos> <bos> question told newline / JSON <eos>

What stands before the slash is given to a chunk, what follows is written by its skill. Each chunk
is a new short document (<eos> <bos>) of a form that the base has learned to answer; `told` is what
the step before wrote, or what the prompt tells where there was none. A skill acts on the last token
that it is given and on what it writes, the closing <eos> included; the rest is read by the base as
it is. It knows neither adapters nor training.

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
from missions.data.templates import CANONICAL

SKILLS = "REF"
"""Retrieve-use, reason, format: the skills in their order."""
SKILL_NAMES = {"R": "retrieve", "E": "reason", "F": "format"}
_CLAIMED = {"R": "<plan0>", "E": "<plan1>", "F": "<plan2>"}
NOBODY = -1
"""The skill index of positions that are only read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The token ids that divide a chain."""

    marker: dict[str, int]
    separator: int
    """Closes a chunk: the end of a text."""
    restart: tuple[int, ...]
    """Begins a new document inside a chain."""

    @classmethod
    def of(cls, tokenizer: Any) -> Marks:
        """The world's claimed tokens; for another tokenizer the last token of a plain word.

        Raises:
            ValueError: a foreign tokenizer gives two marks the same token.
        """
        vocabulary = tokenizer.get_vocab()
        if all(token in vocabulary for token in _CLAIMED.values()):
            marker = {skill: int(vocabulary[token]) for skill, token in _CLAIMED.items()}
        else:
            words = {skill: f" {name}" for skill, name in SKILL_NAMES.items()}
            marker = {
                skill: int(tokenizer(word, add_special_tokens=False)["input_ids"][-1])
                for skill, word in words.items()
            }
        separator = int(tokenizer.eos_token_id)
        if len({*marker.values(), separator}) <= len(marker):
            raise ValueError(
                f"Tokenizer '{tokenizer.name_or_path}' gives the marks of mission A the tokens "
                f"{marker} and {separator}; they must differ. "
                f"Add the tokens {', '.join(_CLAIMED.values())}."
            )
        bos = tokenizer.bos_token_id
        restart = (separator,) if bos is None else (separator, int(bos))
        return cls(marker=marker, separator=separator, restart=restart)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One chunk of a gold chain."""

    skill: str
    given: tuple[int, ...]
    """Its marker and what stands before the slash."""
    written: tuple[int, ...]
    """What the skill writes, the separator included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Token ids from which the chunks of a query are put together."""

    records: tuple[int, ...]
    """What was retrieved, told as something to copy, closed by a newline."""
    question: tuple[int, ...]
    facts: tuple[int, ...]
    """What the prompt tells."""
    newline: tuple[int, ...]

    def given(self, skill: str, marks: Marks, told: Sequence[int] | None) -> tuple[int, ...]:
        """What a chunk is given; `told`: what the step before wrote, None at the first step."""
        head = (marks.marker[skill], *marks.restart)
        if skill == "R":
            return (*head, *self.records)
        return (*head, *self.question, *(self.facts if told is None else told), *self.newline)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """One item as tokens."""

    item: Item
    prompt: tuple[int, ...]
    parts: Parts
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

    def plain(texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [tuple(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    prompts = tokenizer([item.query.prompt for item in items])["input_ids"]
    records = plain([CANONICAL.prompt("copy", "; ".join(item.retrieved)) for item in items])
    questions = plain([item.query.head for item in items])
    facts = plain([item.query.facts for item in items])
    (newline,) = plain(["\n"])
    written = iter(plain([text for item in items for _, text in item.query.chain]))
    chains = []
    for item, prompt, *ids in zip(items, prompts, records, questions, facts, strict=True):
        parts = Parts(records=ids[0], question=ids[1], facts=ids[2], newline=newline)
        told: tuple[int, ...] | None = None
        chunks = []
        for skill, _ in item.query.chain:
            text = next(written)
            given = parts.given(skill, marks, told)
            chunks.append(Chunk(skill=skill, given=given, written=(*text, marks.separator)))
            told = text
        chains.append(Chain(item=item, prompt=tuple(prompt), parts=parts, chunks=tuple(chunks)))
    return chains


def encode_parts(prompt: str, retrieved: Sequence[str], tokenizer: Any) -> Parts:
    """The parts of one query as `encode_chains` makes them, where no gold chain is known."""
    question, _, facts = prompt.partition(": ")
    texts = [
        CANONICAL.prompt("copy", "; ".join(retrieved)),
        f"{question}: ",
        facts.rstrip("\n"),
        "\n",
    ]
    ids = [tuple(row) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return Parts(records=ids[0], question=ids[1], facts=ids[2], newline=ids[3])


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
    """Gold chains, right padded, and the index (B, T) of the skill that acts on each position.

    Labels are the written tokens; with `learn_markers` also the first token of each chunk, for an
    adapter that has to choose its next step itself.
    """
    width = max(chain.length for chain in chains)
    ids, labels, skills, prompts = [], [], [], []
    for chain in chains:
        row = list(chain.prompt)
        label = [IGNORED] * len(row)
        skill = [NOBODY] * len(row)
        for chunk in chain.chunks:
            row += [*chunk.given, *chunk.written]
            first = chunk.given[0] if learn_markers else IGNORED
            label += [first, *[IGNORED] * (len(chunk.given) - 1), *chunk.written]
            skill += [NOBODY] * (len(chunk.given) - 1)
            skill += [SKILLS.index(chunk.skill)] * (1 + len(chunk.written))
        fill = width - len(row)
        ids.append(row + [pad_id] * fill)
        labels.append(label + [IGNORED] * fill)
        skills.append(skill + [NOBODY] * fill)
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
