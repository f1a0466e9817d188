"""On a Ray that others use: their applications are neither replaced nor ended; without Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from fleet.errors import UsageError
from fleet.serving import deployment
from fleet.serving.deployment import end, refuse_conflicts


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

    from fleet.serving.settings import ServingSettings
    from fleet.serving.tokens import Secrets

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
