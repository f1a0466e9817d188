from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bem.retrieval import MicroIndex
from missions.agentic_planner import world
from missions.agentic_planner.params import DataParams
from missions.agentic_planner.queries import KINDS, TAG_OF, Query, sample_queries
from missions.agentic_planner.records import Entity, index_texts, sample_entities
from missions.agentic_planner.world import Item
from missions.data.lexicon import TAGS
from missions.data.names import names_of
from missions.data.splits import operand_split, split_of
from missions.spec import ExamplesConfig

DATA = DataParams(
    entities=120,
    stale_share=0.25,
    operations=("max", "min", "add", "sort"),
    encoder_dim=256,
    top_k=2,
)
EXAMPLES = ExamplesConfig(train=200, dev=50, test=100)


@pytest.fixture(scope="module")
def entities() -> dict[str, Entity]:
    rng = np.random.default_rng(0)
    return {e.key: e for e in sample_entities(rng, "test", 150, 0.25)}


@pytest.fixture(scope="module")
def queries(entities: dict[str, Entity]) -> tuple[Query, ...]:
    rng = np.random.default_rng(1)
    return sample_queries(rng, "test", tuple(entities.values()), 60, DATA.operations)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Item, ...]]:
    return dict(world.build(tmp_path_factory.mktemp("world"), 5, EXAMPLES, DATA))


def solve(prompt: str, told: dict[str, dict[str, str]]) -> str | None:
    """Reads a prompt as a human would, looking facts up in `told`; None where one is missing."""
    head, _, body = prompt.rstrip("\n").partition(": ")
    tag, path, *asked = head.split()
    keys = asked or [part.split()[0] for part in body.split("; ")]
    names = [name for name, forms in TAGS.items() if tag in forms]
    (operation,) = [op for op, name in TAG_OF.items() if name in names]
    if any(path not in told.get(key, {}) for key in keys):
        return None
    values = [told[key][path] for key in keys]
    if operation == "get":
        value = values[0]
        return json.dumps({path: int(value) if value.isdigit() else value}, separators=(",", ":"))
    pairs = sorted(zip(map(int, values), keys, strict=True))
    result: str | int | list[int] = {
        "max": pairs[1][1],
        "min": pairs[0][1],
        "add": sum(int(v) for v in values),
        "sort": sorted(int(v) for v in values),
    }[operation]
    return json.dumps({operation: result}, separators=(",", ":"))


def facts_of(text: str) -> dict[str, dict[str, str]]:
    """`kamir age 34 job cook; dola age 12` as a nested dict."""
    told: dict[str, dict[str, str]] = {}
    for part in text.rstrip("\n").split("; "):
        key, *rest = part.split()
        told.setdefault(key, {}).update(zip(rest[::2], rest[1::2], strict=True))
    return told


def index_facts(entities: dict[str, Entity], query: Query) -> dict[str, dict[str, str]]:
    return facts_of("; ".join(text for key in query.keys for text in index_texts(entities[key])))


def test_types_in_equal_shares_without_repeated_prompts(queries: tuple[Query, ...]) -> None:
    assert [q.kind for q in queries[:5]] == list(KINDS)
    assert len({q.prompt for q in queries}) == len(queries) == 300
    assert len({q.id for q in queries}) == 300


def test_prompt_alone_answers_f_ref_and_trap_only(queries: tuple[Query, ...]) -> None:
    for query in queries:
        from_prompt = solve(query.prompt, facts_of(query.prompt.partition(": ")[2]))
        if query.kind in ("F", "ReF", "TRAP"):
            assert from_prompt == query.answer
        else:
            assert from_prompt is None


def test_index_answers_all_but_traps(
    queries: tuple[Query, ...], entities: dict[str, Entity]
) -> None:
    for query in queries:
        from_index = solve(query.prompt, index_facts(entities, query))
        if query.kind == "TRAP":
            assert from_index is not None
            assert any(entities[key].stale for key in query.keys)
        else:
            assert from_index == query.answer


def test_traps_mislead_nearly_always(
    queries: tuple[Query, ...], entities: dict[str, Entity]
) -> None:
    """A stale pair may keep its order: then the wrong facts still give the right name."""
    traps = [q for q in queries if q.kind == "TRAP"]
    misled = [solve(q.prompt, index_facts(entities, q)) != q.answer for q in traps]
    assert np.mean(misled) >= 0.6
    lookups = [m for q, m in zip(traps, misled, strict=True) if q.operation == "get"]
    assert all(lookups)


def test_gold_plans_follow_from_the_type(queries: tuple[Query, ...]) -> None:
    allowed = {"F": {"F"}, "ReF": {"EF"}, "RF": {"RF"}, "RReF": {"REF"}, "TRAP": {"F", "EF"}}
    for query in queries:
        assert query.plan in allowed[query.kind]
        assert query.chain[-1] == ("F", query.answer)


def test_chain_texts_are_steps_of_the_answer(
    queries: tuple[Query, ...], entities: dict[str, Entity]
) -> None:
    for query in queries:
        steps = dict(query.chain)
        if "R" in steps:
            path = query.prompt.split()[1].rstrip(":")
            told = [f"{key} {path} {entities[key].truth.value(path)}" for key in query.keys]
            assert steps["R"] == "; ".join(told)
        if "E" in steps:
            result = json.loads(query.answer)[query.operation]
            shown = "; ".join(map(str, result)) if isinstance(result, list) else str(result)
            assert steps["E"] == shown


def test_names_and_operand_pairs_belong_to_the_split(queries: tuple[Query, ...]) -> None:
    for query in queries:
        for name in query.names:
            assert split_of(name, salt="names") == "test"
        if query.operands:
            a, b = map(int, query.operands.split())
            assert operand_split(a, b) == operand_split(b, a) == "test"


def test_stale_versions_differ_in_every_value(entities: dict[str, Entity]) -> None:
    stale = [e for e in entities.values() if e.stale]
    assert len(stale) == round(0.25 * len(entities))
    for entity in stale:
        assert entity.truth.key == entity.indexed.key
        for path in entity.paths:
            assert entity.truth.value(path) != entity.indexed.value(path)


def test_build_writes_what_it_returns_and_an_index_that_agrees(tmp_path: Path) -> None:
    built = world.build(tmp_path, 5, EXAMPLES, DATA)
    for split, rows in built.items():
        assert world.load(tmp_path, split) == rows
        index = MicroIndex.load(tmp_path / split / "index")
        assert len(index) == 3 * DATA.entities
        for item in rows[:20]:
            hits = index.search([item.query.search], 2, titles=len(item.query.keys))
            assert tuple(index.texts[i] for i in hits.ids_QK[0]) == item.retrieved
    found = np.mean([item.found for item in built["test"]])
    assert 0.85 <= found <= 1.0


def test_r_tells_facts_in_the_order_in_which_they_came(
    items: dict[str, tuple[Item, ...]],
) -> None:
    pairs = [i for i in items["test"] if i.query.kind == "RReF" and i.found]
    for item in pairs:
        facts = dict(item.query.chain)["R"].split("; ")
        assert facts == [text for text in item.retrieved if text in facts]
        assert len(facts) == 2


def test_digest_depends_on_content_only(items: dict[str, tuple[Item, ...]], tmp_path: Path) -> None:
    again = world.build(tmp_path / "elsewhere", 5, EXAMPLES, DATA)
    other = world.build(tmp_path / "other", 6, EXAMPLES, DATA)
    assert world.digest(again) == world.digest(items)  # type: ignore[arg-type]
    assert world.digest(other) != world.digest(items)  # type: ignore[arg-type]


def test_no_leaks(items: dict[str, tuple[Item, ...]]) -> None:
    assert world.leaks(items) == {"names": 0, "operand_pairs": 0, "prompts": 0}  # type: ignore[arg-type]


def test_planted_leaks_are_found(items: dict[str, tuple[Item, ...]]) -> None:
    test_item = next(i for i in items["test"] if i.query.operands)
    with_query = {**items, "train": (*items["train"], test_item)}
    found = world.leaks(with_query)  # type: ignore[arg-type]
    assert found["names"] >= 2
    assert found["operand_pairs"] >= 1
    assert found["prompts"] == 1
    name = names_of("test")[0]
    held = replace(test_item.query, names=(name,))
    held_items = {**items, "test": (replace(test_item, query=held),)}
    victim = items["train"][0]
    planted = replace(victim, retrieved=(f"kamir boss {name}",))
    assert world.leaks({**held_items, "train": (victim,)})["names"] == 0  # type: ignore[arg-type]
    assert world.leaks({**held_items, "train": (planted,)})["names"] == 1  # type: ignore[arg-type]


def test_counts_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"examples.dev is 7; it must be a multiple of 5"):
        world.build(tmp_path, 5, ExamplesConfig(train=10, dev=7, test=10), DATA)


def test_too_few_records_are_named() -> None:
    rng = np.random.default_rng(0)
    few = sample_entities(rng, "test", 8, 0.5)
    with pytest.raises(ValueError, match=r"raise params\.data\.entities"):
        sample_queries(rng, "test", few, 50, ("max",))
