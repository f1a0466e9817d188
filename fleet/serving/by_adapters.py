"""Answers of the base, with a model's adapters and with a safety overlay: rows of the engine."""

from __future__ import annotations

from typing import Any

import torch

from bem.context import RoutingContext
from bem.data import Encoded, pad, pad_id_of
from bem.engine import Branch, Request
from bem.errors import InvalidInputError
from bem.model.analysis import analyse
from bem.model.hints import require_known
from fleet.serving.asking import Asking, Body
from fleet.serving.errors import BadRequestError
from fleet.serving.loading import Loaded


async def answer(asking: Asking) -> None:
    """Asks the engine, a row an answer."""
    answering, body, server = asking.answering, asking.body, asking.server
    if body.session is not None:
        raise BadRequestError("session is for memory models.", param="session")
    if body.search is not None:
        raise BadRequestError("search is for planners.", param="search")
    loaded = answering.loaded
    strength = {} if loaded is None else dict.fromkeys(loaded.acting, body.adaptation_strength)
    sides = {} if loaded is None else _sides(loaded, body)
    if loaded is None:
        asking.refuse(
            {
                "context_hints": bool(body.hints),
                "behavioral_mode": body.behavioral_mode is not None,
                "adaptation_strength": body.adaptation_strength != 1.0,
            },
            "The base has no adapter that knows of hints, modes or a strength: leave {param} out.",
        )
    over = overlay(asking)
    branch = None if over is None or over[1] else over[0]
    if over is not None and over[1]:
        strength[over[0].adapter] = over[0].knob
    prompts = [
        asking.encode(text) if isinstance(text, str) else asking.prompts.check(text, asking.where)
        for text in asking.texts
    ]
    answering.prompt_tokens = sum(map(len, prompts))
    if body.routing:
        told = [await _routing(asking, prompt, sides) for prompt in prompts]
        answering.extras["routing"] = told
    seed = asking.seed()
    requests = []
    for prompt in prompts:
        room = server.engine.positions - len(prompt)
        most = min(server.settings.limits.default_max_tokens, room)
        for number in range(body.n):
            requests.append(
                Request(
                    prompt_ids=prompt,
                    max_tokens=asking.max_tokens(most),
                    strength=strength,
                    sides=sides,
                    branch=branch,
                    sampling=asking.sampling(seed + number),
                    stop=body.stops,
                    logprobs=asking.logprobs,
                    deadline_s=answering.deadline_s,
                    incremental=body.stream,
                )
            )
    for index, request in enumerate(requests):
        answering.ask(request, index)


def _sides(loaded: Loaded, body: Body) -> dict[str, Any]:
    tables = {name: loaded.tables[name] for name in loaded.acting if name in loaded.tables}
    try:
        require_known([*tables.values()], [body.hints], [body.behavioral_mode])
    except InvalidInputError as error:
        param = "context_hints" if "hint" in str(error).split("'")[0] else "behavioral_mode"
        raise BadRequestError(str(error), param=param) from error
    return {
        name: table.side([body.hints], [body.behavioral_mode]) for name, table in tables.items()
    }


def overlay(asking: Asking) -> tuple[Branch, bool] | None:
    """The branch over this request's model, and whether it acts on the prompt too.

    Raises:
        BadRequestError: one is asked for and none is champion.
    """
    answering = asking.answering
    loaded = answering.loaded
    own = loaded.overlay if loaded is not None else None
    knob = asking.body.safety
    if own is not None:
        knob = own.knob if knob is None else knob
    elif knob:
        answering.overlay = asking.server.shelf.pin_overlay()
        if answering.overlay is None:
            raise BadRequestError(
                "No safety overlay is champion here: promote one, or leave safety out.",
                param="safety",
            )
        own = answering.overlay.overlay
    if own is None or not knob:
        return None
    source = answering.overlay or loaded
    assert source is not None
    answering.extras["safety"] = {"overlay": source.id, "knob": knob}
    return Branch(adapter=own.adapter, knob=knob, head=own.head), own.everywhere


async def _routing(
    asking: Asking, prompt: tuple[int, ...], sides: dict[str, Any]
) -> dict[str, Any]:
    """What `BEMModel.analyze_routing` tells of a prompt."""
    loaded, host = asking.answering.loaded, asking.server.host
    names = () if loaded is None else loaded.acting
    row = Encoded(prompt_ids=prompt, target_ids=(), id="0", cluster="0")
    batch = pad(
        [row],
        pad_id=pad_id_of(host.base.tokenizer),
        device=host.base.device,
        prompt_only=True,
    )

    def context() -> RoutingContext:
        return RoutingContext(prefix_mask_BT=batch.prefix_mask_BT, sides=sides)

    def measure() -> dict[str, Any]:
        with torch.no_grad():
            told = analyse(host, names, batch, [""], context).as_dict()
        told.pop("inputs")
        return told

    return await asking.answering.wait(asking.server.loop.call(measure))
