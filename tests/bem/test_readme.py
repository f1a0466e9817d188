"""The first block of bem/README.md runs as it stands, on a tiny base and for two steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import bem


def test_the_readme_runs(llama_folder: Path) -> None:
    lines = (Path(bem.__file__).parent / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    import torch"))
    block = itertools.takewhile(lambda line: not line or line.startswith("    "), lines[start:])
    code = "\n".join(line[4:] for line in block)
    for old, new in (("path/to/folder", str(llama_folder)), ("steps=250", "steps=2")):
        assert old in code
        code = code.replace(old, new)
    names: dict[str, object] = {}
    exec(compile(code, "bem/README.md", "exec"), names)
    assert names["hits"] == [False]
    assert isinstance(names["texts"], list)
