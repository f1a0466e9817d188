"""The stream loop with a scripted updater and canary, on a tiny random base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch

from bem.base import load_base
from bem.data import Encoded, encode
from bem.evaluate import teacher_forced_exact_match
from bem.injection import AdapterHost
from bem.online import CanaryConfig, CanaryReport, LearnerConfig
from bem.registry import make_config
from bem.testing import write_tiny_base
from missions.living_model import data
from missions.living_model.data import to_examples
from missions.living_model.feedback import Feedback, FeedbackConfig, schedule
from missions.living_model.params import MemoryParams
from missions.living_model.stream import CanarySuite, run_stream
from missions.living_model.updaters import MemoryUpdater, Updater, gradient_updater

STREAM = data.make_stream(
    np.random.default_rng(1), "dev", 60, {"signature": 10, "format": 20, "domain": 30}, 0.3, set()
)
FEEDBACK = schedule(STREAM, FeedbackConfig(max_delay=7), (40, 45), np.random.default_rng(2))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> AdapterHost:
    base = load_base(write_tiny_base(tmp_path_factory.mktemp("base")))
    host = AdapterHost(base)
    host.add("a", make_config("generated", rank=2), generator=torch.Generator().manual_seed(0))
    host.use("a")
    return host


class Script(Updater):
    """Records what the stream does to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.seen: list[list[int]] = [[]]

    def observe(self, items: Sequence[Encoded]) -> None:
        self.seen[-1] += [int(item.id) for item in items]

    def update(self) -> None:
        self.calls.append("update")
        self.seen.append([])

    def commit(self) -> None:
        self.calls.append("commit")

    def rollback(self) -> None:
        self.calls.append("rollback")


class Canary:
    """Gives scripted scores, the start score first."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = list(scores)
        self.commits = 0

    def run(self, routing: Any = None) -> CanaryReport:
        return CanaryReport(score=self.scores.pop(0), kl=0.0)

    def commit(self) -> None:
        self.commits += 1


def _run(host: AdapterHost, updater: Updater | None, scores: Sequence[float]) -> Any:
    suite = cast(CanarySuite, Canary(scores))
    return run_stream(
        host,
        STREAM,
        FEEDBACK,
        updater,
        suite,
        CanaryConfig(every=10),
        prompts_per_update=5,
    )


def test_feedback_is_used_only_after_its_prompt_was_served_and_it_arrived(
    host: AdapterHost,
) -> None:
    script = Script()
    result = _run(host, script, [0.8] * 7)
    arrival = {event.served: event.arrives for event in FEEDBACK}
    for number, served in enumerate(script.seen):
        now = 5 * (number + 1)
        assert all(at < now and now - 5 < arrival[at] <= now for at in served)
    used = sorted(at for served in script.seen for at in served)
    assert used == sorted(event.served for event in FEEDBACK if event.arrives <= 60)
    assert script.calls == ["update", "update", "commit"] * 6
    assert [event.at for event in result.canary] == [10, 20, 30, 40, 50, 60]


def test_rollback_quarantines_prompts_since_the_last_good_state(host: AdapterHost) -> None:
    script = Script()
    # Canary runs at 10..60: good at 10 and 20, hold at 30, rollback at 40, then good again.
    result = _run(host, script, [0.8, 0.8, 0.8, 0.7, 0.1, 0.8, 0.8])
    assert [e.action for e in result.canary] == [
        "promote",
        "promote",
        "hold",
        "rollback",
        "promote",
        "promote",
    ]
    late = [at for served in script.seen[8:] for at in served]
    assert not any(20 <= at < 40 for at in late)
    dropped = [e for e in FEEDBACK if 20 <= e.served < 40 and 40 < e.arrives <= 60]
    assert result.num_quarantined == len(dropped) > 0


def test_serving_in_blocks_equals_serving_at_once(host: AdapterHost) -> None:
    rows = encode(to_examples(STREAM), host.base.tokenizer)
    blocks = _run(host, Script(), [0.8] * 7).hits
    assert blocks == _run(host, None, [0.8]).hits == teacher_forced_exact_match(host, rows)


def test_the_canary_suite_measures_divergence_from_the_committed_answers(
    host: AdapterHost,
) -> None:
    suite = CanarySuite(host, to_examples(STREAM[:6]))
    assert suite.run().kl == pytest.approx(0.0, abs=1e-6)
    parameter = host["a"].get_parameter("layers.0.up_OR")
    before = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(0.5)
    moved = suite.run()
    assert moved.kl > 1e-4
    suite.commit()
    assert suite.run().kl == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        parameter.copy_(before)


def _adapter_state(host: AdapterHost) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in host["a"].state_dict().items()}


def test_controller_only_changes_the_controller_and_nothing_else(host: AdapterHost) -> None:
    rows = encode(to_examples(STREAM[:20]), host.base.tokenizer)
    torch.nn.init.normal_(
        host["a"].get_parameter("layers.0.up_OR"), generator=torch.Generator().manual_seed(1)
    )
    before = _adapter_state(host)
    updater = gradient_updater(
        host,
        "a",
        "controller",
        LearnerConfig(lr=0.01, batch_size=4, ewc=0.01, proximal=0.01, fisher_items=2),
        rows[:8],
        generator=torch.Generator().manual_seed(0),
    )
    updater.observe(rows[8:])
    updater.update()
    changed = {k for k, v in _adapter_state(host).items() if not torch.equal(v, before[k])}
    assert changed
    assert all(key.startswith("controller.") for key in changed)
    updater.rollback()
    assert all(torch.equal(value, before[key]) for key, value in _adapter_state(host).items())


def test_the_memory_reroutes_to_the_code_that_reproduces_the_correction(host: AdapterHost) -> None:
    """With the targets set to what some cue's code answers, the memory must find that code."""
    from bem.evaluate import greedy_generate

    family = data.make_family(np.random.default_rng(3), "train", 60, "t")
    updater = MemoryUpdater(host, "a", family, MemoryParams(radius=100.0, votes=1, trials=3))
    rows = encode(to_examples(STREAM[:3]), host.base.tokenizer)
    value = updater._values[4]
    answers = greedy_generate(
        host,
        rows,
        max_new_tokens=4,
        routing=lambda batch, index: batch.routing(codes={"a": value.expand(len(index), -1, -1)}),
    )
    asked = [
        Encoded(prompt_ids=row.prompt_ids, target_ids=tuple(out), id=row.id, cluster="")
        for row, out in zip(rows, answers, strict=True)
    ]
    updater.observe(asked)
    updater.update()
    assert len(updater.memory) == 3
    served = teacher_forced_exact_match(host, asked[-1:], routing=updater.routing)
    assert served == [True]
    updater.rollback()
    assert len(updater.memory) == 0


def test_poison_that_no_code_reproduces_is_not_remembered(host: AdapterHost) -> None:
    family = data.make_family(np.random.default_rng(3), "train", 60, "t")
    updater = MemoryUpdater(host, "a", family, MemoryParams())
    event = Feedback(served=0, arrives=1, prompt=STREAM[0].prompt, target="none", right=False)
    item = data.Item(
        id="x",
        prompt=event.prompt,
        target=event.target,
        wrong=(),
        tag="send",
        part="stable",
        injected=False,
        names=(),
    )
    updater.observe(encode(to_examples([item]), host.base.tokenizer))
    updater.update()
    assert len(updater.memory) == 0
