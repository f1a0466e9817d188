"""On a Ray that others use: their applications are neither replaced nor ended; without Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from fleet.errors import UsageError
from fleet.serving import deployment
from fleet.serving.deployment import end, refuse_conflicts
from fleet.serving.settings import ServingSettings
from fleet.serving.tokens import Secrets


@pytest.mark.parametrize(
    "running", [{"bem": "/x"}, {"theirs": "/"}, {"theirs": "/a", "bem": "/"}, {"bem": None}]
)
def test_what_is_served_there_is_not_replaced(running: dict[str, str | None]) -> None:
    with pytest.raises(UsageError, match="is served on this Ray"):
        refuse_conflicts(running)


def test_beside_others_there_is_room() -> None:
    refuse_conflicts({})
    refuse_conflicts({"theirs": "/theirs", "hidden": None})


@pytest.mark.parametrize(("shared", "expected"), [(True, ["delete bem"]), (False, ["shutdown"])])
def test_only_what_is_ours_ends(
    monkeypatch: pytest.MonkeyPatch, shared: bool, expected: list[str]
) -> None:
    said: list[str] = []
    fake = SimpleNamespace(
        delete=lambda name: said.append(f"delete {name}"), shutdown=lambda: said.append("shutdown")
    )
    monkeypatch.setattr(ray, "serve", fake, raising=False)
    end(shared=shared)
    assert said == expected


def test_haproxy_s_folder_is_not_foretold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name that others can guess could be theirs before it is ours."""
    import contextlib
    import os

    seen: list[Path] = []

    @contextlib.contextmanager
    def no_ray(launch: object):  # type: ignore[no-untyped-def]
        yield

    def prepare(folder: Path, environ: object, *, local: bool) -> tuple[str, ...]:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not list(folder.iterdir())
        seen.append(folder)
        return ()

    monkeypatch.setattr("fleet.driver.ray_session.ray_session", no_ray)
    monkeypatch.setattr(deployment, "prepare", prepare)
    monkeypatch.setattr(deployment, "deploy", lambda *_, **__: None)
    monkeypatch.setattr(deployment, "end", lambda **_: None)
    for _ in range(2):
        with deployment.serving_on_ray(ServingSettings(), Secrets()):
            pass
    assert len(set(seen)) == 2
    assert not any(str(os.getpid()) in folder.name for folder in seen)
    assert not any(folder.exists() for folder in seen)


class FakeServe:
    """As much of `ray.serve` as a deployment asks of it; its start fails."""

    def __init__(self, error: BaseException, *, delete: Exception | None = None) -> None:
        self.said: list[str] = []
        self._error = error
        self._delete = delete

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray, "serve", self, raising=False)
        config = SimpleNamespace(HTTPOptions=dict)
        monkeypatch.setitem(sys.modules, "ray.serve.config", config)  # type: ignore[arg-type]
        monkeypatch.setattr(deployment, "_quiet", lambda: None)
        monkeypatch.setattr(deployment, "_require_address", lambda _: None)

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(applications={})

    def start(self, **_: object) -> None:
        self.said.append("start")

    def ingress(self) -> Callable[[type], type]:
        return lambda cls: cls

    def deployment(self, **_: object) -> Callable[[type], SimpleNamespace]:
        return lambda _: SimpleNamespace(bind=lambda *_: "application")

    def run(self, application: object, *, name: str, route_prefix: str) -> None:
        self.said.append(f"run {name} {route_prefix}")
        raise self._error

    def delete(self, name: str) -> None:
        self.said.append(f"delete {name}")
        if self._delete is not None:
            raise self._delete

    def shutdown(self) -> None:
        self.said.append("shutdown")


@pytest.mark.parametrize("error", [RuntimeError("no replica starts"), KeyboardInterrupt()])
@pytest.mark.parametrize(("shared", "ends"), [(True, "delete bem"), (False, "shutdown")])
def test_a_failed_start_leaves_no_application(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, shared: bool, ends: str
) -> None:
    fake = FakeServe(error)
    fake.stand_in(monkeypatch)
    with pytest.raises(type(error)) as caught:
        deployment.deploy(ServingSettings(), Secrets(), shared=shared)
    assert caught.value is error
    assert fake.said == ["start", "run bem /", ends]


def test_why_a_start_failed_stays_the_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeServe(RuntimeError("no replica starts"), delete=TimeoutError("not deleted"))
    fake.stand_in(monkeypatch)
    with pytest.raises(RuntimeError, match="no replica starts"):
        deployment.deploy(ServingSettings(), Secrets(), shared=True)
    assert "may be left on this Ray: not deleted" in caplog.text


def test_a_refusal_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise UsageError("another address")

    fake = FakeServe(RuntimeError())
    fake.stand_in(monkeypatch)
    monkeypatch.setattr(deployment, "_require_address", refuse)
    with pytest.raises(UsageError, match="another address"):
        deployment.deploy(ServingSettings(), Secrets(), shared=True)
    assert fake.said == ["start"]


def test_haproxy_s_folder_goes_where_it_cannot_be_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def prepare(folder: Path, environ: object, *, local: bool) -> tuple[str, ...]:
        seen.append(folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deployment, "prepare", prepare)
    with (
        pytest.raises(OSError, match="No space"),
        deployment.serving_on_ray(ServingSettings(), Secrets()),
    ):
        pass
    assert [folder.exists() for folder in seen] == [False]
