"""Steps of a learner as transactions of the registry: one decision each, with its figures.

Opens the registry for one step and gives its writer's lock back. Knows no thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bem.online import CanaryReport
from fleet.registry.folders import measure, staged
from fleet.registry.records import (
    MODEL,
    ONLINE_CANARY,
    Alias,
    GateFigure,
    Manifest,
    line_of,
    model_digest,
    model_id,
)
from fleet.registry.writer import Registry
from fleet.serving.living.source import Place

ACTOR = "online learner"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A canary run and what led to it."""

    report: CanaryReport
    start_score: float
    feedback: int
    """Learned from since the last canary run."""
    wrong: int
    """Of these, answered wrongly by the shadow before it learned from them."""
    drift_points: tuple[int, ...]
    """Number of the feedback (over all ancestors) at which the error level changed."""
    quarantined: int = 0

    def facts(self, **more: Any) -> dict[str, Any]:
        """For the decision; `reason` is the same in words."""
        said = (
            f"canary {self.report.score:.3f} of {self.start_score:.3f} at the start, KL "
            f"{self.report.kl:.4f}; {self.feedback} feedback, {self.wrong} answered wrongly"
        )
        if self.quarantined:
            said += f", {self.quarantined} quarantined"
        if self.drift_points:
            said += f", drift at {', '.join(map(str, self.drift_points))}"
        return {
            "score": self.report.score,
            "kl": self.report.kl,
            "start_score": self.start_score,
            "feedback": self.feedback,
            "wrong": self.wrong,
            "quarantined": self.quarantined,
            "drift_points": list(self.drift_points),
            "reason": said,
            **more,
        }


def publish_step(
    registry_dir: Path, parent: Manifest, place: Place, save: Callable[[Path], None], step: Step
) -> tuple[Manifest, Alias | None]:
    """Registers the state that passed as a new immutable model; moves the line's aliases.

    Raises:
        AliasMovedError: somebody moved them; nothing was changed.
        StorageError: the registry cannot be written now.
    """
    with Registry(registry_dir) as registry, staged(registry.paths) as folder:
        save(folder / MODEL)
        files = measure(folder)
        digest = model_digest(
            line_of(parent.base_model, parent.mission),
            parent.arm,
            parent.kind,
            parent.base_model,
            parent.serving,
            files,
        )
        facts = step.facts()
        manifest = parent.model_copy(
            update={
                "id": model_id(parent.base_model, parent.mission, parent.arm, digest),
                "files": files,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "lineage": parent.lineage.model_copy(
                    update={
                        "verdict": ONLINE_CANARY,
                        "reasons": (facts["reason"],),
                        "figures": _figures(step),
                        "parents": (parent.id,),
                    }
                ),
            }
        )
        _, alias = registry.register_online(
            folder,
            manifest,
            champion=place.champion,
            own_canary=place.own_canary,
            facts=facts,
            actor=ACTOR,
        )
        return manifest, alias


def record_rollback(registry_dir: Path, model: str, line: str, place: Place, step: Step) -> bool:
    """The shadow went back; its canary, where it has one, leaves the traffic."""
    with Registry(registry_dir) as registry:
        return registry.rollback_online(
            line, place.own_canary, facts=step.facts(model=model), actor=ACTOR
        )


def record_hold(registry_dir: Path, model: str, line: str, step: Step) -> None:
    """The shadow learns on; nothing was promoted."""
    with Registry(registry_dir) as registry:
        registry.note_online("online_hold", facts=step.facts(model=model, line=line), actor=ACTOR)


def record_start(
    registry_dir: Path, model: str, line: str, *, start_score: float, reason: str
) -> None:
    """A learner begins from a registered model."""
    facts = {"model": model, "line": line, "start_score": start_score, "reason": reason}
    with Registry(registry_dir) as registry:
        registry.note_online("online_start", facts=facts, actor=ACTOR)


def _figures(step: Step) -> tuple[GateFigure, ...]:
    values = {
        "exact match on the canary suite": step.report.score,
        "exact match of the start": step.start_score,
        "KL from the last good state": step.report.kl,
    }
    return tuple(
        GateFigure(
            gate=ONLINE_CANARY,
            metric=name,
            decision="PASS",
            estimate=value,
            low=None,
            high=None,
            p_value=None,
        )
        for name, value in values.items()
    )
