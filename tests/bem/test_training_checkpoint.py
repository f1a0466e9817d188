"""Damage of every kind is found, the rest is used; a training that goes on ends alike."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bem.checkpoint import MANIFEST
from bem.errors import CheckpointError, InvalidInputError, NonFiniteLossError, TrainingStopped
from bem.packing import fit_packed
from bem.state_tree import NumpyDraws, TorchDraws, join, split
from bem.training import TrainResult, fit
from bem.training_checkpoint import KEEP, STATE, TENSORS, Snapshot, StageCheckpoints

STEPS = 12


class Kept:
    """Stores over one folder, and what they said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.alarms: list[str] = []
        self.resumed: list[Snapshot] = []

    @property
    def folder(self) -> Path:
        return self.root / "stage"

    def store(self, *, every_s: float = 0.0, key: str = "k", **more: Any) -> StageCheckpoints:
        return StageCheckpoints(
            self.folder,
            key=key,
            every_s=every_s,
            quarantine=self.root / "quarantine",
            alarm=self.alarms.append,
            resumed=self.resumed.append,
            **more,
        )

    def steps(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


class Task:
    """A small network on batches of a NumPy and a torch generator, with dropout."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(4, 4, generator=draw))
        self.bias = nn.Parameter(torch.zeros(4))
        self.numpy = np.random.default_rng(2)
        self.torch = torch.Generator().manual_seed(3)
        torch.manual_seed(4)  # the global generator, which dropout draws from

    def loss(self, step: int) -> Tensor:
        x = torch.randn(8, 4, generator=self.torch)
        y = torch.from_numpy(self.numpy.normal(size=(8, 4))).float()
        hidden = nn.functional.dropout(x @ self.weight + self.bias, 0.2)
        return ((hidden - y) ** 2).mean()

    def fit(self, checkpoints: StageCheckpoints | None = None, **more: Any) -> TrainResult:
        return fit(
            self.loss,
            [{"params": [self.weight], "lr": 0.05}, {"params": [self.bias], "lr": 0.01}],
            steps=STEPS,
            checkpoints=checkpoints,
            carried={"numpy": NumpyDraws(self.numpy), "torch": TorchDraws(self.torch)},
            **more,
        )

    @property
    def weights(self) -> list[Tensor]:
        return [self.weight.detach(), self.bias.detach()]


def same(a: Task, b: Task) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))


def stop_after(questions: int) -> Callable[[], bool]:
    asked = itertools.count()
    return lambda: next(asked) >= questions


@pytest.mark.parametrize("cut", [0, 1, 5, STEPS - 1])
def test_a_training_that_goes_on_ends_with_the_same_bits(kept: Kept, cut: int) -> None:
    whole = Task()
    straight = whole.fit()
    with pytest.raises(TrainingStopped, match=f"before step {cut}"):
        Task().fit(kept.store(every_s=1e9), should_stop=stop_after(cut))
    again = Task()
    torch.manual_seed(99)  # another process: its global generator stands elsewhere
    result = again.fit(kept.store(every_s=1e9))
    assert kept.resumed[0].step == cut
    assert same(whole, again)
    assert (result.losses, result.steps, result.stopped) == (straight.losses, STEPS, False)


def test_it_may_be_cut_again_and_again(kept: Kept) -> None:
    whole = Task()
    whole.fit()
    for _ in range(STEPS // 2 - 1):
        with pytest.raises(TrainingStopped):
            Task().fit(kept.store(every_s=1e9), should_stop=stop_after(2))
    last = Task()
    last.fit(kept.store(every_s=1e9), should_stop=stop_after(2))
    assert same(whole, last)
    assert kept.alarms == []


def test_saving_changes_nothing(kept: Kept) -> None:
    plain, saved = Task(), Task()
    assert plain.fit().losses
    torch.manual_seed(4)
    saved.fit(kept.store())
    assert same(plain, saved)


def test_a_finished_stage_is_found_and_not_trained_again(kept: Kept) -> None:
    first, second = Task(), Task()
    torch.manual_seed(4)
    done = first.fit(kept.store())
    second.loss = lambda step: pytest.fail("trained again")  # type: ignore[method-assign]
    found = second.fit(kept.store())
    assert same(first, second)
    assert found.losses == done.losses
    assert second.numpy.bit_generator.state == first.numpy.bit_generator.state
    assert kept.resumed[-1].finished


def test_a_kill_in_a_step_loses_no_more_than_the_interval(kept: Kept, tmp_path: Path) -> None:
    """A real kill -9, in a process of its own, in the middle of a step."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal\n"
        "from pathlib import Path\nfrom test_training_checkpoint import Kept, Task\n"
        "import bem.training_checkpoint as module\n"
        "module.LARGEST_SHARE = 1e9  # steps of microseconds, one checkpoint each\n"
        "task = Task()\nplain = task.loss\n"
        "def loss(step):\n"
        "    if step == 7:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(step)\n"
        f"task.loss = loss\ntask.fit(Kept(Path({str(tmp_path)!r})).store(every_s=0.0))\n"
    )
    here = Path(__file__).resolve()
    path = os.pathsep.join((str(here.parents[2]), str(here.parent)))
    ended = subprocess.run(
        [sys.executable, str(script)], check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert ended.returncode == -9
    whole, again = Task(), Task()
    whole.fit()
    again.fit(kept.store())
    assert kept.resumed[0].step == 7
    assert same(whole, again)


def test_the_last_two_are_kept_and_the_interval_is_kept(kept: Kept) -> None:
    now = iter(float(t) for t in itertools.count())
    store = kept.store(every_s=3.0, clock=lambda: next(now))
    Task().fit(store)
    assert len(kept.steps()) == KEEP
    assert kept.steps()[-1] == f"step_{STEPS:08d}"
    assert 3 <= store.writes <= 5
    assert store.wall_s > 0


def test_slow_writing_stretches_the_interval(kept: Kept) -> None:
    now = [0.0]
    store = kept.store(every_s=1.0, clock=lambda: now[0])
    store.save(1, {"x": torch.ones(2)})
    store._took_s = 2.0  # as a large model on a slow disk would have it
    now[0] = 39.0
    assert not store.due()
    now[0] = 41.0
    assert store.due()


def _flip(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[len(data) // 2] ^= 4
        (path / name).write_bytes(bytes(data))

    return damage


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size // 2)


def _edit(**fields: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        manifest = json.loads((path / MANIFEST).read_text())
        (path / MANIFEST).write_text(json.dumps({**manifest, **fields}))

    return damage


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "tensors flipped": (_flip(TENSORS), f"{TENSORS} does not verify"),
    "tensors truncated": (_truncate(TENSORS), f"{TENSORS} does not verify"),
    "tensors gone": (lambda path: (path / TENSORS).unlink(), f"no {TENSORS}"),
    "state flipped": (_flip(STATE), f"{STATE} does not verify"),
    "state truncated": (_truncate(STATE), f"{STATE} does not verify"),
    "manifest gone": (lambda path: (path / MANIFEST).unlink(), f"no {MANIFEST}"),
    "manifest truncated": (_truncate(MANIFEST), MANIFEST),
    "manifest says another step": (_edit(step=3), "disagree"),
    "of another training": (_edit(key="other"), "belongs to another training"),
    "of another torch": (_edit(versions={"torch": "1.0"}), r"written by torch 1\.0"),
    "unknown field": (_edit(colour="red"), "Extra inputs"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_put_aside_and_the_one_before_is_used(kept: Kept, name: str) -> None:
    damage, reason = DAMAGE[name]
    whole = Task()
    whole.fit()
    with pytest.raises(TrainingStopped):
        Task().fit(kept.store(), should_stop=stop_after(8))
    before, newest = kept.steps()
    damage(kept.folder / newest)
    again = Task()
    again.fit(kept.store(every_s=1e9))
    assert kept.resumed[-1].step == int(before.removeprefix("step_"))
    assert same(whole, again)
    assert len(kept.alarms) == 1
    assert f"{newest} put aside" in kept.alarms[0]
    assert re.search(reason, kept.alarms[0])
    assert len(list((kept.root / "quarantine").iterdir())) == 1


def test_where_all_are_damaged_training_starts_anew(kept: Kept) -> None:
    whole = Task()
    whole.fit()
    with pytest.raises(TrainingStopped):
        Task().fit(kept.store(), should_stop=stop_after(8))
    for path in kept.folder.iterdir():
        (path / MANIFEST).unlink()
    again = Task()
    again.fit(kept.store())
    assert same(whole, again)
    assert len(kept.alarms) == KEEP


def test_a_weight_that_is_not_finite_is_put_aside(kept: Kept) -> None:
    """Written by something else than `save`, which refuses it; its digests are right."""
    store = kept.store()
    store.save(1, {"w": torch.ones(2)})
    with pytest.raises(CheckpointError, match="is not finite"):
        store.save(2, {"w": torch.tensor([1.0, float("nan")])})
    assert kept.steps() == ["step_00000001"]
    import bem.training_checkpoint as module

    check = module._require_finite
    module._require_finite = lambda tensors, where: None  # type: ignore[assignment]
    try:
        store.save(2, {"w": torch.tensor([1.0, float("inf")])})
    finally:
        module._require_finite = check
    found = kept.store().newest()
    assert found is not None
    assert found.step == 1
    assert "is not finite" in kept.alarms[0]


def test_another_training_of_the_same_folder_is_not_picked_up(kept: Kept) -> None:
    kept.store(key="one").save(1, {"w": torch.ones(2)})
    assert kept.store(key="two").newest() is None
    assert "belongs to another training" in kept.alarms[0]


def test_a_writer_that_was_killed_leaves_nothing_to_trip_over(kept: Kept) -> None:
    kept.store().save(1, {"w": torch.ones(2)})
    half = kept.folder / ".writing-step_00000002-1"
    half.mkdir()
    (half / TENSORS).write_bytes(b"half")
    found = kept.store().newest()
    assert found is not None
    assert found.step == 1
    assert kept.alarms == []
    assert kept.steps() == ["step_00000001"]


def test_weights_that_become_infinite_are_a_failure_and_are_not_written(kept: Kept) -> None:
    a = nn.Parameter(torch.tensor([1.0]))

    def loss(step: int) -> Tensor:
        if step == 2:
            with torch.no_grad():
                a.fill_(float("inf"))
            return torch.where(torch.isfinite(a), a, torch.ones_like(a)).sum()
        return (a**2).sum()

    with pytest.raises(NonFiniteLossError, match="weight after step 3 is not finite"):
        fit(loss, [{"params": [a], "lr": 0.1}], steps=3, checkpoints=kept.store(every_s=1e9))
    assert not kept.folder.exists()


def test_a_pack_goes_on_as_one(kept: Kept) -> None:
    def run(checkpoints: StageCheckpoints | None, stop: Callable[[], bool] | None = None) -> Any:
        weights = {name: nn.Parameter(torch.full((3,), float(i))) for i, name in enumerate("ab", 1)}
        draw = torch.Generator().manual_seed(0)

        def losses(step: int) -> dict[str, Tensor]:
            x = torch.randn(3, generator=draw)
            return {name: ((w - x) ** 2).sum() for name, w in weights.items()}

        results = fit_packed(
            losses,
            {name: [{"params": [w], "lr": 0.1}] for name, w in weights.items()},
            steps=STEPS,
            checkpoints=checkpoints,
            carried={"draw": TorchDraws(draw)},
            should_stop=stop,
        )
        return weights, results

    whole, straight = run(None)
    with pytest.raises(TrainingStopped):
        run(kept.store(every_s=1e9), stop_after(5))
    again, resumed = run(kept.store(every_s=1e9))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert {n: r.losses for n, r in straight.items()} == {n: r.losses for n, r in resumed.items()}


def test_a_name_given_to_two_trainings_is_caught(kept: Kept) -> None:
    Task().fit(kept.store())
    other = nn.Parameter(torch.zeros(2))
    with pytest.raises(CheckpointError, match="carries"):
        fit(
            lambda step: (other**2).sum(),
            [{"params": [other], "lr": 0.1}],
            steps=STEPS,
            checkpoints=kept.store(),
        )


def _trees() -> Iterator[Any]:
    yield {"a": torch.arange(3), "b": [1, 2.5, "x", None, True, {"c": torch.ones(1)}]}
    yield {"big": dict(np.random.default_rng(0).bit_generator.state)}


@pytest.mark.parametrize("tree", list(_trees()))
def test_a_tree_comes_back(tree: Any) -> None:
    tensors, plain = split(tree)
    back = join(tensors, json.loads(json.dumps(plain)))
    assert str(back) == str(tree)


def test_what_a_checkpoint_cannot_hold_is_named() -> None:
    with pytest.raises(InvalidInputError, match="'/a/0' is a set"):
        split({"a": [{1}]})
    with pytest.raises(InvalidInputError, match="keys must be text"):
        split({"a": {1: 2}})
