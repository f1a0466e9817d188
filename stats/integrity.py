"""Which items were scored, as a digest: arms that were scored on different items are not paired.

A manifest is the set of (example, cluster) of one metric, arm and seed. It knows no values, so it
is the same for every arm and seed of an honest comparison, and tells two test splits apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import pandas as pd

from stats.errors import MissingCellsError
from stats.scores import ScoreTable

_KEYS = ["example_id", "cluster_id"]


def manifest_digest(scores: ScoreTable) -> str:
    """sha256 of all items that were scored, whatever metrics, arms, seeds, values and row order."""
    return _digest(scores.frame)


def manifests(scores: ScoreTable, metric: str) -> dict[tuple[str, int], str]:
    """(arm, seed) -> digest of the items that this metric was scored on."""
    frame = scores.select(metric=metric).frame
    found: dict[tuple[str, int], str] = {}
    for arm in sorted(frame["arm"].unique()):
        rows = frame[frame["arm"] == arm]
        for seed in sorted(int(seed) for seed in rows["seed"].unique()):
            found[arm, seed] = _digest(rows[rows["seed"] == seed])
    return found


def require_equal_manifests(scores: ScoreTable, metric: str, arms: Sequence[str]) -> str:
    """The one manifest that all these arms and their seeds share.

    Raises:
        MissingCellsError: names the arms and seeds that stand apart.
    """
    found = {key: digest for key, digest in manifests(scores, metric).items() if key[0] in arms}
    groups: dict[str, list[str]] = {}
    for (arm, seed), digest in found.items():
        groups.setdefault(digest, []).append(f"{arm}/seed {seed}")
    if len(groups) != 1:
        shown = "; ".join(
            f"{digest[:12]}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for digest, names in sorted(groups.items(), key=lambda item: -len(item[1]))
        )
        raise MissingCellsError(
            f"Metric {metric!r}: arms were scored on different items ({len(groups)} manifests: "
            f"{shown or 'none'}). Cells are never dropped to make them match."
        )
    return next(iter(groups))


def _digest(frame: pd.DataFrame) -> str:
    keys = frame[_KEYS].drop_duplicates().sort_values(_KEYS)
    text = json.dumps(keys.to_numpy(dtype=object).tolist(), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
