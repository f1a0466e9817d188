"""Whether a tree is clean is said by git alone: where it does not answer, the tree is not clean."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fleet import provenance


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_a_tree_that_git_cannot_judge_in_time_counts_as_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() == ("", True)
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    revision, dirty = provenance.commit()
    assert (len(revision), dirty) == (40, False)
    run = subprocess.run

    def slow(command: list[str], **more: object) -> object:
        if "status" in command:
            raise subprocess.TimeoutExpired(command, 20)
        return run(command, **more)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", slow)
        assert provenance.commit() == (revision, True)
    (tmp_path / "a").write_text("2")
    assert provenance.commit() == (revision, True)
