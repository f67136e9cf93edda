"""The daily report: what the log, the tables and the outcomes say about one day, as facts, as JSON and as HTML."""

from mlops.report.facts import DailyReport, VersionReport
from mlops.report.gather import Sources, daily_report
from mlops.report.page import render

__all__ = ["DailyReport", "Sources", "VersionReport", "daily_report", "render"]
