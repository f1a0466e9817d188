"""Documents of mission D: shape, shortcut rate, held-out symbols, permutation, leak checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bem.base import BaseModel, load_base
from missions.base_model import bundled_path
from missions.errors import MissionError
from missions.registry import resolve
from missions.scramble_pretraining.corpus import DocumentFactory, choose_symbols
from missions.scramble_pretraining.data import (
    World,
    leaked_documents,
    leaked_symbols,
    make_test_sets,
    make_world,
)
from missions.scramble_pretraining.params import CorpusParams, ScrambleParams
from missions.scramble_pretraining.training import StepSource
from missions.spec import MissionSpec


@pytest.fixture(scope="module")
def spec() -> MissionSpec:
    return resolve("D", profile="smoke")


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base(bundled_path())


@pytest.fixture(scope="module")
def params(spec: MissionSpec) -> ScrambleParams:
    return ScrambleParams.model_validate(spec.params)


@pytest.fixture(scope="module")
def world(spec: MissionSpec, params: ScrambleParams, base: BaseModel) -> World:
    return make_world(spec, params, base.tokenizer)


def test_symbols_are_single_tokens_and_f_is_one_to_one(
    world: World, params: ScrambleParams
) -> None:
    symbols = world.symbols
    seen_keys, seen_values = symbols.groups
    every = [*seen_keys, *seen_values, *symbols.heldout]
    assert len(set(every)) == len(every) == params.corpus.num_keys + params.corpus.num_values
    assert set(symbols.prior) == set(seen_keys)
    assert len(set(symbols.prior.values())) == len(seen_keys)
    assert set(symbols.prior.values()) <= set(seen_values)


def test_answers_are_what_the_context_says(world: World, base: BaseModel) -> None:
    documents = world.factory.draw(20, np.random.default_rng(0), shortcut_rate=0.5)
    for row in documents.ids_NT:
        text = base.tokenizer.decode(row, skip_special_tokens=True)
        context, *queries = text.strip().split("\n")
        pairs = dict(pair.split("-") for pair in context.split(" "))
        assert len(pairs) == len(context.split(" ")), "keys of a document must differ"
        for query in queries:
            key, _, value = query.removeprefix("?").partition("=")
            assert pairs[key] == value


def test_shortcut_rate_is_the_stated_one(world: World) -> None:
    documents = world.factory.draw(2000, np.random.default_rng(1), shortcut_rate=0.85)
    answers_NQ = documents.ids_NT[:, documents.answers_Q]
    rate = float((answers_NQ == world.factory.prior_of(documents.keys_NQ)).double().mean())
    assert rate == pytest.approx(0.85, abs=4 * (0.85 * 0.15 / answers_NQ.numel()) ** 0.5)


def test_permuted_contexts_void_the_shortcut_and_keep_lookup(
    spec: MissionSpec, params: ScrambleParams, world: World, base: BaseModel
) -> None:
    larger = spec.model_copy(update={"examples": spec.examples.model_copy(update={"test": 2000})})
    tests = make_test_sets(larger, params, world, base.model.config.vocab_size, "test")
    answers_NQ = tests.permuted.ids_NT[:, tests.permuted.answers_Q]
    follows = (answers_NQ == world.factory.prior_of(tests.permuted.keys_NQ)).double().mean()
    assert float(follows) < 3.0 / len(world.symbols.values.seen)
    text = base.tokenizer.decode(tests.permuted.ids_NT[0], skip_special_tokens=True)
    context, query, *_ = text.split("\n")
    key, _, value = query.removeprefix("?").partition("=")
    assert f"{key}-{value}" in context.split(" ")


def test_training_streams_hold_no_heldout_symbol_and_a_planted_one_is_found(
    params: ScrambleParams, world: World, base: BaseModel
) -> None:
    for objective in ("lm", "sep"):
        source = StepSource(objective, base, params, world, seed=0)  # type: ignore[arg-type]
        streams = [source.draw().batch.input_ids_BT for _ in range(10)]
        assert leaked_symbols(streams, world.symbols) == 0
    streams[3][0, 2] = world.symbols.heldout[0]
    assert leaked_symbols(streams, world.symbols) == 1


def test_a_planted_test_document_is_found(
    spec: MissionSpec, params: ScrambleParams, world: World, base: BaseModel
) -> None:
    tests = make_test_sets(spec, params, world, base.model.config.vocab_size, "test")
    training = StepSource("lm", base, params, world, seed=0).sample_documents()
    assert leaked_documents(training, tests) == 0
    training.ids_NT[5] = tests.clean.ids_NT[0]
    assert leaked_documents(training, tests) == 1


def test_arms_of_a_seed_see_the_same_clean_documents(
    params: ScrambleParams, world: World, base: BaseModel
) -> None:
    sep, lm = (StepSource(o, base, params, world, seed=3) for o in ("sep", "lm"))  # type: ignore[arg-type]
    rows = params.training.docs_per_step
    for _ in range(3):
        a, b = sep.draw().batch, lm.draw().batch
        width = min(a.input_ids_BT.shape[1], b.input_ids_BT.shape[1])
        assert torch.equal(a.input_ids_BT[:rows, :width], b.input_ids_BT[:rows, :width])


def test_too_few_symbols_is_a_clear_error(base: BaseModel, params: ScrambleParams) -> None:
    many = params.corpus.model_copy(update={"num_values": 100_000})
    with pytest.raises(MissionError, match=r"corpus\.num_values: 100000"):
        choose_symbols(base.tokenizer, many, np.random.default_rng(0))


def test_more_queries_than_pairs_is_a_clear_error(base: BaseModel, world: World) -> None:
    corpus = CorpusParams(
        num_keys=31, num_values=48, heldout_share=0.25, pairs=3, queries=4, shortcut_rate=0.5
    )
    with pytest.raises(MissionError, match=r"corpus\.queries: 4"):
        DocumentFactory(base.tokenizer, world.symbols, corpus)
