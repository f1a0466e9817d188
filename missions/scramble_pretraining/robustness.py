"""Descriptive robustness ratios of mission D: RRS, SCR and LKR from per-example scores.

RRS = clip[(acc_S - k) / (max(acc_0 own, acc_0 control) - k), 0, 1] with k the chance over the
candidates of a document; here one rung (bijective). LKR = closed-book accuracy over the control's.
Ratios of means are shown, never gated on.
"""

from __future__ import annotations

from stats.scores import ScoreTable

CONTROL = "lm_only"


def robustness_score(permuted: float, clean_own: float, clean_control: float, k: float) -> float:
    """RRS; 0 where clean accuracy does not exceed chance."""
    reference = max(clean_own, clean_control) - k
    if reference <= 0:
        return 0.0
    return min(1.0, max(0.0, (permuted - k) / reference))


def robustness_rows(
    scores: ScoreTable, arms: tuple[str, ...], chance: float
) -> tuple[tuple[str | float, ...], ...]:
    """One row an arm: RRS, SCR, LKR, clean, permuted and unseen-symbol accuracy."""
    means = scores.frame.groupby(["metric", "arm"])["value"].mean()

    def mean(metric: str, arm: str) -> float:
        return float(means[metric, arm])

    rows: list[tuple[str | float, ...]] = []
    for arm in arms:
        control_facts = mean("closed_book", CONTROL)
        rows.append(
            (
                arm,
                robustness_score(
                    mean("acc_permuted", arm),
                    mean("acc_clean", arm),
                    mean("acc_clean", CONTROL),
                    chance,
                ),
                mean("shortcut_permuted", arm),
                mean("closed_book", arm) / control_facts if control_facts > 0 else "no facts known",
                mean("acc_clean", arm),
                mean("acc_permuted", arm),
                mean("acc_heldout", arm),
            )
        )
    return tuple(rows)
