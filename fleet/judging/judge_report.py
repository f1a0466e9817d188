"""The report page of scores that came from elsewhere: says what no launch has vouched for."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from fleet import provenance
from fleet.errors import StorageError
from fleet.judging.judge_files import Judged
from fleet.reporting.report_facts import calibration_fact
from stats.report import MissionInfo, ReportContext, write_report


def write_page(judged: Judged, folder: Path, *, wall_time_s: float) -> Path:
    """Writes the page and its tables into `folder`.

    Raises:
        StorageError: the folder cannot be written.
    """
    commit, dirty = provenance.commit()
    name = judged.verdict.mission
    files = ", ".join(dict.fromkeys(str(source.path) for source in judged.sources))
    context = ReportContext(
        run_id=name,
        profile="judge",
        command=provenance.command_line(sys.argv[1:]),
        commit=commit,
        dirty=dirty,
        wall_time_s=wall_time_s,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware={key: str(value) for key, value in provenance.hardware().items()},
        versions=provenance.versions(),
        missions={name: MissionInfo(title=f"Scores from elsewhere: {files}")},
        notes=judged.notes,
        calibration=calibration_fact(),
    )
    try:
        return write_report(folder, [judged.verdict], {name: judged.scores}, context)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error}") from None
