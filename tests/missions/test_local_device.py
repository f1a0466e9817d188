"""`python -m missions.local --device cuda` says so where there is no such device."""

from __future__ import annotations

import pytest
import torch

from missions.local import main


def test_no_cuda_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["E", "--profile", "smoke", "--device", "cuda"]) == 4
    assert "torch sees no CUDA device here" in capsys.readouterr().err
