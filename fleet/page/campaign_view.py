"""One campaign: its missions with state, progress and time left, primary gates, alerts, facts.

Plain data out; it draws nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fleet.ledger.reader import LedgerReader
from fleet.monitor.snapshot import MissionView, take
from fleet.page import figures
from fleet.page.fleet_view import Alert, in_order, left_of, state_of, total_counts, trouble
from fleet.settings import RunPaths


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionLine:
    """One mission in the list."""

    view: MissionView
    counts: Mapping[str, int]
    forest: figures.ForestRow | None
    """Of its primary gate: the verdict's, or the newest INTERIM figures."""
    interim: bool
    promoted: str
    """Id of the registered model, or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CampaignView:
    """Everything on a campaign's page."""

    run_id: str
    profile: str
    state: str
    trouble: str
    done: int
    total: int
    failed: int
    counts: Mapping[str, int]
    elapsed_s: float
    left_s: float | None
    workers: int
    silent_s: float | None
    missions: tuple[MissionLine, ...]
    alerts: tuple[Alert, ...]
    facts: Mapping[str, Any]
    versions: Mapping[str, str]
    dashboard: str
    has_report: bool


def campaign_view(paths: RunPaths) -> CampaignView:
    """Looks at the ledger once."""
    with LedgerReader(paths.ledger) as reader:
        snapshot = take(reader, now=time.time())
        meta = reader.meta()
        counts = reader.counts()
        verdicts: dict[str, Mapping[str, Any]] = {}
        promoted: dict[str, str] = {}
        for kind, decided in reader.bodies("verdict", "promotion"):
            if kind == "verdict":
                verdicts[decided["mission"]] = decided
            else:
                promoted[decided["mission"]] = str(decided["model"])
        all_counts = total_counts(reader)
        workers = len(reader.seen())
    lines = []
    for mission in in_order(snapshot):
        body: Mapping[str, Any] | None = verdicts.get(mission.mission, mission.interim)
        primary = next((g for g in body["gates"] if g["primary"]), None) if body else None
        states = counts.get(mission.mission, {})
        lines.append(
            MissionLine(
                view=mission,
                counts={state.value: count for state, count in states.items()},
                forest=figures.forest([primary])[0] if primary else None,
                interim=mission.mission not in verdicts and primary is not None,
                promoted=promoted.get(mission.mission, ""),
            )
        )
    hardware = dict(meta.get("hardware") or {})
    return CampaignView(
        run_id=paths.run_id,
        profile=snapshot.profile,
        state=state_of(snapshot),
        trouble=snapshot.trouble,
        done=sum(mission.done for mission in snapshot.missions),
        total=sum(mission.total for mission in snapshot.missions),
        failed=sum(mission.failed for mission in snapshot.missions),
        counts=all_counts,
        elapsed_s=snapshot.elapsed_s,
        left_s=left_of(snapshot),
        workers=workers if snapshot.alive else 0,
        silent_s=snapshot.silent_s if snapshot.alive else None,
        missions=tuple(lines),
        alerts=tuple(trouble(paths)),
        facts={
            "command": meta.get("command"),
            "created": str(meta.get("created", "")).replace("T", " "),
            "commit": f"{meta.get('commit', '')}{' (dirty)' if meta.get('dirty') else ''}",
            "worker slots": meta.get("slots"),
            **hardware,
        },
        versions={str(k): str(v) for k, v in dict(meta.get("versions") or {}).items()},
        dashboard=str((meta.get("session") or {}).get("dashboard") or ""),
        has_report=paths.report.is_file(),
    )
