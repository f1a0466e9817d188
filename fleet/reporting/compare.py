"""Two campaigns side by side: what was the same, and how far each gate's estimate moved. Pure.

Reads plain facts of two ledgers; knows neither terminal nor page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fleet.ledger.reader import LedgerReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One campaign, as much of it as a comparison needs."""

    run_id: str
    profile: str
    commit: str
    code_version: str
    wall_s: float | None
    missions: Mapping[str, MissionSide]


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionSide:
    """One mission of a campaign."""

    mission: str
    title: str
    spec_hash: str
    data_digest: str
    wall_s: float | None
    verdict: Mapping[str, Any] | None
    """As plain data; None before it is judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateChange:
    """One gate in both campaigns; None where one of them lacks it."""

    gate: str
    metric: str
    scale: str
    primary: bool
    decisions: tuple[str | None, str | None]
    estimates: tuple[float | None, float | None]
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None]
    change: float | None
    """Second minus first."""
    apart: bool
    """The intervals do not overlap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MissionChange:
    """One mission in both campaigns."""

    mission: str
    title: str
    verdicts: tuple[str | None, str | None]
    same_file: bool
    same_data: bool
    same_scores: bool
    """Every per-example score is equal to the bit."""
    wall_s: tuple[float | None, float | None]
    gates: tuple[GateChange, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything."""

    runs: tuple[str, str]
    profiles: tuple[str, str]
    commits: tuple[str, str]
    same_code: bool
    wall_s: tuple[float | None, float | None]
    missions: tuple[MissionChange, ...]

    @property
    def text(self) -> str:
        """The outcome in a sentence."""
        both = [m for m in self.missions if None not in m.verdicts]
        moved = [m for m in both if m.verdicts[0] != m.verdicts[1]]
        equal = sum(m.same_scores for m in both)
        parts = [f"{len(both)} missions with a verdict in both"]
        if both:
            parts.append(f"{len(moved)} verdicts differ" if moved else "the same verdicts")
            parts.append(f"scores of {equal} equal to the bit")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "text": self.text}


def side_of(reader: LedgerReader) -> Side:
    """What a ledger says of its campaign."""
    meta = reader.meta()
    verdicts = {body["mission"]: body for _, body in reader.bodies("verdict")}
    missions = {}
    for row in reader.missions():
        wall_s = None
        if row.started_at is not None and row.ended_at is not None:
            wall_s = row.ended_at - row.started_at
        missions[row.mission] = MissionSide(
            mission=row.mission,
            title=row.title,
            spec_hash=row.spec_hash,
            data_digest=row.data_digest or "",
            wall_s=wall_s,
            verdict=verdicts.get(row.mission),
        )
    return Side(
        run_id=reader.path.parent.name,
        profile=str(meta.get("profile", "")),
        commit=str(meta.get("commit", "")),
        code_version=str(meta.get("code_version", "")),
        wall_s=meta.get("wall_s"),
        missions=missions,
    )


def compare(first: Side, second: Side) -> Comparison:
    """The two sides, mission by mission and gate by gate."""
    names = sorted({*first.missions, *second.missions})
    return Comparison(
        runs=(first.run_id, second.run_id),
        profiles=(first.profile, second.profile),
        commits=(first.commit, second.commit),
        same_code=first.code_version == second.code_version != "",
        wall_s=(first.wall_s, second.wall_s),
        missions=tuple(_mission(first.missions.get(n), second.missions.get(n)) for n in names),
    )


def _mission(a: MissionSide | None, b: MissionSide | None) -> MissionChange:
    some = a or b
    assert some is not None, "a name comes from one of the sides"
    va, vb = (None if side is None else side.verdict for side in (a, b))
    return MissionChange(
        mission=some.mission,
        title=some.title,
        verdicts=(_word(va, "verdict"), _word(vb, "verdict")),
        same_file=a is not None and b is not None and a.spec_hash == b.spec_hash,
        same_data=a is not None and b is not None and a.data_digest == b.data_digest != "",
        same_scores=bool(va and vb and va["scores_digest"] == vb["scores_digest"]),
        wall_s=(None if a is None else a.wall_s, None if b is None else b.wall_s),
        gates=tuple(_gates(va, vb)),
    )


def _gates(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> list[GateChange]:
    sides = [{g["gate"]: g for g in (v or {}).get("gates", ())} for v in (a, b)]
    found = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        one, two = (side.get(name) for side in sides)
        some = one or two
        assert some is not None, "a gate comes from one of the sides"
        spans = tuple(_interval(gate) for gate in (one, two))
        before, after = (None if gate is None else gate["estimate"] for gate in (one, two))
        found.append(
            GateChange(
                gate=name,
                metric=str(some["metric"]),
                scale=str(some["scale"]),
                primary=bool(some["primary"]),
                decisions=(_word(one, "decision"), _word(two, "decision")),
                estimates=(before, after),
                intervals=(spans[0], spans[1]),
                change=None if before is None or after is None else after - before,
                apart=_apart(spans[0], spans[1]),
            )
        )
    return found


def _word(found: Mapping[str, Any] | None, name: str) -> str | None:
    return None if found is None else str(found[name])


def _interval(gate: Mapping[str, Any] | None) -> tuple[float, float] | None:
    span = None if gate is None else gate["interval"]
    return None if not span else (float(span["low"]), float(span["high"]))


def _apart(a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    return a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])
