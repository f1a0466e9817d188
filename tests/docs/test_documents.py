"""README and docs tell the truth: links resolve, commands exist, examples run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "bem/**/*.md", "stats/**/*.md", "missions/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
_COMMAND = re.compile(r"python fleet\.py ([a-z][a-z-]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    broken = [
        target
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_command_that_a_page_names_exists() -> None:
    from fleet.cli import app

    named = {
        command for page in PAGES for command in _COMMAND.findall(page.read_text(encoding="utf-8"))
    }
    help_text = CliRunner().invoke(app, ["--help"]).output
    assert named, "no page names a command"
    assert {command for command in named if command not in help_text} == set()


def test_make_words_of_the_readme_exist() -> None:
    words = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"launch", "test"} <= words
    assert words <= targets


def example(name: str) -> ModuleType:
    """A file of examples/ as a module."""
    module_spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def test_the_comparison_finds_what_was_put_in(capsys: pytest.CaptureFixture[str]) -> None:
    module = example("compare_two_methods")
    found = module.main()
    interval = found["better"].interval
    assert interval.low <= module.DIFFERENCE <= interval.high
    assert (found["better"].decision, found["safe"].decision) == ("PASS", "PASS")
    assert found["one seed"].decision == "INCONCLUSIVE"
    printed = capsys.readouterr().out
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    shown = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert shown, "the page shows no output"
    assert all(line in printed for block in shown for line in block.splitlines())


def test_python_blocks_of_the_statistics_page_run() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/statistics.md", "exec"), names)


def test_the_example_trains_both_adapters_at_equal_size() -> None:
    module = example("adapt_the_bundled_base")
    scores = module.main(steps=2)
    assert set(scores) == {"lora", "bem"}
    assert all(0.0 <= score <= 1.0 for score in scores.values())


def test_the_example_with_hints_trains_saves_and_reloads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = example("adapt_with_hints")
    found = module.main(steps=2)
    assert set(found) == {"keep", "turn", "lost_one_hint", "lost_both_hints"}
    assert all(value >= 0.0 for value in found.values())
    assert "Unknown hint 'sort'. Known: keep, turn." in capsys.readouterr().out
