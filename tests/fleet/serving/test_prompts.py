"""Chats through a tokenizer's template: its own special tokens, its own refusals."""

from __future__ import annotations

from typing import Any

import pytest

from bem import BaseModel
from fleet.serving.asking import Asking
from fleet.serving.errors import BadRequestError
from fleet.serving.prompts import Prompts
from fleet.serving.schemas import ChatBody

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ message.name | default('') }}{{ message.content }};{% endfor %}"
)


@pytest.fixture
def tokenizer(base: BaseModel) -> Any:
    """One that adds BOS itself, with a template that writes it."""
    from tokenizers.processors import TemplateProcessing

    made = base.tokenizer
    if made.bos_token is None:
        made.add_special_tokens({"bos_token": "<s>"})
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{made.bos_token} $A", special_tokens=[(made.bos_token, made.bos_token_id)]
    )
    made.chat_template = TEMPLATE
    return made


def body(*messages: dict[str, str]) -> ChatBody:
    return ChatBody.model_validate({"model": "base", "messages": list(messages)})


def asking(prompts: Prompts, given: ChatBody) -> Asking:
    return Asking(
        server=None,  # type: ignore[arg-type]
        prompts=prompts,
        answering=None,  # type: ignore[arg-type]
        body=given,
        texts=(),
        client="",
    )


def test_a_template_writes_bos_once(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer, positions=512, vocab=10_000)
    given = body({"role": "user", "content": "hi", "name": "ann"})
    text = prompts.chat(given.messages)
    assert text.endswith("annhi;")
    ids = asking(prompts, given).encode(text)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert prompts.encode("hi").count(tokenizer.bos_token_id) == 1  # a plain prompt keeps its own


def test_what_a_template_refuses_is_the_request_s_fault(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer, positions=512, vocab=10_000)
    with pytest.raises(BadRequestError, match="no system here") as caught:
        prompts.chat(body({"role": "system", "content": "be"}).messages)
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_without_a_template_a_name_has_no_place(base: BaseModel) -> None:
    base.tokenizer.chat_template = None
    prompts = Prompts(base.tokenizer, positions=512, vocab=10_000)
    with pytest.raises(BadRequestError, match="no chat template"):
        prompts.chat(body({"role": "user", "content": "hi", "name": "ann"}).messages)
