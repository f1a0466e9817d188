"""What is worth waking somebody for: one table of rules, evaluated here and by Prometheus.

`rules` is the table, `observe` reads a ledger and the disk once, `track` knows what fires since
when, `channels` tells people, `watchman` does all of it every few seconds inside a launch.
`fleet.metrics` exports the same figures and writes the same table as Prometheus rules. Knows no
Ray.
"""

from fleet.alerts.channels import Channels, channels_from_environment
from fleet.alerts.config import AlertConfig, load_alert_config
from fleet.alerts.observe import Observation, observe
from fleet.alerts.rules import RULES, Finding, Rule
from fleet.alerts.track import Alert, Tracker
from fleet.alerts.watchman import Watchman, look_once

__all__ = [
    "RULES",
    "Alert",
    "AlertConfig",
    "Channels",
    "Finding",
    "Observation",
    "Rule",
    "Tracker",
    "Watchman",
    "channels_from_environment",
    "load_alert_config",
    "look_once",
    "observe",
]
