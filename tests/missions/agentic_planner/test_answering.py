"""A served planner answers one prompt as the mission's own batches do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bem import AdapterHost, load_base
from bem.checkpoint import built_adapter
from bem.errors import InvalidInputError
from fleet.serving import trial
from missions.agentic_planner.answering import answer, load_served, search_of
from missions.agentic_planner.chains import encode_chains, encode_parts
from missions.agentic_planner.queries import sample_queries
from missions.agentic_planner.records import sample_entities
from missions.agentic_planner.scoring import PolicyContestant, run_contestant
from missions.agentic_planner.skills import SKILL_ADAPTERS
from missions.agentic_planner.world import Item
from missions.base_model import bundled_path

OPERATIONS = ("get", "max", "min", "add", "sort")


def test_the_prompt_names_what_the_index_is_asked() -> None:
    rng = np.random.default_rng(0)
    entities = sample_entities(rng, "train", 80, 0.2)
    queries = sample_queries(rng, "train", entities, 40, OPERATIONS)
    assert len(queries) == 200
    for query in queries:
        assert search_of(query.prompt) == (query.search, len(query.keys))
    for wrong in ("hello", "find: a", ""):
        with pytest.raises(InvalidInputError, match="reads 'what field"):
            search_of(wrong)


def test_a_served_planner_equals_the_batched_contestant(tmp_path: Path) -> None:
    base = load_base(bundled_path())
    trial.planner(base, 4)(tmp_path)
    with AdapterHost(base) as host:
        for name in SKILL_ADAPTERS:
            host.attach(name, built_adapter(base, tmp_path / "adapters" / name))
        served = load_served(tmp_path, base, {name: name for name in SKILL_ADAPTERS})
        rng = np.random.default_rng(1)
        entities = sample_entities(rng, "dev", 60, 0.2)
        items = []
        for query in sample_queries(rng, "dev", entities, 2, OPERATIONS):
            found = served.retriever.retrieve([query.search], titles=len(query.keys))
            items.append(Item(query=query, retrieved=found.texts[0]))
        chains = encode_chains(items, base.tokenizer, served.setting.marks)
        assert served.policy is not None
        wanted = run_contestant(host, chains, served.setting, PolicyContestant(served.policy))
        for row, (item, chain) in enumerate(zip(items, chains, strict=True)):
            assert encode_parts(item.query.prompt, item.retrieved, base.tokenizer) == chain.parts
            work = answer(host, served, item.query.prompt)
            pieces = 0
            while True:
                try:
                    next(work)
                    pieces += 1
                except StopIteration as end:
                    made = end.value
                    break
            assert (made.text, made.plan) == (wanted.texts[row], wanted.plans[row])
            assert pieces == 1 + len(made.plan)
            assert made.retrieved == (item.retrieved if "R" in made.plan else ())
