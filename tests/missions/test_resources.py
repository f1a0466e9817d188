from __future__ import annotations

import pytest
from pydantic import ValidationError

from missions.resources import ResourcesConfig


@pytest.mark.parametrize(
    ("written", "read"), [(0, 0), (1, 1), (8, 8), (0.25, 0.25), ("1/3", 1 / 3), (0.3333, 1 / 3)]
)
def test_whole_gpus_and_shares(written: object, read: float) -> None:
    assert ResourcesConfig.model_validate({"gpus": written}).gpus == read


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("gpus", 0.3, r"0.3 GPU is not 1/k of one .* nearest: 1/3"),
        ("gpus", 0.75, "nearest: 1/1"),
        ("gpus", 1.5, "more than one must be whole; nearest: 1 or 2"),
        ("gpus", "2/3", "valid number"),
        ("custom", {"GPU": 1}, "use cpus, gpus or memory_mib"),
        ("custom", {"licence": 0}, "expected a number > 0"),
        ("custom", {"a b": 1}, "expected a letter"),
        ("labels", {"market": "!!spot"}, r"allowed: value, !value, in\(value, value\)"),
        ("labels", {"-market": "spot"}, "prefix/name"),
        ("strategy", "ddp", "needs workers >= 2, got 1"),
        ("strategy", "pipeline", "'packed', 'ddp' or 'fsdp'"),
    ],
)
def test_what_is_refused_says_what_is_allowed(field: str, value: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ResourcesConfig.model_validate({field: value})
