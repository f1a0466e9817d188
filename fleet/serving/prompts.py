"""Prompts as token ids, bounded before anything is computed. Knows no adapter and no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from fleet.serving.errors import BadRequestError
from fleet.serving.schemas import Message


class Prompts:
    """One tokenizer's prompts."""

    def __init__(self, tokenizer: Any, *, positions: int, vocab: int) -> None:
        self._tokenizer = tokenizer
        self._positions = positions
        self._vocab = vocab

    @property
    def templated(self) -> bool:
        """Whether chats are written by a template of the tokenizer's."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def encode(self, text: str, param: str = "prompt", *, special: bool = True) -> tuple[int, ...]:
        """A text, as `BEMModel.generate` reads it.

        Args:
            special: whether the tokenizer adds its own tokens (BOS); a template wrote them already.

        Raises:
            BadRequestError: it cannot fit, or has no token.
        """
        most = self._positions * self._longest_token
        if len(text) > most:
            raise too_long(f"{param} has {len(text)} characters: at most {most} can fit.", param)
        ids = tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])
        if not ids:
            raise BadRequestError(f"{param} has no token.", param=param)
        return self._fitting(ids, param)

    def check(self, ids: Sequence[int], param: str = "prompt") -> tuple[int, ...]:
        """Token ids of the client.

        Raises:
            BadRequestError: one is unknown, or there are too many.
        """
        wrong = next((i for i in ids if i >= self._vocab), None)
        if wrong is not None:
            raise BadRequestError(
                f"{param} holds token {wrong}; this model has 0 to {self._vocab - 1}.", param=param
            )
        return self._fitting(tuple(ids), param)

    def chat(self, messages: Sequence[Message]) -> str:
        """Messages as one text: by the tokenizer's template; without one their texts, each closed
        by a newline, as a base without roles has learned to read.

        Raises:
            BadRequestError: the template refuses these messages, or there is none for a name.
        """
        if self.templated:
            given = [
                {"role": m.role, "content": m.text} | ({"name": m.name} if m.name else {})
                for m in messages
            ]
            try:
                text: str = self._tokenizer.apply_chat_template(
                    given, tokenize=False, add_generation_prompt=True
                )
            except (TemplateError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())[:300]
                raise BadRequestError(
                    f"The base's chat template does not take these messages: {said}",
                    param="messages",
                    code="chat_template",
                ) from error
            return text
        if any(m.name for m in messages):
            raise BadRequestError(
                "This base has no chat template, so `name` has no place.", param="messages"
            )
        return "".join(m.text if m.text.endswith("\n") else f"{m.text}\n" for m in messages)

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self._tokenizer.get_vocab()))

    def _fitting(self, ids: tuple[int, ...], param: str) -> tuple[int, ...]:
        if len(ids) >= self._positions:
            raise too_long(
                f"{param} has {len(ids)} tokens; prompt and answer together have at most "
                f"{self._positions}.",
                param,
            )
        return ids


def too_long(message: str, param: str) -> BadRequestError:
    """OpenAI's error for a context that does not fit."""
    return BadRequestError(message, param=param, code="context_length_exceeded")
