"""Reads a cluster file and asks the rules of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fleet.cluster_file.finding import ClusterFinding, Findings
from fleet.errors import ConfigError, NotFoundError

MAX_FILE_BYTES = 1 << 20


def examine_file(path: Path) -> list[ClusterFinding]:
    """Everything that is wrong with a cluster file; nothing is started and no cloud is asked.

    Raises:
        NotFoundError: no such file.
        ConfigError: it is not a YAML mapping of a sane size.
    """
    from fleet.cluster_file.kuberay import check_ray_cluster
    from fleet.cluster_file.ray_up import check_ray_up

    document = _read(path)
    findings = Findings(file=str(path), found=[])
    if "apiVersion" in document:
        check_ray_cluster(document, findings)
    else:
        check_ray_up(document, findings)
    return findings.found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"No cluster file {path}.")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: {size} bytes; a cluster file holds at most {MAX_FILE_BYTES}.")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(document).__name__}.")
    return document
