"""Pushed text equals text decoded at once, whatever the characters."""

from __future__ import annotations

from typing import Any

import pytest

from bem.engine.text import TextSoFar
from bem.testing import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.mark.parametrize("text", ["plain", "déjà vu 漢字 🙂", "tail 🙂"])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_half_characters_are_held(tokenizer: Any, text: str, cut: int) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = ids[: len(ids) - cut]
    so_far = TextSoFar(tokenizer)
    pushed = [so_far.push(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pushed)
    assert "".join(pushed) + so_far.finish() == tokenizer.decode(ids)


def test_the_beginning_of_a_stop_string_is_held(tokenizer: Any) -> None:
    so_far = TextSoFar(tokenizer, ("END!", "##"))
    pieces = []
    for token in tokenizer("an ENDing # of END! it", add_special_tokens=False)["input_ids"]:
        pieces.append(so_far.push(token))
        if so_far.stopped:
            break
    assert "".join(pieces) == "an ENDing # of "
    assert so_far.stopped
    assert so_far.finish() == ""
    held = TextSoFar(tokenizer, ("END!",))
    told = "".join(
        held.push(token) for token in tokenizer("the EN", add_special_tokens=False)["input_ids"]
    )
    assert told == "the "
    assert held.finish() == "EN"
