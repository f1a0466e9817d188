"""Figures, tables and the page of a finished run. Reads results; decides nothing."""

from __future__ import annotations

from stats.report.context import Extra, Fact, Failure, MissionInfo, ReportContext
from stats.report.html import write_report

__all__ = ["Extra", "Fact", "Failure", "MissionInfo", "ReportContext", "write_report"]
