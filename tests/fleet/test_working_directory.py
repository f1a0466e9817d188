from __future__ import annotations

from pathlib import Path

import pytest

from fleet.driver.working_directory import check_size
from fleet.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def sparse(path: Path, mib: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(mib << 20)


def test_what_is_left_out_does_not_count(tmp_path: Path) -> None:
    sparse(tmp_path / "runs" / "a" / "x", 900)
    sparse(tmp_path / "bem" / "__pycache__" / "x", 900)
    sparse(tmp_path / "ledger.sqlite", 900)
    sparse(tmp_path / "bem" / "a.py", 1)
    assert check_size(tmp_path) == 1 << 20


def test_too_much_names_the_largest(tmp_path: Path) -> None:
    sparse(tmp_path / "data" / "deep" / "x", 300)
    sparse(tmp_path / "model.bin", 5)
    with pytest.raises(UsageError, match=r"305 MiB, at most 200\. Largest: data \(300 MiB\)"):
        check_size(tmp_path)


def test_this_repository_is_small_enough() -> None:
    assert check_size(ROOT) < 60 << 20
