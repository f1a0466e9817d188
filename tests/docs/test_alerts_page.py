"""docs/alerts.md names every rule with its severity, every metric and every threshold."""

from __future__ import annotations

import re
from pathlib import Path

from fleet.alerts import RULES, AlertConfig
from fleet.metrics import METRICS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "alerts.md").read_text()


def test_rules() -> None:
    rows = re.findall(r"^\| (\w+) \| (critical|warning|info) \|", PAGE, re.MULTILINE)
    assert rows == [(rule.id, rule.severity) for rule in RULES]


def test_metrics_and_thresholds() -> None:
    assert set(re.findall(r"`(fleet_\w+)`", PAGE)) == {metric.name for metric in METRICS}
    assert {name for name in AlertConfig.model_fields if f"`{name}`" not in PAGE} == set()
