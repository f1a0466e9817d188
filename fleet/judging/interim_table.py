"""The INTERIM figures that a launch showed, as a table for its report: peeking is on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stats.report import Extra


def interim_table(views: Sequence[Mapping[str, Any]]) -> Extra | None:
    """One row a required gate and view; None where nothing was shown."""
    rows: list[tuple[str | float | int, ...]] = []
    for view in views:
        for gate in view["gates"]:
            if not gate["required"] or gate["estimate"] is None:
                continue
            factor = 100.0 if gate["scale"] == "fraction" else 1.0
            limits = ""
            if gate["low"] is not None:
                limits = f"[{factor * gate['low']:+.3g}, {factor * gate['high']:+.3g}]"
            chance = gate["conditional_power"]
            rows.append(
                (
                    f"{len(view['seeds'])} of {view['planned']}",
                    gate["gate"],
                    f"{factor * gate['estimate']:+.3g}" + (" pp" if factor > 1 else ""),
                    limits,
                    "" if chance is None else f"{100 * chance:.0f} %",
                )
            )
    if not rows:
        return None
    return Extra(
        title="INTERIM figures shown while the launch ran",
        caption="Required gates after the first seeds, as status and watch showed them: never a "
        "verdict, intervals not adjusted for looking. The last column is an optimistic chance of "
        "passing at the planned seeds: conditional power under the better of the gate's stated "
        "alternative and the estimate so far, or one standard error above the estimate where it "
        "states none.",
        columns=("seeds", "gate", "estimate", "95 % interval", "passes at best"),
        rows=rows,
    )
