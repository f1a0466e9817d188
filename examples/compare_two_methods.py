"""Compares two methods from a long table of scores, without the fleet, in about a second.

Five trainings of each method answer the same 600 questions from 150 documents. The scores are
drawn here, with a true difference of 4 percentage points, so that the answer can be checked; a
table of your own needs the same columns. Run: `python examples/compare_two_methods.py`.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

import stats

SEEDS, DOCUMENTS, QUESTIONS = 5, 150, 4
DIFFERENCE = 0.04


def scores(rng: np.random.Generator) -> pd.DataFrame:
    """One row an answer: model, run, question, document, right (0 or 1)."""
    ease_N = np.repeat(rng.normal(0.0, 0.15, size=DOCUMENTS), QUESTIONS)
    rows = []
    for model, level in (("new", 0.60 + DIFFERENCE), ("old", 0.60)):
        for run in range(SEEDS):
            chance_N = np.clip(level + rng.normal(0.0, 0.01) + ease_N, 0.0, 1.0)
            right_N = rng.random(DOCUMENTS * QUESTIONS) < chance_N
            rows += [
                {
                    "model": model,
                    "run": run,
                    "question": f"d{at // QUESTIONS:03d}-q{at % QUESTIONS}",
                    "document": f"d{at // QUESTIONS:03d}",
                    "right": bool(right),
                }
                for at, right in enumerate(right_N)
            ]
    return pd.DataFrame(rows)


def main() -> dict[str, stats.Comparison]:
    """Two questions to one table: is it better, and is it at least not much worse?"""
    frame = scores(np.random.default_rng(0))
    columns = {
        "arm": "model",
        "seed": "run",
        "example_id": "question",
        "cluster_id": "document",
        "value": "right",
    }
    better = stats.compare(frame, "new", "old", columns=columns, min_point=0.015)
    sys.stdout.write(f"{better}\n\n")
    safe = stats.compare(frame, "new", "old", columns=columns, kind="non_inferiority", margin=0.01)
    sys.stdout.write(f"{safe}\n\n")
    first = frame[frame["run"] == 0]
    one = stats.compare(first, "new", "old", columns=columns)
    sys.stdout.write(f"{one}\n")
    return {"better": better, "safe": safe, "one seed": one}


if __name__ == "__main__":
    main()
