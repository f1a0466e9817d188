"""Measure the bundled base model on unseen items and, if asked, write its manifest.

    python -m missions.base_model.evaluate                    # table of the bundled base
    python -m missions.base_model.evaluate --folder runs/base --install

1,000 test items a skill: no name and no operand pair of theirs was trained on (closed-book facts
are training content by purpose). `--install` copies a trained folder into the bundle.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

from bem.base import load_base
from missions.base_model.bundle import (
    WEIGHTS,
    BaseSkills,
    SkillFigure,
    bundled_path,
    digests,
    write_manifest,
)
from missions.base_model.skills import SkillResult, measure_skills

BUNDLE_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def table(results: list[SkillResult]) -> str:
    """The figures as a Markdown table."""
    lines = ["| skill | exact match | 95 % interval | n |", "|---|---|---|---|"]
    lines += [
        f"| {r.skill} | {r.exact_match:.3f} | {r.low:.3f}-{r.high:.3f} | {r.num_items} |"
        for r in results
    ]
    return "\n".join(lines)


def install(folder: Path, results: list[SkillResult], num_parameters: int) -> None:
    """Copy a trained folder into the bundle and write the manifest of what was measured."""
    WEIGHTS.mkdir(exist_ok=True)
    for old in WEIGHTS.iterdir():
        old.unlink()
    for name in BUNDLE_FILES:
        shutil.copyfile(folder / name, WEIGHTS / name)
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    write_manifest(
        BaseSkills(
            name="bem-fleet-tiny-llama",
            files=digests(),
            num_parameters=num_parameters,
            recipe=recipe,
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "tokenizers": tokenizers.__version__,
                "numpy": np.__version__,
            },
            split="test",
            skills={
                r.skill: SkillFigure(
                    exact_match=r.exact_match, low=r.low, high=r.high, num_items=r.num_items
                )
                for r in results
            },
        )
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=bundled_path())
    parser.add_argument("--num-items", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20_260_101)
    parser.add_argument("--install", action="store_true", help="copy the folder into the bundle")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    base = load_base(args.folder)
    results = measure_skills(
        base.model,
        base.tokenizer,
        np.random.default_rng(args.seed),
        split="test",
        num_items=args.num_items,
    )
    sys.stdout.write(f"{table(results)}\n\n{time.process_time() - started:.1f} CPU s\n")
    if args.install:
        install(args.folder, results, sum(p.numel() for p in base.model.parameters()))


if __name__ == "__main__":
    main()
