"""`doctor`: whether this machine can run a launch."""

from __future__ import annotations

from fleet.commands.options import DEFAULT_RUNS_DIR, AsJson, RunsDir


def doctor(as_json: AsJson = False, runs_dir: RunsDir = DEFAULT_RUNS_DIR) -> int:
    """Check versions, cores, memory, disk, ports and the file system."""
    import json
    import sys

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
