"""A served planner answers one prompt: plan, retrieve, run the chunks, chunk by chunk.

What `scoring.run_contestant` does for batches, as a generator over one query that yields between
chunks, so that a server may do other work there. The search words come from the prompt, as
everybody who asks writes it: the names, then the field. A safety branch of mission C's kind may lie
over it: as over one answer, its strength is read off the prompt, and it acts on what the skills
decide and write, not on the choice of the first plan. It knows no server.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bem.base import BaseModel as FrozenBase
from bem.engine import Branch
from bem.errors import InvalidInputError
from bem.injection import AdapterHost
from bem.planner import ChunkEngine, MacroPolicy, Over
from bem.retrieval import Retriever
from missions.agentic_planner import contest
from missions.agentic_planner.chains import SKILL_NAMES, encode_parts
from missions.agentic_planner.scoring import Setting
from missions.agentic_planner.served import read_retriever
from missions.agentic_planner.skills import FUSED, SKILL_ADAPTERS

_RULES_WITH_POLICY = ("planner", "shared")
_FUSED_RULES = ("fused", "shared")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServedPlanner:
    """All that one exported arm needs beside its adapters on the host."""

    rule: str
    plan: str
    """The one plan of a fixed planner."""
    setting: Setting
    policy: MacroPolicy | None
    retriever: Retriever
    names: Mapping[str, str]
    """Adapter -> its name on the host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of it."""

    text: str
    plan: str
    retrieved: tuple[str, ...]
    """Best first; empty where no chunk retrieved."""
    prompt_tokens: int
    read_tokens: int
    """Tokens that chunks were given."""
    written_tokens: int
    gate: float | None = None
    """Strength of the branch; none: there was none."""


def load_served(folder: Path, base: FrozenBase, names: Mapping[str, str]) -> ServedPlanner:
    """Reads what `served.write_served` wrote; `names` are those of the adapters on the host."""
    choice, setting = contest.load_choice(folder, base, rows=1)
    policy = None
    if choice.rule in _RULES_WITH_POLICY:
        policy = contest.load_policy(folder, setting.space, base.device).eval()
    return ServedPlanner(
        rule=choice.rule,
        plan=choice.plan,
        setting=replace(setting, rows=1),
        policy=policy,
        retriever=read_retriever(folder),
        names=names,
    )


def search_of(prompt: str) -> tuple[str, int]:
    """What the index is asked for a prompt of mission A's form, and how many names are in it.

    `find age sefar: ...` asks for `sefar age`; `max age: a age 3; b ...` for `a b age`.

    Raises:
        InvalidInputError: the prompt has another form.
    """
    head, colon, facts = prompt.strip().partition(":")
    words = head.split()
    if not colon or len(words) < 2:
        raise InvalidInputError(
            "A planner's prompt reads 'what field [name]: facts', one line, such as "
            "'find age sefar: sefar job nurse'."
        )
    _, path, *names = words
    if not names:
        names = [fact.split()[0] for fact in facts.split(";") if fact.split()]
    return " ".join((*names, path)), max(1, len(names))


def answer(
    host: AdapterHost,
    planner: ServedPlanner,
    prompt: str,
    *,
    search: str | None = None,
    branch: Branch | None = None,
    everywhere: bool = False,
) -> Generator[None, None, Answer]:
    """Yields after the prefill and after each chunk; returns the answer.

    Args:
        search: what the index is asked instead of `search_of(prompt)`.
        branch: lies over the skills.
        everywhere: it acts on what is read too, at its knob, and has no gate.

    Raises:
        InvalidInputError: the prompt has not mission A's form.
    """
    wanted, titles = search_of(prompt)
    prompt = prompt.strip() + "\n"
    tokenizer, marks = host.base.tokenizer, planner.setting.marks
    fused = planner.rule in _FUSED_RULES
    skills = () if fused else tuple(planner.names[name] for name in SKILL_ADAPTERS)
    whole = (planner.names[FUSED],) if fused else ()
    texts = planner.retriever.retrieve([search or wanted], titles=titles).texts[0]
    parts = encode_parts(prompt, texts, tokenizer)
    ids = tokenizer(prompt)["input_ids"]
    engine = ChunkEngine(host, separator_id=marks.separator)
    over: Over | None = None
    branched: tuple[str, ...] = ()
    if branch is not None and everywhere:
        over = Over(adapter=branch.adapter, strength=branch.knob, reads=True)
    elif branch is not None:
        branched = (branch.adapter,)
    start = engine.prefill([ids], acting=whole, ready=(*skills, *branched), over=over)
    if branch is not None and over is None:
        gate = 1.0 if branch.head is None else float(branch.head(start.last_hidden_BD).sigmoid())
        over = Over(adapter=branch.adapter, strength=branch.knob * gate)
    yield
    plan = planner.plan
    if planner.policy is not None:
        plan = planner.policy.plan(start.features_BF)[0]
    walk, logits_BV = start.walk, start.logits_BV
    done, told, read, written = "", None, 0, 0
    while skill := _next(planner, plan, done, logits_BV):
        name = planner.names[FUSED if fused else SKILL_NAMES[skill]]
        given = parts.given(skill, marks, told)
        budget = planner.setting.budget[skill]
        chunk = engine.extend(walk, name, [given], max_new=budget, over=over)
        walk, logits_BV, told = chunk.walk, chunk.logits_BV, chunk.tokens[0]
        done += skill
        read += len(given)
        written += len(told) + 1
        yield
    return Answer(
        text=tokenizer.decode(told or []),
        plan=done,
        retrieved=texts if "R" in done else (),
        prompt_tokens=len(ids),
        read_tokens=read,
        written_tokens=written,
        gate=None if over is None else over.strength,
    )


def _next(planner: ServedPlanner, plan: str, done: str, logits_BV: Tensor) -> str:
    """The next skill; empty: stop. A fused adapter that plans itself takes the likeliest marker."""
    if planner.rule != "fused":
        return plan[len(done) : len(done) + 1]
    setting = planner.setting
    skills = [action for action in setting.space.legal(done) if action]
    if not skills:
        return ""
    markers = torch.tensor(
        [setting.marks.marker[skill] for skill in skills], device=logits_BV.device
    )
    return skills[int(logits_BV[0, markers].argmax())]
