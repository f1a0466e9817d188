from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest

from missions.data.names import names_of
from missions.data.records import Record, sample_date, sample_record
from missions.data.schemas import SCHEMAS, get_schema
from missions.data.templates import (
    CANONICAL,
    render_entity,
    render_facts,
    render_json,
    sample_article,
)


@pytest.mark.parametrize("schema", list(SCHEMAS))
def test_records_are_valid_json_with_their_values(schema: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        record = sample_record(rng, "test", schema=schema, shuffle=True)
        assert 3 <= len(record.pairs) <= 8
        parsed = json.loads(render_json(record))
        for path, value in record.pairs:
            outer, _, inner = path.partition(".")
            assert (parsed[outer][inner] if inner else parsed[outer]) == value
        assert set(record.names()) <= set(names_of("test"))
        assert record.key in record.names()


def test_some_records_are_nested() -> None:
    rng = np.random.default_rng(1)
    records = [sample_record(rng, "train", schema="person") for _ in range(50)]
    assert any("home" in json.loads(record.to_json()) for record in records)


def test_record_options() -> None:
    rng = np.random.default_rng(2)
    record = sample_record(
        rng, "dev", schema="book", num_fields=(2, 2), require=("press.city",), key="kamir"
    )
    assert record.paths == ("title", "press.city")
    assert record.key == "kamir"
    changed = record.with_value("press.city", "dola")
    assert changed.value("press.city") == "dola"
    assert changed.key == "kamir"
    with pytest.raises(ValueError, match=r"no field 'age'.*press\.city"):
        record.value("age")
    with pytest.raises(ValueError, match=r"must lie in 1\.\.8"):
        sample_record(rng, "dev", schema="book", num_fields=(3, 12))
    with pytest.raises(ValueError, match="person, product, event, company, book"):
        get_schema("city")


def test_rendering() -> None:
    record = Record(schema="person", pairs=(("name", "kamir"), ("age", 34), ("home.city", "dola")))
    assert render_facts(record) == "name kamir; age 34; home.city dola"
    assert render_facts(record, paths=("age",)) == "age 34"
    assert render_entity(record) == "kamir age 34 home.city dola"
    assert render_json(record) == '{"name":"kamir","age":34,"home":{"city":"dola"}}'
    assert CANONICAL.prompt("get age", "age 34") == "get age: age 34\n"


def test_dates_are_iso() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        assert 1990 <= date.fromisoformat(sample_date(rng)).year < 2040


def test_articles_have_the_stated_length_and_compression() -> None:
    rng = np.random.default_rng(4)
    short = [sample_article(rng, "test") for _ in range(300)]
    ratio = np.mean([len(a.summary) / len(a.source) for a in short])
    assert 0.2 < ratio < 0.35
    long = [sample_article(rng, "test", num_sentences=(9, 32)) for _ in range(300)]
    assert all(150 <= len(a.source) <= 1100 for a in long)
    assert 0.15 < np.mean([len(a.summary) / len(a.source) for a in long]) < 0.3
    for article in (*short, *long):
        assert set(article.names) <= set(names_of("test"))
        for part in article.summary.partition(": ")[2].split(". "):
            assert part in article.source
    with pytest.raises(ValueError, match="technology, science"):
        sample_article(rng, "test", topic="sport")
