from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from missions.base_model import bundled_path
from missions.data.names import names_of
from missions.data.tasks import SKILLS, sample_item
from missions.data.tokenizer import MISSION_TOKENS, VOCAB_SIZE, train_tokenizer

TOKENIZER: Any = AutoTokenizer.from_pretrained(bundled_path())


def ids_of(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_every_text_makes_the_round_trip(text: str) -> None:
    ids = ids_of(text)
    assert TOKENIZER.decode(ids) == text
    assert max(ids, default=0) < VOCAB_SIZE


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789", min_size=1, max_size=20))
def test_digits_are_split(digits: str) -> None:
    assert len(ids_of(digits)) == len(digits)


@pytest.mark.parametrize("skill", list(SKILLS))
def test_prompt_and_target_tokenize_apart(skill: str) -> None:
    rng = np.random.default_rng(0)
    for style_split in ("train", "test"):
        for _ in range(20):
            item = sample_item(rng, "test", skill, style_split=style_split)
            assert ids_of(item.prompt) + ids_of(item.target) == ids_of(item.prompt + item.target)


def test_names_have_the_same_tokens_everywhere() -> None:
    for name in names_of("test")[::40]:
        alone = ids_of(name)
        assert len(alone) <= 4
        for text in (f"say {name}.", f'{{"name":"{name}"}}', f"12{name}34"):
            ids = ids_of(text)
            assert any(ids[i : i + len(alone)] == alone for i in range(len(ids)))


def test_special_tokens() -> None:
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)
    assert TOKENIZER("copy: a")["input_ids"][0] == TOKENIZER.bos_token_id
    for token in MISSION_TOKENS:
        assert len(ids_of(token)) == 1
    assert len(TOKENIZER) == VOCAB_SIZE


def test_the_bundled_tokenizer_is_what_the_script_gives(tmp_path: Path) -> None:
    train_tokenizer(np.random.default_rng(0)).save_pretrained(tmp_path)
    bundled = (bundled_path() / "tokenizer.json").read_text(encoding="utf-8")
    assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == bundled


def test_training_is_deterministic() -> None:
    first, second = (train_tokenizer(np.random.default_rng(3), num_texts=300) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
