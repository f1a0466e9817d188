"""Every adapter on every family in every use: each cell works, or says clearly that it cannot.

`bem.testing.support` says which, `adapter_uses` what each use is; the page docs/adapters.md is
written from the same. One small
config a kind and way of reading its context; `test_adapters` goes deeper, over all examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from adapter_cells import add
from adapter_uses import RUN, VARIANTS, check_cell

from bem import AdapterHost, BaseModel, adapter_kinds, load_base
from bem.nf4 import quantise_base
from bem.testing import write_tiny_base
from bem.testing.support import FAMILIES, PAGE, USES, with_table


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sizes are multiples of 64, as NF4 on a CPU asks."""
    root = tmp_path_factory.mktemp("bases")
    return {
        family: write_tiny_base(root / family, family, hidden_size=64, mlp_size=64)
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, BaseModel]:
    return {family: load_base(folder) for family, folder in folders.items()}


@pytest.fixture(scope="module")
def nf4_bases(folders: dict[str, Path]) -> dict[str, BaseModel]:
    return {family: quantise_base(load_base(folder)) for family, folder in folders.items()}


PAIRS = [(label, family) for label in VARIANTS for family in FAMILIES]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "-".join(pair))
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    made: tuple[str, str] = request.param
    return made


@pytest.fixture(scope="module")
def host(pair: tuple[str, str], bases: dict[str, BaseModel]) -> Iterator[AdapterHost]:
    """One host for all uses of a pair; each leaves it as it was."""
    label, family = pair
    with AdapterHost(bases[family]) as made:
        add(made, VARIANTS[label])
        yield made


@pytest.mark.parametrize("use", USES)
def test_cell(
    pair: tuple[str, str],
    host: AdapterHost,
    nf4_bases: dict[str, BaseModel],
    use: str,
    tmp_path: Path,
) -> None:
    label, family = pair
    check_cell(host, nf4_bases[family], label, family, use, tmp_path)


def test_every_use_of_the_page_is_run_and_the_page_is_in_step() -> None:
    assert tuple(RUN) == USES
    assert {config.kind for config in VARIANTS.values()} == set(adapter_kinds())
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run: python -m bem.testing.support"
