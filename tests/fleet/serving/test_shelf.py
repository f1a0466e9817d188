"""What a shelf does when it is asked twice at once, when a model is bad, and when it gets well."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bem import AdapterHost, BaseModel, adapter_class, make_config
from bem.engine import Engine, EngineLoop, Limits
from bem.interfaces import Adapter
from fleet.serving import shelf as shelf_module
from fleet.serving.catalog import Entry, Listing
from fleet.serving.loading import Loaded
from fleet.serving.shelf import LONGEST_RETRY_S, RETRY_S, Shelf


class FakeCatalog:
    """Ids with their lines."""

    def __init__(self, **lines: dict[str, str]) -> None:
        self.lines = lines
        self.number = 1

    def version(self) -> int:
        return self.number

    def listing(self) -> Listing:
        entries = tuple(
            Entry(id=model, line=line, folder=Path(), manifest_sha256=None, created_s=0.0)
            for line, aliases in self.lines.items()
            for model in aliases.values()
        )
        return Listing(version=self.number, entries=entries, lines=self.lines)


class Loader:
    """Builds adapters of nothing; what is in `bad` fails."""

    def __init__(self) -> None:
        self.bad: dict[str, Exception] = {}
        self.asked: Counter[str] = Counter()
        self.pause = threading.Event()
        self.pause.set()

    def __call__(self, entry: Entry, base: BaseModel) -> Loaded:
        self.asked[entry.id] += 1
        self.pause.wait(10)
        if entry.id in self.bad:
            raise self.bad[entry.id]
        return Loaded(manifest=_Named(entry.id), created_s=0.0)  # type: ignore[arg-type]


class _Named:
    def __init__(self, name: str) -> None:
        self.id = name


Make = Callable[[FakeCatalog, Loader], Shelf]
NOW = [0.0]


@pytest.fixture
def shelf(base: BaseModel) -> Iterator[Make]:
    NOW[0] = 0.0
    with EngineLoop(Engine(AdapterHost(base), Limits(rows=1))) as loop:
        yield lambda catalog, loader: Shelf(
            catalog, base, loop, canary_share=0.5, load=loader, clock=lambda: NOW[0]
        )


def test_two_refreshes_at_once_load_each_model_once(shelf: Make) -> None:
    catalog, loader = FakeCatalog(one={"champion": "a"}, two={"champion": "b"}), Loader()
    made = shelf(catalog, loader)
    loader.pause.clear()
    with ThreadPoolExecutor(4) as pool:
        told = [pool.submit(made.refresh) for _ in range(4)]
        threading.Timer(0.2, loader.pause.set).start()
        assert sorted(one.result() for one in told) == [False, False, False, True]
    assert loader.asked == {"a": 1, "b": 1}
    assert made.view.models.keys() == {"a", "b"}


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), RuntimeError("size mismatch"), TypeError("x"), TimeoutError()]
)
def test_a_bad_model_costs_no_other_its_place(shelf: Make, error: Exception) -> None:
    loader = Loader()
    loader.bad["a"] = error
    made = shelf(FakeCatalog(one={"champion": "a"}, two={"champion": "b"}), loader)
    assert made.refresh()
    assert (made.view.models.keys(), made.view.skipped.keys()) == ({"b"}, {"a"})
    assert made.pin("two", "k") is not None
    assert made.pin("one", "k") is None


def test_a_skipped_model_is_tried_again_ever_more_rarely(shelf: Make) -> None:
    loader = Loader()
    loader.bad["a"] = ValueError("not yet")
    made = shelf(FakeCatalog(one={"champion": "a"}), loader)
    assert made.refresh()
    tried = []
    for second in range(1, 2000):
        NOW[0] = float(second)
        before = loader.asked["a"]
        assert not made.refresh()
        if loader.asked["a"] > before:
            tried.append(second)
    waits = [after - at for at, after in pairwise(tried)]
    assert tried[0] == RETRY_S
    assert waits[:3] == [2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S]
    assert max(waits) == LONGEST_RETRY_S
    del loader.bad["a"]
    NOW[0] += LONGEST_RETRY_S
    assert made.refresh()
    assert made.pin("one", "k") is not None
    assert made.swaps == 1


def test_a_canary_that_is_not_served_takes_no_traffic(shelf: Make) -> None:
    loader = Loader()
    loader.bad["b"] = ValueError("broken")
    made = shelf(FakeCatalog(one={"champion": "a", "canary": "b"}), loader)
    made.refresh()
    pinned = [made.pin("one", f"user-{number}") for number in range(50)]
    assert {found[0].model for found in pinned if found is not None} == {"a"}
    assert None not in pinned


def test_a_share_set_while_models_load_holds(shelf: Make) -> None:
    catalog, loader = FakeCatalog(one={"champion": "a"}), Loader()
    made = shelf(catalog, loader)
    loader.pause.clear()
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(made.refresh)
        made.set_canary_share(0.25)
        loader.pause.set()
        assert told.result()
    assert made.view.table.canary_share == 0.25


def test_a_model_that_comes_back_while_it_retires_is_kept(shelf: Make) -> None:
    catalog, loader = FakeCatalog(one={"champion": "a"}), Loader()
    made = shelf(catalog, loader)
    made.refresh()
    made.pin("one", "k")
    catalog.lines, catalog.number = {"one": {"champion": "b"}}, 2
    made.refresh()
    catalog.lines, catalog.number = {"one": {"champion": "a"}}, 3
    made.refresh()
    made.release("a")
    made.refresh(force=True)
    assert loader.asked == {"a": 1, "b": 1}
    assert made.pin("one", "k") is not None


class SlowEngine:
    """An engine that takes its time to put an adapter on or off; its shelf is in a hurry."""

    def __init__(self, base: BaseModel, loop: EngineLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        host = loop.engine.host
        self.loop, self.host, self._base = loop, host, base
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        attach, remove = host.attach, host.remove

        def late_attach(name: str, adapter: Adapter) -> Adapter:
            self.hold()
            return attach(name, adapter)

        def late_remove(name: str) -> None:
            self.hold()
            remove(name)

        monkeypatch.setattr(host, "attach", late_attach)
        monkeypatch.setattr(host, "remove", late_remove)
        monkeypatch.setattr(shelf_module, "ATTACH_S", 0.05)
        self.catalog = FakeCatalog(one={"champion": "a"})
        self.shelf = Shelf(
            self.catalog, base, loop, canary_share=0.5, load=self.load, clock=lambda: NOW[0]
        )

    def hold(self) -> None:
        self.begun.set()
        assert self.go_on.wait(30)

    def load(self, entry: Entry, base: BaseModel) -> Loaded:
        config = make_config("lora", rank=2)
        adapter = adapter_class("lora").build(
            config,
            base.sites(config.targets),
            base.hidden_size,
            generator=torch.Generator().manual_seed(0),
            experts={},
        )
        return Loaded(manifest=_Named(entry.id), created_s=0.0, adapters={entry.id: adapter})  # type: ignore[arg-type]


@pytest.fixture
def slow(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowEngine]:
    NOW[0] = 0.0
    with EngineLoop(Engine(AdapterHost(base), Limits(rows=1))) as loop:
        made = SlowEngine(base, loop, monkeypatch)
        yield made
        made.go_on.set()


def test_what_has_begun_is_waited_for(slow: SlowEngine) -> None:
    """Reported as failed, its adapters would land all the same, and every retry find them."""
    slow.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(slow.shelf.refresh)
        assert slow.begun.wait(30)
        time.sleep(5 * shelf_module.ATTACH_S)
        slow.go_on.set()
        assert told.result(30)
    assert (slow.shelf.view.models.keys(), slow.shelf.view.skipped) == ({"a"}, {})
    assert list(slow.host.adapters) == ["a"]


def test_what_the_engine_did_not_come_to_is_not_done_later(slow: SlowEngine) -> None:
    slow.go_on.clear()
    slow.loop.call(slow.hold)  # busy with something else
    assert slow.begun.wait(30)
    assert slow.shelf.refresh()
    assert "did not come to it" in slow.shelf.view.skipped["a"]
    slow.go_on.set()
    slow.loop.call(lambda: None).result(30)
    assert list(slow.host.adapters) == []
    NOW[0] += RETRY_S
    assert slow.shelf.refresh()
    assert list(slow.host.adapters) == ["a"]


def test_a_model_that_could_not_leave_is_not_forgotten(slow: SlowEngine) -> None:
    assert slow.shelf.refresh()
    slow.begun.clear()
    slow.go_on.clear()
    slow.loop.call(slow.hold)
    assert slow.begun.wait(30)
    slow.catalog.lines, slow.catalog.number = {}, 2
    assert slow.shelf.refresh()
    assert slow.shelf.view.models == {}
    slow.go_on.set()
    slow.shelf.refresh()
    assert list(slow.host.adapters) == []
