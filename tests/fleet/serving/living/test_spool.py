"""Feedback that waits is lost neither by a disk that refuses nor by a learner that fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bem.data import Encoded
from fleet.errors import StorageError
from fleet.serving.living.spool import Spool, told


def item(name: str) -> Encoded:
    return Encoded(prompt_ids=(5, 6), target_ids=(7, 2), id=name, cluster="feedback")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path, "tiny:B", base="d", most=9)
    (tmp_path / "online").mkdir()
    for name in "abc":
        made.put(item(name))
    return made


def names(spool: Spool) -> list[str]:
    return [one.id for one in spool.take(len(spool)).items]


def test_what_is_taken_waits_until_it_is_done(spool: Spool) -> None:
    batch = spool.take(2)
    assert batch == spool.take(2)  # as after a learner that died
    assert names(spool) == ["a", "b", "c"]
    spool.done(batch.names)
    spool.done(batch.names)
    assert names(spool) == ["c"]


def test_a_read_that_fails_midway_loses_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = Path.read_bytes, [None]

    def once(path: Path) -> bytes:
        if not left:
            raise OSError(5, "Input/output error")
        left.pop()
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", once)
        with pytest.raises(OSError, match="Input/output"):
            spool.take(2)
    assert names(spool) == ["a", "b", "c"]


def test_a_removal_that_fails_midway_can_be_asked_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, unlink = spool.take(3), Path.unlink

    def not_the_second(path: Path, missing_ok: bool = False) -> None:
        if path.name == batch.names[1]:
            raise OSError(30, "Read-only file system")
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", not_the_second)
        with pytest.raises(OSError, match="Read-only"):
            spool.done(batch.names)
    assert spool.done(batch.names) == 3
    assert len(spool) == 0


def test_what_learners_fail_at_twice_is_laid_aside(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    spool.failed(spool.take(2).names)
    assert names(spool) == ["a", "b", "c"]
    spool.failed(spool.take(2).names)
    assert names(spool) == ["c"]
    aside = list((spool.folder / "aside").iterdir())
    assert sorted(json.loads(path.read_bytes())["id"] for path in aside) == ["a", "b"]
    assert (spool.folder / "aside").stat().st_mode & 0o077 == 0
    assert "laid aside" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"line": "x"}', b'{"state": 1}']
)
def test_a_damaged_status_hides_no_other_line(
    spool: Spool, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    spool.tell({"state": "learning", "waiting": 3})
    other = Spool(tmp_path, "tiny:C", base="d", most=9)
    other.tell({"state": "learning"})
    (other.folder / "status.json").write_bytes(content)
    assert told(tmp_path) == {"tiny:B": {"state": "learning", "waiting": 3}}
    assert str(other.folder) in caplog.text


def test_a_status_is_on_disk_before_it_has_its_name(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.tell({"state": "learning"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space"):
            spool.tell({"state": "failed"})
        with pytest.raises(StorageError, match="No space"):
            spool.put(item("d"))
    assert told(spool.folder.parents[1])["tiny:B"]["state"] == "learning"
    assert names(spool) == ["a", "b", "c"]
    assert {path.name for path in spool.folder.iterdir()} == {"status.json", "waiting"}
