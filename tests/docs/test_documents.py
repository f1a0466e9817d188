"""README and docs tell the truth: links resolve, commands exist, examples run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

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


def test_the_example_trains_both_adapters_at_equal_size() -> None:
    path = ROOT / "examples" / "adapt_the_bundled_base.py"
    module_spec = importlib.util.spec_from_file_location("adapt_the_bundled_base", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    scores = module.main(steps=2)
    assert set(scores) == {"lora", "bem"}
    assert all(0.0 <= score <= 1.0 for score in scores.values())
