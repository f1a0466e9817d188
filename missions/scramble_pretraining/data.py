"""Data of mission D: test sets, the rehearsed facts, the leak check and their digest.

Training documents are drawn as training goes, from the run's own stream; what is stored here is
what all arms and seeds are tested on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bem.data import Encoded, Example, encode
from bem.scramble import sample_bijections
from missions.data.tasks import closed_book_facts, closed_book_item
from missions.protocol import Split
from missions.scramble_pretraining.corpus import (
    DocumentFactory,
    Documents,
    Symbols,
    choose_symbols,
)
from missions.scramble_pretraining.params import ScrambleParams
from missions.seeding import numpy_generator, torch_generator
from missions.spec import MissionSpec

HELDOUT_DOCS_SHARE = 0.5
"""Documents over held-out symbols, as a share of the permuted ones (and as many clean ones)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything that does not depend on a run."""

    symbols: Symbols
    factory: DocumentFactory
    facts: tuple[Encoded, ...]
    """All closed-book items."""
    rehearsed: tuple[Encoded, ...]
    """Those whose tokens avoid every held-out symbol: the corpus repeats these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSets:
    """Test documents; example ids are the same for every arm and seed."""

    permuted: Documents
    """Drawn like training, then scrambled by a fresh bijection each: the shortcut is void."""
    heldout: Documents
    clean: Documents


def make_world(spec: MissionSpec, params: ScrambleParams, tokenizer: Any) -> World:
    """Symbols, document factory and facts of a specification."""
    rng = numpy_generator(spec.data_seed, "D", "symbols")
    symbols = choose_symbols(tokenizer, params.corpus, rng)
    items = [closed_book_item(key, value) for key, value in sorted(closed_book_facts().items())]
    facts = encode(
        [
            Example(
                prompt=item.prompt, target=item.target, id=f"fact-{i:03d}", cluster=f"fact-{i:03d}"
            )
            for i, item in enumerate(items)
        ],
        tokenizer,
    )
    forbidden = set(symbols.heldout)
    rehearsed = [
        fact for fact in facts if forbidden.isdisjoint((*fact.prompt_ids, *fact.target_ids))
    ]
    return World(
        symbols=symbols,
        factory=DocumentFactory(tokenizer, symbols, params.corpus),
        facts=tuple(facts),
        rehearsed=tuple(rehearsed),
    )


def make_test_sets(
    spec: MissionSpec, params: ScrambleParams, world: World, vocab_size: int, split: Split
) -> TestSets:
    """Documents of a split; `examples.<split>` counts queries on permuted documents."""
    queries = spec.examples.test if split == "test" else spec.examples.dev
    docs = -(-queries // params.corpus.queries)
    others = max(1, round(HELDOUT_DOCS_SHARE * docs))
    rate = params.corpus.shortcut_rate
    draw = world.factory.draw
    source = draw(docs, numpy_generator(spec.data_seed, "D", split, "permuted"), shortcut_rate=rate)
    bijection = sample_bijections(
        world.symbols.groups,
        batch=docs,
        vocab_size=vocab_size,
        generator=torch_generator(spec.data_seed, "D", split, "bijection"),
    )
    return TestSets(
        permuted=Documents(
            ids_NT=bijection.apply(source.ids_NT),
            prefix_T=source.prefix_T,
            answers_Q=source.answers_Q,
            keys_NQ=bijection.apply(source.keys_NQ),
        ),
        heldout=draw(
            others,
            numpy_generator(spec.data_seed, "D", split, "heldout"),
            shortcut_rate=0.0,
            heldout=True,
        ),
        clean=draw(
            others, numpy_generator(spec.data_seed, "D", split, "clean"), shortcut_rate=rate
        ),
    )


def leaked_documents(training: Documents, tests: TestSets) -> int:
    """Training documents whose context equals a test context."""
    context = training.prefix_T
    held = {
        row.numpy().tobytes()
        for documents in (tests.permuted, tests.heldout, tests.clean)
        for row in documents.ids_NT[:, context].contiguous()
    }
    rows = training.ids_NT[:, context].contiguous()
    return sum(row.numpy().tobytes() in held for row in rows)


def leaked_symbols(streams: Iterable[Tensor], symbols: Symbols) -> int:
    """Occurrences of held-out symbols in training token streams."""
    heldout = torch.tensor(symbols.heldout)
    return sum(int(torch.isin(ids, heldout).sum()) for ids in streams)


def digest(world: World, tests: Iterable[TestSets]) -> str:
    """sha256 over symbols, prior, facts and test documents."""
    sha = hashlib.sha256()
    sha.update(repr((world.symbols.keys, world.symbols.values)).encode())
    sha.update(repr(sorted(world.symbols.prior.items())).encode())
    for fact in world.facts:
        sha.update(repr((fact.prompt_ids, fact.target_ids)).encode())
    for sets in tests:
        for documents in (sets.permuted, sets.heldout, sets.clean):
            sha.update(documents.ids_NT.contiguous().numpy().tobytes())
    return sha.hexdigest()
