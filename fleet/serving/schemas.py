"""Bodies of the API: OpenAI's fields that are served, ours beside them; unknown ones are errors.

Types are strict: `false` is no number and "1" is none either. Knows no model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_Session = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def _integral(value: object) -> object:
    """JSON has one kind of number: 8.0 is the integer 8."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_INTEGRAL = BeforeValidator(_integral)
TokenId = Annotated[int, Field(ge=0, lt=2**31), _INTEGRAL]
_Text = Annotated[str, StringConstraints(min_length=1)]


class Strict(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _needs(field: str, kind: str, other: str) -> dict[str, Any]:
    """JSON Schema's way to say that `field`, where it is given, needs `other` to be true."""
    return {
        "if": {"required": [field], "properties": {field: {"type": kind}}},
        "then": {"required": [other], "properties": {other: {"const": True}}},
    }


_STREAM_OPTIONS = _needs("stream_options", "object", "stream")
_TOP_LOGPROBS = _needs("top_logprobs", "integer", "logprobs")


class StreamOptions(Strict):
    """With `stream`."""

    include_usage: bool = False
    """A last chunk tells the usage."""


class _Asked(Strict):
    model_config = ConfigDict(json_schema_extra={"allOf": [_STREAM_OPTIONS]})

    model: _Name
    """An id, `line@alias`, a line or mission (its champion, or its canary for a share of keys), or
    `base`."""
    max_tokens: Annotated[int, Field(ge=1, le=2**20), _INTEGRAL] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """0, which is the default, takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**53 - 1), _INTEGRAL] | None = None
    """The same seed, model and prompt give the same answer, whoever else is served."""
    n: Annotated[int, Field(ge=1, le=8), _INTEGRAL] = 1
    """Answers of each prompt; answer i draws from seed + i."""
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Decides, with the line, who meets a canary."""

    adaptation_strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    """0 is the base exactly, 1 the adapter as it was trained."""
    safety: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """The knob of the safety overlay, over any model of the base; none: as the model was promoted
    (an overlay at its operating point, others without)."""
    context_hints: _Name | Annotated[list[_Name], Field(max_length=16)] | None = None
    behavioral_mode: _Name | None = None
    routing: bool = False
    """Tell what routing did with the prompt."""
    session: _Session | None = None
    """Memory models: the stream that is read on; it lives in the server, within bounds."""
    search: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """Planners: what the index is asked, instead of what the prompt names."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def hints(self) -> tuple[str, ...]:
        """Context hints."""
        given = self.context_hints
        return (given,) if isinstance(given, str) else tuple(given or ())


class CompletionBody(_Asked):
    """POST /v1/completions."""

    prompt: (
        _Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[_Text], Field(min_length=1, max_length=8)]
    )
    """A text, several texts, or token ids."""
    logprobs: Annotated[int, Field(ge=0, le=5), _INTEGRAL] | None = None


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: _Name | None = None

    @property
    def text(self) -> str:
        """Its parts in one."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatBody(_Asked):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_STREAM_OPTIONS, _TOP_LOGPROBS]})

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**20), _INTEGRAL] | None = None
    """OpenAI's newer name of max_tokens; it counts where both are given."""
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20), _INTEGRAL] | None = None

    @model_validator(mode="after")
    def _logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self
