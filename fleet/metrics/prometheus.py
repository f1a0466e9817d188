"""The table of alerts as a Prometheus rules file. Pure."""

from __future__ import annotations

import yaml

from fleet.alerts.config import AlertConfig
from fleet.alerts.rules import RULES


def rules_file(config: AlertConfig) -> str:
    """The file that Prometheus loads under `rule_files`."""
    document = {
        "groups": [
            {
                "name": "bem-fleet",
                "interval": "15s",
                "rules": [
                    {
                        "alert": rule.id,
                        "expr": rule.promql(config),
                        "labels": {"severity": rule.severity},
                        "annotations": {"summary": rule.title, "advice": rule.advice},
                    }
                    for rule in RULES
                ],
            }
        ]
    }
    head = "# Written by `python fleet.py alerts rules`; change thresholds there.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=100)
