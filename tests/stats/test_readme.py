from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import stats


def test_the_example_of_the_readme_runs():
    text = (Path(stats.__file__).parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 1
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(blocks[0], "README.md", "exec"), {})
    assert printed.getvalue().startswith("PASS")
