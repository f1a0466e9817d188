"""Answers of a long-memory model: a stream of tokens read on, a session's state kept in bounds."""

from __future__ import annotations

from bem.engine import Event
from fleet.serving.answering import Told
from fleet.serving.asking import Asking
from fleet.serving.errors import BadRequestError, ConflictError
from fleet.serving.sessions import Stream, fresh, go_on


async def answer(asking: Asking) -> None:
    """Reads the prompt on and writes the answer, on the engine's thread."""
    answering, body, store = asking.answering, asking.body, asking.server.sessions
    loaded = answering.loaded
    assert loaded is not None
    model = loaded.memory
    assert model is not None
    tokens = _tokens(asking, model.config.vocab)
    asking.refuse(
        {
            "n": body.n > 1,
            "stop": bool(body.stops),
            "context_hints": bool(body.hints),
            "behavioral_mode": body.behavioral_mode is not None,
            "adaptation_strength": body.adaptation_strength != 1.0,
            "search": body.search is not None,
            "routing": body.routing,
        },
        "A memory model has no use for {param}.",
    )
    asking.refuse(
        {"safety": bool(body.safety)},
        "A memory model is a language model of its own and lies over no base: an overlay's weights "
        "have no place in it. Leave {param} out.",
    )
    key = "" if body.session is None else f"{asking.client}/{body.session}"
    stream = (store.get(key) if key else None) or fresh(model, loaded.id)
    _check_free(stream, loaded.id, body.session)
    work = go_on(
        model,
        stream,
        tokens,
        max_tokens=asking.max_tokens(asking.server.settings.limits.default_max_tokens),
        sampling=asking.sampling(asking.seed()),
        logprobs=asking.logprobs,
    )
    stream.busy = True
    if key:
        store.put(key, stream)
    try:
        made = await answering.wait(asking.run(work))
    finally:
        stream.busy = False
    if key:
        store.put(key, made.stream)
    answering.prompt_tokens = len(tokens)
    answering.extras["session"] = {
        "name": body.session,
        "tokens": made.stream.length,
        "state_bytes": made.stream.num_bytes,
    }
    answering.extras["token_ids"] = list(made.tokens)
    text = " ".join(map(str, made.tokens))
    event = Event(text=text, tokens=made.tokens, infos=made.infos, finish="length")
    answering.tell(Told(index=0, event=event))


def _tokens(asking: Asking, vocab: int) -> list[int]:
    tokens = asking.texts[0]
    if len(asking.texts) > 1 or isinstance(tokens, str):
        raise BadRequestError(
            "This memory model reads token ids of its own streams: give prompt as one list of "
            f"integers from 0 to {vocab - 1}.",
            param=asking.where,
        )
    wrong = next((t for t in tokens if t >= vocab), None)
    if wrong is not None:
        raise BadRequestError(
            f"prompt holds token {wrong}; this model has 0 to {vocab - 1}.", param="prompt"
        )
    return tokens


def _check_free(stream: Stream, model_id: str, session: str | None) -> None:
    if stream.model != model_id:
        raise ConflictError(
            f"Session '{session}' is a stream of {stream.model}; this request is answered "
            f"by {model_id}. Name that id, or begin another session.",
            param="session",
            code="session_model",
        )
    if stream.busy:
        raise ConflictError(
            f"Session '{session}' is being read on by another request.",
            param="session",
            code="session_busy",
        )
