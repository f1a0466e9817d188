"""Which alerts fire and which are over. Pure: findings and a clock in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fleet.alerts.config import AlertConfig
from fleet.alerts.observe import Observation
from fleet.alerts.rules import RULES, Rule, Severity

Standing = Literal["firing", "resolved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One rule about one subject."""

    rule: str
    subject: str
    severity: Severity
    title: str
    text: str
    advice: str
    standing: Standing
    since: float
    """When the rule began to hold, seconds since the epoch."""
    changed_at: float
    """When it came to its present standing."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "rule": self.rule,
            "subject": self.subject,
            "severity": self.severity,
            "title": self.title,
            "text": self.text,
            "advice": self.advice,
            "standing": self.standing,
            "since": self.since,
            "changed_at": self.changed_at,
        }


class Tracker:
    """Remembers alerts between two looks."""

    def __init__(self, config: AlertConfig, rules: Sequence[Rule] = RULES) -> None:
        self._config = config
        self._rules = tuple(rules)
        self._open: dict[tuple[str, str], Alert] = {}

    @property
    def firing(self) -> tuple[Alert, ...]:
        """What fires now, the gravest first."""
        order = {"critical": 0, "warning": 1, "info": 2}
        found = self._open.values()
        return tuple(sorted(found, key=lambda alert: (order[alert.severity], alert.since)))

    def look(self, seen: Observation) -> tuple[Alert, ...]:
        """Takes one observation in; returns the alerts that began to fire or were resolved."""
        changed: list[Alert] = []
        holds: set[tuple[str, str]] = set()
        for rule in self._rules:
            for finding in rule.find(seen, self._config):
                key = (rule.id, finding.subject)
                holds.add(key)
                if key in self._open:
                    self._open[key] = replace(self._open[key], text=finding.text)
                    continue
                self._open[key] = Alert(
                    rule=rule.id,
                    subject=finding.subject,
                    severity=rule.severity,
                    title=rule.title,
                    text=finding.text,
                    advice=rule.advice,
                    standing="firing",
                    since=seen.now,
                    changed_at=seen.now,
                )
                changed.append(self._open[key])
        for key in [key for key in self._open if key not in holds]:
            changed.append(replace(self._open.pop(key), standing="resolved", changed_at=seen.now))
        return tuple(changed)
