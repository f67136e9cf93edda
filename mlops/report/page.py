"""The report as one HTML page that needs no other file and no network."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops.outcomes import OutcomeFigure
from mlops.report import plots
from mlops.report.facts import DailyReport, HorizonReport, VersionReport

_TEMPLATE = "daily.html.j2"


def render(report: DailyReport) -> str:
    """The page. Names come from clients and packages, so everything but our own plots is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("mlops.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "day": day, "percent": percent}
    versions = [
        (each, {name: Markup(svg) for name, svg in _plots(each).items()}, [_horizon_plots(h) for h in each.horizons])  # noqa: S704 - drawn here
        for each in report.versions
    ]
    return environment.get_template(_TEMPLATE).render(report=report, versions=versions, tables=figure_rows)


def number(value: float | None, digits: int = 4) -> str:
    """A number for people; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share."""
    return "–" if value is None else f"{value:.1%}"


def day(unix_ns: int) -> str:
    """A date in UTC; a dash for 0."""
    return "–" if not unix_ns else str(np.datetime64(unix_ns, "ns").astype("datetime64[D]"))


def figure_rows(figures: Sequence[OutcomeFigure]) -> list[OutcomeFigure]:
    """The figures that are worth a line: those with a value, in the order that they were computed in."""
    return [figure for figure in figures if figure.value is not None]


def _plots(version: VersionReport) -> dict[str, str]:
    found = {}
    if version.distributions:
        found["distributions"] = plots.distributions(version.distributions)
    if version.windows:
        found["statistics"] = plots.statistics(version.windows)
    return found


def _horizon_plots(horizon: HorizonReport) -> dict[str, Any]:
    from markupsafe import Markup

    found: dict[str, Any] = {}
    if horizon.capital:
        shown = [
            ("rank IC, rolling", horizon.rolling_ic, 0.0),
            ("Sharpe ratio, rolling", horizon.rolling_sharpe, 0.0),
            ("capital", horizon.capital, 1.0),
        ]
        found["lines"] = Markup(plots.lines(shown))  # noqa: S704 - drawn here
    if horizon.features and horizon.joined:
        found["features"] = Markup(plots.features(horizon.features))  # noqa: S704 - drawn here
    return found
