"""`doctor`: whether this machine can run a launch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunsDir


def doctor(
    cluster: Annotated[
        Path | None,
        typer.Option(
            "--cluster", help="Check this cluster file instead: `ray up` on AWS or GCP, or KubeRay."
        ),
    ] = None,
    as_json: AsJson = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Check versions, cores, memory, disk, ports and the file system, or a cluster file."""
    import json
    import sys

    if cluster is not None:
        return _cluster(cluster, as_json)
    from fleet.doctor import examine

    findings = examine(runs_dir)
    bad = [finding for finding in findings if finding.level == "error"]
    if as_json:
        document = [
            {"check": f.check, "level": f.level, "text": f.text, "advice": f.advice}
            for f in findings
        ]
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        marks = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}
        for finding in findings:
            sys.stdout.write(f"{marks[finding.level]}  {finding.check}: {finding.text}\n")
            if finding.advice:
                sys.stdout.write(f"         {finding.advice}\n")
    return 4 if bad else 0


def _cluster(path: Path, as_json: bool) -> int:
    import dataclasses
    import json
    import sys

    from fleet.cluster_file import examine_file

    findings = examine_file(path)
    if as_json:
        document = [dataclasses.asdict(finding) for finding in findings]
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        for finding in findings:
            mark = "ERROR  " if finding.level == "error" else "warning"
            sys.stdout.write(f"{mark}  {finding}\n")
        if not findings:
            sys.stdout.write(f"ok       {path}: nothing to complain of; no cloud was asked\n")
    return 3 if any(finding.level == "error" for finding in findings) else 0
