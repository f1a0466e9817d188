"""Thresholds of the alerts, and the file that changes them (`--alerts FILE`).

Where alerts are sent to is a secret and never stands in a file of ours: see `channels`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleet.errors import ConfigError, NotFoundError
from missions.spec_errors import describe

MAX_FILE_BYTES = 64 << 10


class AlertConfig(BaseModel):
    """When a rule holds. Seconds, MiB and shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    no_progress_s: float = Field(default=600.0, gt=0)
    """A mission at work in which nothing moved, logged or finished for this long."""
    driver_silent_s: float = Field(default=60.0, gt=0)
    """Prometheus only: the driver's clock stands still for this long."""
    disk_low_mib: float = Field(default=2048.0, gt=0)
    """Free space on the disk of the runs folder."""
    preemptions: int = Field(default=3, ge=1)
    """Preemptions of one mission from which on somebody should look."""
    violation_rise: float = Field(default=0.05, gt=0, le=1)
    """Rise of the share of violations over its last value, as a share (0.05: 5 points)."""


def load_alert_config(path: Path) -> AlertConfig:
    """Reads a file of thresholds.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: names the file, the field, the value and what is allowed.
    """
    if not path.is_file():
        raise NotFoundError(f"--alerts {path}: no such file.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: an alert file holds at most {MAX_FILE_BYTES} bytes.")
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if document is not None and not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(document).__name__}.")
    try:
        return AlertConfig.model_validate(document or {})
    except ValidationError as error:
        raise ConfigError(describe(error, AlertConfig, str(path))) from None
