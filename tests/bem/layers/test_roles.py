from __future__ import annotations

from pathlib import Path

import pytest

from bem import load_base
from bem.errors import InvalidInputError
from bem.interfaces import Site
from bem.layers.roles import leaf, mlp_gates, mlp_outputs, residual_writers
from bem.testing import write_tiny_base


@pytest.mark.parametrize(
    ("family", "gate", "output", "writers"),
    [
        ("llama", "gate_proj", "down_proj", ["o_proj", "down_proj"]),
        ("qwen2", "gate_proj", "down_proj", ["o_proj", "down_proj"]),
        ("mistral", "gate_proj", "down_proj", ["o_proj", "down_proj"]),
        ("gpt2", "c_fc", "c_proj", ["c_proj", "c_proj"]),
    ],
)
def test_each_family_has_its_parts(
    tmp_path: Path, family: str, gate: str, output: str, writers: list[str]
) -> None:
    base = load_base(write_tiny_base(tmp_path, family))
    sites = base.sites("all-linear")
    assert [leaf(site) for site in mlp_gates(sites)] == [gate] * 2
    assert [leaf(site) for site in mlp_outputs(sites)] == [output] * 2
    assert all("mlp" in site.name for site in (*mlp_gates(sites), *mlp_outputs(sites)))
    assert [leaf(site) for site in residual_writers(sites)] == writers * 2
    assert all(site.out_features == base.hidden_size for site in residual_writers(sites))


def test_an_unknown_family_is_refused_not_guessed() -> None:
    odd = Site(name="layers.0.mlp.mystery", layer=0, in_features=4, out_features=4)
    for role in (mlp_gates, mlp_outputs, residual_writers):
        with pytest.raises(InvalidInputError, match=r"among the targets \(mystery\)"):
            role([odd])
