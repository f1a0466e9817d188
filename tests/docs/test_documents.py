"""README and docs tell the truth: links resolve, commands exist, examples run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import urllib.request
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


def test_the_example_on_a_jsonl_of_your_own_serves(tmp_path: Path) -> None:
    """At most 40 lines; two steps on a tiny base; the answer of the server is `generate`'s."""
    from bem.testing import write_tiny_base

    assert len((ROOT / "examples" / "serve_your_jsonl.py").read_text().splitlines()) <= 40
    module = example("serve_your_jsonl")
    data = tmp_path / "data.jsonl"
    data.write_text(
        '{"prompt": "hi", "target": "Good day."}\n{"prompt": "yo", "target": "Hello."}\n'
    )
    base = write_tiny_base(tmp_path / "base")
    model = module.adapt(data, tmp_path / "saved", base=str(base), steps=2)
    server = module.server(model, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with urllib.request.urlopen(url, data=b"hi", timeout=60) as answer:
            assert answer.read().decode() == model.generate("hi")
    finally:
        server.shutdown()
        server.server_close()


def test_a_new_adapter_in_a_folder_of_its_own() -> None:
    """The example, and contract tests on its adapter; a process each, since kinds stay known."""
    run_example = "import add_an_adapter as example; example.main(steps=2)"
    contract = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k"]
    contract.append("rescale and (zero or naive or save_and or gradients_reach or full_forward)")
    for arguments, said in (
        (["-c", run_example], "4,224 parameters"),
        ([*contract, "tests/contracts/test_adapters.py"], "passed"),
    ):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}",
                "BEM_ADAPTER_FOLDERS": str(ROOT / "examples" / "adapters" / "rescale"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
