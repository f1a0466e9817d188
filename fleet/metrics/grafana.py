"""A Grafana dashboard over the exported metrics, as the JSON that Grafana imports. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

_SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
_RUN = 'run_id=~"$run"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One panel: what it asks and how it is drawn."""

    title: str
    expr: str
    legend: str
    kind: Literal["timeseries", "stat", "bargauge"] = "timeseries"
    unit: str = "short"
    stacked: bool = False
    width: int = 12


PANELS: tuple[Panel, ...] = (
    Panel(
        title="Runs done",
        expr=f'sum by (run_id) (max by (run_id, mission) (ray_fleet_runs{{state="DONE",{_RUN}}}))',
        legend="{{run_id}}",
        kind="stat",
        width=6,
    ),
    Panel(
        title="Runs failed",
        expr=f"sum by (run_id) (max by (run_id, mission) (ray_fleet_failed_runs{{{_RUN}}})"
        f" + max by (run_id, mission) (ray_fleet_non_finite_runs{{{_RUN}}}))",
        legend="{{run_id}}",
        kind="stat",
        width=6,
    ),
    Panel(
        title="Disk free",
        expr=f"min by (run_id) (ray_fleet_disk_free_mebibytes{{{_RUN}}})",
        legend="{{run_id}}",
        kind="stat",
        unit="mbytes",
        width=6,
    ),
    Panel(
        title="Driver silent",
        expr=f"time() - max by (run_id) (ray_fleet_driver_clock_seconds{{{_RUN}}})",
        legend="{{run_id}}",
        kind="stat",
        unit="s",
        width=6,
    ),
    Panel(
        title="Runs by state",
        expr=f"sum by (state) (max by (run_id, mission, state) (ray_fleet_runs{{{_RUN}}}))",
        legend="{{state}}",
        stacked=True,
    ),
    Panel(
        title="Done, by mission",
        expr=f'max by (run_id, mission) (ray_fleet_runs{{state="DONE",{_RUN}}})',
        legend="{{run_id}} {{mission}}",
    ),
    Panel(
        title="Silence of missions at work",
        expr=f"max by (run_id, mission) (ray_fleet_mission_silent_seconds{{{_RUN}}})"
        f" and max by (run_id, mission) (ray_fleet_mission_at_work{{{_RUN}}}) == 1",
        legend="{{run_id}} {{mission}}",
        unit="s",
    ),
    Panel(
        title="Deaths and preemptions of workers",
        expr=" or ".join(
            f"label_replace(max by (run_id, mission) (ray_fleet_{name}_total{{{_RUN}}}),"
            f' "what", "{name}", "", "")'
            for name in ("worker_deaths", "preemptions")
        ),
        legend="{{run_id}} {{mission}} {{what}}",
    ),
    Panel(
        title="Rollbacks and drifts of living models",
        expr=f"max by (run_id, mission) (ray_fleet_rollbacks_total{{{_RUN}}})"
        f" or max by (run_id, mission) (ray_fleet_drifts_total{{{_RUN}}})",
        legend="{{run_id}} {{mission}}",
    ),
    Panel(
        title="Rise of policy violations",
        expr=f"max by (run_id, mission) (ray_fleet_violation_rise_ratio{{{_RUN}}})",
        legend="{{run_id}} {{mission}}",
        unit="percentunit",
    ),
)


def dashboard() -> str:
    """The dashboard as JSON text; its data source is asked for at import."""
    x = y = height = 0
    panels: list[dict[str, Any]] = []
    for number, panel in enumerate(PANELS, start=1):
        if x + panel.width > 24:
            x, y = 0, y + height
        height = 4 if panel.kind == "stat" else 8
        panels.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
    document = {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "type": "datasource",
                "pluginId": "prometheus",
            }
        ],
        "title": "BEM Fleet",
        "uid": "bem-fleet",
        "tags": ["bem-fleet", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "templating": {
            "list": [
                {
                    "name": "run",
                    "label": "Run",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": "label_values(ray_fleet_driver_clock_seconds, run_id)",
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                }
            ]
        },
        "panels": panels,
    }
    return json.dumps(document, indent=1) + "\n"


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "lineWidth": 1,
            "fillOpacity": 40 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": "A",
                "datasource": _SOURCE,
                "expr": panel.expr,
                "legendFormat": panel.legend,
            }
        ],
    }
