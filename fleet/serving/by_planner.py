"""Answers of a planner: it retrieves, reasons and formats with its skills, greedily; a safety
overlay may lie over the skills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bem.engine import Event
from fleet.serving.answering import Told
from fleet.serving.asking import Asking
from fleet.serving.by_adapters import overlay
from fleet.serving.errors import BadRequestError
from missions.agentic_planner.answering import answer as plan_answer


async def answer(asking: Asking) -> None:
    """Plans and writes each answer, whole, on the engine's thread."""
    answering, body, server = asking.answering, asking.body, asking.server
    if body.session is not None:
        raise BadRequestError("session is for memory models.", param="session")
    asking.refuse(
        {
            "temperature": bool(body.temperature),
            "n": body.n > 1,
            "logprobs": asking.logprobs is not None,
            "context_hints": bool(body.hints),
            "behavioral_mode": body.behavioral_mode is not None,
            "routing": body.routing,
            "adaptation_strength": body.adaptation_strength != 1.0,
        },
        "A planner answers greedily, with its skills as trained: leave {param} out.",
    )
    assert answering.loaded is not None
    planner = answering.loaded.planner
    assert planner is not None
    over = overlay(asking)
    branch, everywhere = (None, False) if over is None else over
    plans = []
    for index, text in enumerate(asking.texts):
        if not isinstance(text, str):
            raise BadRequestError("A planner reads a text, not token ids.", param="prompt")
        asking.encode(text)
        work = plan_answer(
            server.host,
            planner,
            text,
            search=body.search,
            branch=branch,
            everywhere=everywhere,
        )
        made = await answering.wait(asking.run(work))
        answering.prompt_tokens += made.prompt_tokens + made.read_tokens
        said = server.base.tokenizer(made.text, add_special_tokens=False)["input_ids"]
        plans.append(
            {
                "plan": made.plan,
                "retrieved": list(made.retrieved),
                "written_tokens": made.written_tokens,
            }
        )
        event = Event(text=made.text, tokens=tuple(said), finish="stop", gate=made.gate)
        most = asking.max_tokens(len(said))
        if len(said) > most:
            text = server.base.tokenizer.decode(said[:most])
            event = replace(event, text=text, tokens=tuple(said[:most]), finish="length")
        answering.tell(Told(index=index, event=_cut(event, body.stops)))
    answering.extras["planner"] = plans


def _cut(event: Event, stops: Sequence[str]) -> Event:
    """The same, ended before the first stop string."""
    ends = [at for stop in stops if (at := event.text.find(stop)) >= 0]
    if not ends:
        return event
    return replace(event, text=event.text[: min(ends)], finish="stop")
