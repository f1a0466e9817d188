"""Answers of a batch that changes at every step equal those of each request alone.

Legend: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bem import AdapterHost, BaseModel, BEMConfig, BEMModel, RoutingContext, load_base
from bem.engine import Branch, Engine, Event, Limits, Request, Sampling
from bem.errors import InvalidInputError, QueueFullError
from bem.mixed import SlowRowsWarning
from bem.safety import ValueHead, continue_greedy, prefill
from bem.testing import FAMILIES, write_tiny_base

torch.set_num_threads(1)

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 2},
    "other": {"kind": "lora", "rank": 2},
    "sequence": {"kind": "generated", "rank": 2, "code": "sequence"},
    "chunk": {"kind": "generated", "rank": 2, "code": "chunk", "chunk_size": 3},
    "film": {"kind": "film"},
}
PROMPTS = ["a", "a longer prompt than the others have", "xyz", "one two three", "zz top", "q?"]


class Answer:
    """Collects the events of one request."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        assert not self.done
        self.events.append(event)

    @property
    def done(self) -> bool:
        return bool(self.events) and self.events[-1].finish is not None

    @property
    def finish(self) -> str | None:
        return self.events[-1].finish

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    @property
    def tokens(self) -> list[int]:
        return [token for event in self.events for token in event.tokens]


def ids(model: BEMModel | AdapterHost, text: str) -> tuple[int, ...]:
    return tuple(model.base.tokenizer(text)["input_ids"])


def made(folder: Path, seed: int = 1) -> BEMModel:
    model = BEMModel(BEMConfig(base=folder, adapters=ADAPTERS, hints=("formal",), embedding_size=2))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.host.adapters.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[BEMModel]:
    with made(write_tiny_base(tmp_path_factory.mktemp("base"), request.param)) as model:
        yield model


@pytest.fixture
def model(llama_folder: Path) -> Iterator[BEMModel]:
    with made(llama_folder) as model:
        yield model


def run(engine: Engine, limit: int = 500) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowRowsWarning)
        for _ in range(limit):
            if not engine.step():
                return
    raise AssertionError("the engine did not come to an end")


def test_rows_that_come_and_go_equal_offline_generation(any_model: BEMModel) -> None:
    """Every kind beside every other and the base; greedy and sampled; hints; few places."""
    model = any_model
    engine = Engine(model.host, Limits(rows=4, positions=96, prefill_tokens=60))
    cases = []
    for at, prompt in enumerate(PROMPTS * 2):
        name = [*ADAPTERS, None][at % 6]
        sampled = at % 3 == 1
        strength = [1.0, 0.5][at % 2]
        sides = {}
        if name in model.tables and at >= 6:
            sides = {name: model.tables[name].side([("formal",)], [None])}
        elif name in model.tables:
            sides = {name: model.tables[name].side([()], [None])}
        request = Request(
            prompt_ids=ids(model, prompt),
            strength={} if name is None else {name: strength},
            sides=sides,
            max_tokens=5 + 3 * (at % 4),
            sampling=Sampling(temperature=0.8, top_p=0.9, seed=at) if sampled else Sampling(),
            incremental=at % 2 == 0,
        )
        cases.append((request, name, strength, prompt, Answer(), at))
    waiting = list(cases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowRowsWarning)
        while waiting or engine.step():
            if waiting:
                request, *_, answer, _ = waiting.pop(0)
                engine.submit(request, answer)
                engine.step()
    for request, name, strength, prompt, answer, at in cases:
        model.use(*([] if name is None else [name]))
        kwargs: dict[str, Any] = {"max_new_tokens": request.max_tokens}
        if request.sampling.temperature:
            draw = torch.Generator().manual_seed(request.sampling.seed)
            kwargs |= {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}
            kwargs |= {"generator": draw}
        hints = "formal" if name in model.tables and at >= 6 else None
        expected = model.generate(
            prompt, adaptation_strength=strength, context_hints=hints, **kwargs
        )
        assert answer.done
        assert answer.text == expected, (name, at)


def test_the_order_of_arrival_and_neighbours_do_not_matter(model: BEMModel) -> None:
    def answers(order: list[int], rows: int) -> dict[int, list[int]]:
        engine = Engine(model.host, Limits(rows=rows, positions=64))
        found = {}
        for at in order:
            found[at] = Answer()
            engine.submit(
                Request(
                    prompt_ids=ids(model, PROMPTS[at]),
                    strength={list(ADAPTERS)[at % 3]: 1.0},
                    max_tokens=12,
                    sampling=Sampling(temperature=1.0, seed=at),
                ),
                found[at],
            )
        run(engine)
        return {at: answer.tokens for at, answer in sorted(found.items())}

    assert answers([0, 1, 2, 3, 4, 5], 6) == answers([5, 3, 1, 0, 2, 4], 2)


def test_strength_zero_is_the_base_to_the_bit(model: BEMModel) -> None:
    engine = Engine(model.host, Limits(rows=4, positions=64))
    given: list[dict[str, float]] = [{"lora": 0.0}, {}, {"lora": 1.0}, {"sequence": 0.0}]
    answers = [Answer() for _ in given]
    for strength, answer in zip(given, answers, strict=True):
        side = model.tables["sequence"].side([()], [None])
        engine.submit(
            Request(
                prompt_ids=ids(model, "hello there"),
                strength=strength,
                sides={"sequence": side} if "sequence" in strength else {},
                max_tokens=8,
                logprobs=20,
            ),
            answer,
        )
    run(engine)
    infos = [[info for event in a.events for info in event.infos] for a in answers]
    assert infos[0] == infos[1] == infos[3]
    assert infos[2] != infos[1]


def test_logprobs_are_those_of_a_full_forward(model: BEMModel) -> None:
    engine = Engine(model.host, Limits(rows=2, positions=64))
    answer, other = Answer(), Answer()
    prompt = ids(model, "hello there")
    engine.submit(
        Request(prompt_ids=prompt, strength={"lora": 1.0}, max_tokens=6, logprobs=3), answer
    )
    engine.submit(Request(prompt_ids=prompt[:3], max_tokens=9), other)
    run(engine)
    whole = torch.tensor([[*prompt, *answer.tokens]])
    with torch.no_grad():
        logits = model.host(whole, routing=RoutingContext(adapters=("lora",))).logits[0]
    expected = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    infos = [info for event in answer.events for info in event.infos]
    assert len(infos) == 6
    for info, row in zip(infos, expected, strict=True):
        assert info.logprob == pytest.approx(float(row[info.token]), abs=1e-4)
        best = row.topk(3)
        assert [token for token, _ in info.top] == best.indices.tolist()
        assert [p for _, p in info.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_an_answer_that_is_wanted_whole_comes_in_one_event(model: BEMModel) -> None:
    """The same as the events of one that is told as it comes."""
    now = [0.0]
    engine = Engine(model.host, Limits(rows=2, positions=64), clock=lambda: now[0])
    answers = [Answer(), Answer()]
    for incremental, answer in zip((True, False), answers, strict=True):
        request = Request(
            prompt_ids=ids(model, "hello there"),
            strength={"lora": 1.0},
            max_tokens=9,
            logprobs=1,
            incremental=incremental,
        )
        engine.submit(request, answer)
    now[0] = 7.0
    engine.step()
    now[0] = 8.0
    run(engine)
    told, whole = answers
    assert len(told.events) > 1
    assert len(whole.events) == 1
    assert (told.text, told.tokens, told.finish) == (whole.text, whole.tokens, whole.finish)
    assert [i for e in told.events for i in e.infos] == list(whole.events[0].infos)
    assert told.events[0].first_s == whole.events[0].first_s == 7.0
    assert all(event.first_s is None for event in told.events[1:])


def test_two_adapters_on_one_row(model: BEMModel) -> None:
    """Equal shapes on one row: their deltas add up, beside a row that has only one of them."""
    engine = Engine(model.host, Limits(rows=3, positions=64))
    given = [{"lora": 1.0, "other": 0.5}, {"other": 1.0}, {"lora": 0.3}]
    answers = [Answer() for _ in given]
    for strength, answer in zip(given, answers, strict=True):
        engine.submit(
            Request(prompt_ids=ids(model, "both"), strength=strength, max_tokens=10), answer
        )
    run(engine)
    for strength, answer in zip(given, answers, strict=True):
        model.use(*strength)
        expected = model.generate("both", adaptation_strength=strength, max_new_tokens=10)
        assert answer.text == expected


@pytest.mark.parametrize("skill", ["lora", "chunk", None])
@pytest.mark.parametrize("knob", [0.0, 0.4, 1.0])
def test_a_branch_acts_from_the_last_prompt_token_on(
    llama: BaseModel, skill: str | None, knob: float
) -> None:
    """As `bem.safety` runs it; beside other rows."""
    folder = llama.folder
    assert folder is not None
    with made(folder) as model:
        draw = torch.Generator().manual_seed(3)
        head = ValueHead(model.base.hidden_size, generator=draw)
        with torch.no_grad():
            head.head_1X.normal_(generator=draw)
        engine = Engine(model.host, Limits(rows=3, positions=64))
        answer, beside = Answer(), Answer()
        prompt = ids(model, "an odd request")
        names = () if skill is None else (skill,)
        engine.submit(Request(prompt_ids=prompt[:4], strength={"film": 1.0}, max_tokens=9), beside)
        engine.submit(
            Request(
                prompt_ids=prompt,
                strength=dict.fromkeys(names, 1.0),
                branch=Branch(adapter="other", knob=knob, head=head),
                max_tokens=10,
            ),
            answer,
        )
        run(engine)
        if skill == "chunk":  # `bem.safety` has no causal state: only that it runs is shown here
            assert answer.done
            return
        tokens = torch.tensor([prompt])
        state = prefill(
            model.host, tokens, torch.ones_like(tokens), names, dict.fromkeys(names, 1.0)
        )
        gate = knob * float(torch.sigmoid(head(state.last_hidden_BD)).detach())
        acting = (*names, "other") if knob else names
        expected = continue_greedy(
            model.host,
            state,
            adapters=acting,
            strength={"other": gate},
            max_new_tokens=10,
            eos_id=int(model.base.tokenizer.eos_token_id),
        )[0]
        assert answer.tokens == expected
        assert answer.events[0].gate == (pytest.approx(gate, abs=1e-5) if knob else None)


def test_a_branch_over_causal_codes_counts_no_token_twice(model: BEMModel) -> None:
    """A branch of weight 0 changes nothing: the chunk counter stands where it would stand."""
    with torch.no_grad():
        for parameter in model.host["other"].parameters():
            parameter.zero_()
    answers = []
    for branch in (None, Branch(adapter="other", knob=1.0)):
        engine = Engine(model.host, Limits(rows=2, positions=64))
        answers.append(Answer())
        engine.submit(
            Request(
                prompt_ids=ids(model, "nine char"),
                strength={"chunk": 1.0},
                branch=branch,
                max_tokens=12,
                logprobs=1,
            ),
            answers[-1],
        )
        run(engine)
    first, second = ([i for e in a.events for i in e.infos] for a in answers)
    assert [i.token for i in first] == [i.token for i in second]
    assert [i.logprob for i in first] == pytest.approx([i.logprob for i in second], abs=1e-4)


def test_stop_strings_end_the_text_before_them(model: BEMModel) -> None:
    model.use()
    whole = model.generate("hello there", max_new_tokens=24)
    assert isinstance(whole, str)
    stop = whole[7:10]
    expected = whole[: whole.index(stop)]
    for incremental in (False, True):
        engine = Engine(model.host, Limits(rows=2, positions=64))
        answer = Answer()
        engine.submit(
            Request(
                prompt_ids=ids(model, "hello there"),
                max_tokens=24,
                stop=("never said", stop),
                incremental=incremental,
            ),
            answer,
        )
        run(engine)
        assert (answer.text, answer.finish) == (expected, "stop")


def test_cancel_deadline_and_a_full_queue(model: BEMModel) -> None:
    now = [0.0]
    engine = Engine(model.host, Limits(rows=1, queue=2, positions=64), clock=lambda: now[0])
    answers = [Answer() for _ in range(3)]
    request = Request(prompt_ids=ids(model, "abc"), max_tokens=40)
    first = engine.submit(request, answers[0])
    engine.step()
    late = Request(prompt_ids=request.prompt_ids, max_tokens=40, deadline_s=5.0)
    engine.submit(late, answers[1])
    engine.submit(request, answers[2])
    with pytest.raises(QueueFullError, match="2 answers wait"):
        engine.submit(request, Answer())
    engine.step()
    first.cancel()
    now[0] = 6.0
    engine.step()
    assert answers[0].finish == "cancelled"
    assert answers[1].finish == "deadline"
    run(engine)
    assert answers[2].finish in ("stop", "length")
    assert engine.load.running == engine.load.waiting == 0
    assert engine.load.kv_bytes > 0
    engine.rest()
    assert engine.load.kv_bytes == 0


def test_who_was_held_for_want_of_a_row_is_not_held_again(model: BEMModel) -> None:
    """Few prompts wait some steps for more; a row that comes free then is theirs at once."""
    engine = Engine(model.host, Limits(rows=4, hold_steps=3, positions=64))
    running = [Answer() for _ in range(4)]
    tickets = [
        engine.submit(Request(prompt_ids=ids(model, "abc"), max_tokens=40), answer)
        for answer in running
    ]
    engine.step()
    late = Answer()
    engine.submit(Request(prompt_ids=ids(model, "xyz"), max_tokens=9), late)
    for _ in range(5):
        engine.step()
    assert not late.events, "no row is free"
    tickets[0].cancel()
    engine.step()
    assert engine.load.running == 4
    assert engine.load.waiting == 0


def test_few_prompts_wait_some_steps_for_more(model: BEMModel) -> None:
    engine = Engine(model.host, Limits(rows=4, hold_steps=3, positions=64))
    for _ in range(2):
        engine.submit(Request(prompt_ids=ids(model, "abc"), max_tokens=40), Answer())
    engine.step()
    engine.submit(Request(prompt_ids=ids(model, "xyz"), max_tokens=9), Answer())
    running = []
    for _ in range(4):
        engine.step()
        running.append(engine.load.running)
    assert running == [2, 2, 2, 3]


def test_requests_that_do_not_fit(model: BEMModel) -> None:
    engine = Engine(model.host, Limits(positions=20))
    with pytest.raises(InvalidInputError, match="no token"):
        engine.submit(Request(prompt_ids=(), max_tokens=3), Answer())
    with pytest.raises(InvalidInputError, match="together at most 20"):
        engine.submit(Request(prompt_ids=(5,) * 18, max_tokens=3), Answer())
    with pytest.raises(InvalidInputError, match="top_p is 0"):
        Sampling(top_p=0)


def test_a_fault_costs_only_its_own_answer(model: BEMModel) -> None:
    engine = Engine(model.host, Limits(rows=4, positions=64))
    good, bad, late = Answer(), Answer(), Answer()
    engine.submit(Request(prompt_ids=ids(model, "abc"), max_tokens=6), good)
    engine.submit(
        Request(prompt_ids=ids(model, "abc"), strength={"nobody": 1.0}, max_tokens=6), bad
    )
    run(engine)
    assert good.finish in ("stop", "length")
    assert bad.finish == "error"
    assert "nobody" in bad.events[-1].error
    with torch.no_grad():
        next(model.host["lora"].layers[0].parameters())[0, 0] = torch.nan
    broken = Answer()
    for answer, strength in ((broken, {"lora": 1.0}), (late, {"other": 1.0})):
        engine.submit(
            Request(prompt_ids=ids(model, "abc"), strength=strength, max_tokens=6), answer
        )
    run(engine)
    assert broken.finish == "error"
    assert "not finite" in broken.events[-1].error
    assert late.finish in ("stop", "length")
    # What was not finite is gone from the place where the next row stands.
    later = [Answer() for _ in range(4)]
    for answer, text in zip(later, ("abc", "a prompt of more tokens", "b", "c"), strict=True):
        engine.submit(Request(prompt_ids=ids(model, text), max_tokens=6), answer)
    run(engine)
    assert all(answer.finish in ("stop", "length") for answer in later)


def test_the_bundled_base_answers(tmp_path: Path) -> None:
    """A window of positions, not the model's own, bounds a request; memory goes back."""
    base = load_base(write_tiny_base(tmp_path / "b", max_positions=48))
    with AdapterHost(base) as host:
        engine = Engine(host, Limits(rows=2, positions=4096))
        assert engine.positions == 48
        answer = Answer()
        engine.submit(Request(prompt_ids=(5,) * 40, max_tokens=8), answer)
        run(engine)
        assert len(answer.tokens) <= 8
        assert engine.load.prompt_tokens == 40
