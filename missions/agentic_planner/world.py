"""The data of mission A: queries of a split with what the index brings for each, on disk.

`build` writes one folder a split (FAISS index, queries with their retrieved texts) and is
idempotent; the digest is over the content, not over the files. The leak check looks for every name
and every operand pair of dev and test in all that training reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bem.retrieval import HashedEncoder, MicroIndex
from missions.agentic_planner.params import DataParams
from missions.agentic_planner.queries import KINDS, Query, sample_queries
from missions.agentic_planner.records import index_texts, sample_entities
from missions.data.splits import SPLITS, Split, leak_check
from missions.seeding import numpy_generator
from missions.spec import ExamplesConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A query and what the index brings for it."""

    query: Query
    retrieved: tuple[str, ...]
    """Texts of the best records, best first."""

    @property
    def found(self) -> bool:
        """Whether the asked field of every entity of the query is among them."""
        wanted = [f"{key} {self.query.path} " for key in self.query.keys]
        return all(any(t.startswith(each) for t in self.retrieved) for each in wanted)


def build(
    folder: Path, data_seed: int, examples: ExamplesConfig, params: DataParams
) -> dict[Split, tuple[Item, ...]]:
    """Generates all splits, writes them below `folder`, and returns them."""
    counts: dict[Split, int] = {
        "train": examples.train,
        "dev": examples.dev,
        "test": examples.test,
    }
    items: dict[Split, tuple[Item, ...]] = {}
    for split in SPLITS:
        rng = numpy_generator(data_seed, "agentic_planner", split)
        entities = sample_entities(rng, split, params.entities, params.stale_share)
        texts = [text for entity in entities for text in index_texts(entity)]
        index = MicroIndex(texts, HashedEncoder(params.encoder_dim))
        per_kind, left = divmod(counts[split], len(KINDS))
        if left:
            raise ValueError(
                f"examples.{split} is {counts[split]}; it must be a multiple of {len(KINDS)} "
                f"(queries of the types {', '.join(KINDS)})."
            )
        queries = sample_queries(rng, split, entities, per_kind, params.operations)
        items[split] = tuple(_retrieve(query, index, params.top_k) for query in queries)
        index.save(folder / split / "index")
        text = json.dumps([asdict(item) for item in items[split]])
        (folder / split / "items.json").write_text(text, encoding="utf-8")
    return items


def load(folder: Path, split: Split) -> tuple[Item, ...]:
    """The items that `build` wrote for a split."""
    path = folder / split / "items.json"
    return tuple(_item(raw) for raw in json.loads(path.read_text(encoding="utf-8")))


def digest(items: Mapping[Split, Iterable[Item]]) -> str:
    """sha256 over every item's content, splits in a fixed order."""
    parts = [f"{split} {items_digest(items[split])}" for split in SPLITS]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def items_digest(items: Iterable[Item]) -> str:
    """sha256 over the content of some items, in their order."""
    sha = hashlib.sha256()
    for item in items:
        sha.update(json.dumps(asdict(item), sort_keys=True).encode())
    return sha.hexdigest()


def leaks(items: Mapping[Split, Iterable[Item]]) -> dict[str, int]:
    """Held-out names, operand pairs and prompts found in training, by check."""
    train = list(items["train"])
    held = [item.query for split in SPLITS if split != "train" for item in items[split]]
    read = [text for item in train for text in _training_texts(item)]
    names = leak_check(read, {name for query in held for name in query.names})
    pairs = {item.query.operands for item in train} - {""}
    prompts = {item.query.prompt for item in train}
    return {
        "names": len(names.leaks),
        "operand_pairs": len(pairs & {query.operands for query in held}),
        "prompts": sum(query.prompt in prompts for query in held),
    }


def _training_texts(item: Item) -> tuple[str, ...]:
    told = (text for _, text in item.query.chain)
    return (item.query.prompt, *item.retrieved, *told, item.query.answer)


def _retrieve(query: Query, index: MicroIndex, top_k: int) -> Item:
    hits = index.search([query.search], top_k, titles=len(query.keys))
    retrieved = tuple(index.texts[int(i)] for i in hits.ids_QK[0])
    return Item(query=_in_order(query, retrieved), retrieved=retrieved)


def _in_order(query: Query, retrieved: Sequence[str]) -> Query:
    """The query whose R step tells its facts in the order in which they were retrieved."""
    rank = {text: position for position, text in enumerate(retrieved)}
    chain = tuple(
        (skill, "; ".join(sorted(text.split("; "), key=lambda fact: rank.get(fact, len(rank)))))
        if skill == "R"
        else (skill, text)
        for skill, text in query.chain
    )
    return replace(query, chain=chain)


def _item(raw: Mapping[str, Any]) -> Item:
    fields = dict(raw["query"])
    for name in ("keys", "names"):
        fields[name] = tuple(fields[name])
    fields["chain"] = tuple((skill, text) for skill, text in fields["chain"])
    return Item(query=Query(**fields), retrieved=tuple(raw["retrieved"]))
