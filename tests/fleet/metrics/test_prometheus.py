"""The Prometheus form of every rule agrees with our own, judged by Prometheus' own tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.alerts import RULES, AlertConfig, Observation
from fleet.metrics import METRICS, values_of
from fleet.metrics.grafana import PANELS, dashboard
from fleet.metrics.prometheus import rules_file
from tests.fleet.alerts.cases import CALM, CASES

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)


def _expressions() -> list[str]:
    rules = yaml.safe_load(rules_file(AlertConfig()))["groups"][0]["rules"]
    return [rule["expr"] for rule in rules] + [panel.expr for panel in PANELS]


def test_expressions_name_exported_metrics_only() -> None:
    known = {f"ray_{metric.name}" for metric in METRICS}
    used = {name for text in _expressions() for name in re.findall(r"ray_\w+", text)}
    assert used <= known
    assert known - used == set(), "a metric that nobody looks at"


def test_no_metric_is_ever_nan() -> None:
    for seen in (CALM, *CASES.values()):
        for metric in METRICS:
            for labels, value in values_of(metric, seen):
                assert value == value, metric.name
                assert set(labels) == {"run_id", *metric.labels}


def test_dashboard_is_importable() -> None:
    document = json.loads(dashboard())
    assert document["__inputs"][0]["name"] == "DS_PROMETHEUS"
    places = [
        (p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"], p["gridPos"]["h"])
        for p in document["panels"]
    ]
    assert all(x + w <= 24 for x, _, w, _ in places)
    for at, (x, y, w, h) in enumerate(places):
        for other_x, other_y, other_w, other_h in places[at + 1 :]:
            apart = x + w <= other_x or other_x + other_w <= x
            assert apart or y + h <= other_y or other_y + other_h <= y, "panels lie on each other"


@promtool
def test_rules_and_panels_parse(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rules_file(AlertConfig()))
    recorded = [
        {"record": f"panel_{number}", "expr": re.sub(r"\$run", ".*", panel.expr)}
        for number, panel in enumerate(PANELS)
    ]
    panels = {"groups": [{"name": "panels", "rules": recorded}]}
    (tmp_path / "panels.yml").write_text(yaml.safe_dump(panels))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml"), str(tmp_path / "panels.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@promtool
def test_same_cases_same_alerts(tmp_path: Path) -> None:
    """`promtool test rules` over what the exporter would have sent, one test a case."""
    (tmp_path / "rules.yml").write_text(rules_file(AlertConfig()))
    cases = {"calm": CALM, **CASES}
    tests = [_test(name, seen) for name, seen in cases.items()]
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _test(name: str, seen: Observation) -> dict[str, Any]:
    series = []
    for metric in METRICS:
        for labels, value in values_of(metric, seen):
            text = ",".join(f'{key}="{text}"' for key, text in sorted(labels.items()))
            values = f"{value}x40"
            if metric.name == "fleet_driver_clock_seconds":
                values = "0+15x40" if seen.alive else "0x40"
            # Ray adds labels of its own; two nodes may report the same series.
            for node in ("n1", "n2"):
                name_of = f'ray_{metric.name}{{{text},NodeAddress="{node}"}}'
                series.append({"series": name_of, "values": values})
    checks = []
    for rule in RULES:
        expected = [{"labels": "{}", "value": 1}] if rule.id == name else []
        expr = f'count(ALERTS{{alertname="{rule.id}",alertstate="firing"}})'
        checks.append({"expr": expr, "eval_time": "5m", "exp_samples": expected})
    return {
        "name": name,
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": checks,
    }
