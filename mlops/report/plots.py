"""Plots of a report as SVG text that a page holds itself. The same facts give the same bytes."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlops.drift import WindowResult
from mlops.outcomes.features import FeatureFigure
from mlops.report.facts import Distribution, Point

_REFERENCE, _SEEN, _BAND = "#9e9e9e", "#1f77b4", "#9ecae1"
_STATE = {"ok": "#2ca02c", "insufficient": "#9e9e9e", "warning": "#ff9f1c", "critical": "#d62728"}
_ACROSS = 4


def distributions(found: Sequence[Distribution]) -> str:
    """Shares of every column by bin, beside its reference."""
    with _figure(len(found)) as (axes, result):
        for axis, each in zip(axes, found, strict=False):
            places = np.arange(len(each.labels))
            axis.bar(places - 0.2, each.reference, 0.4, color=_REFERENCE, label="baseline")
            axis.bar(places + 0.2, each.seen, 0.4, color=_SEEN, label="seen")
            axis.set_title(f"{each.column} ({each.rows} rows)")
            axis.set_xticks([places[0], places[-1]], [each.labels[0], each.labels[-1]])
    return result[0]


def statistics(windows: Sequence[WindowResult]) -> str:
    """PSI of every column by window, with the mean and the 99% quantile that chance alone would give."""
    columns = [(each.side, each.column) for each in windows[-1].figures if each.statistic == "psi"]
    with _figure(len(columns)) as (axes, result):
        for axis, (side, column) in zip(axes, columns, strict=False):
            figures = [
                (window.last_ns, each)
                for window in windows
                for each in window.figures
                if (each.side, each.column, each.statistic) == (side, column, "psi")
            ]
            times = np.array([time for time, _ in figures], "datetime64[ns]")
            band = [_numbers([getattr(each, name) for _, each in figures]) for name in ("null_mean", "null_q99")]
            # A line for each window: it is there even where there is but one.
            axis.vlines(times, *band, color=_BAND, linewidth=5, label="null mean to 99%")
            value = _numbers([each.value for _, each in figures])
            axis.plot(times, value, color="black", linewidth=0.7)
            axis.scatter(times, value, c=[_STATE[each.state] for _, each in figures], s=14, zorder=3)
            axis.set_title(column)
            axis.set_ylim(bottom=0)
            shown = times[:: max(1, -(-len(times) // 4))]
            axis.set_xticks(shown, [str(time.astype("datetime64[D]")) for time in shown])
    return result[0]


def lines(found: Sequence[tuple[str, Sequence[Point], float]]) -> str:
    """Figures over time with their intervals: title, points, and the level to compare with."""
    with _figure(len(found), across=3, height=2.6) as (axes, result):
        for axis, (title, points, level) in zip(axes, found, strict=False):
            times = np.array([point.time_ns for point in points], "datetime64[ns]")
            lower, upper = _numbers([p.lower for p in points]), _numbers([p.upper for p in points])
            if not np.isnan(lower).all():
                axis.fill_between(times, lower, upper, color=_BAND, alpha=0.6, linewidth=0)
            axis.axhline(level, color="black", linewidth=0.6)
            axis.plot(times, _numbers([point.value for point in points]), color=_SEEN, linewidth=1)
            axis.set_title(title)
            axis.tick_params("x", rotation=30)
    return result[0]


def features(found: Sequence[FeatureFigure]) -> str:
    """The rank IC of every feature with its interval, and how far its mean moved."""
    with _figure(2, across=2, height=0.6 + 0.24 * len(found)) as (axes, result):
        places = np.arange(len(found))[::-1]
        ic = _numbers([each.ic for each in found])
        reach = np.abs(np.array([_numbers([getattr(f, side) for f in found]) - ic for side in ("lower", "upper")]))
        axes[0].errorbar(ic, places, xerr=np.nan_to_num(reach), fmt="o", markersize=4, color=_SEEN, label="live")
        reference = _numbers([each.reference_ic for each in found])
        if not np.isnan(reference).all():
            axes[0].scatter(reference, places, marker="|", s=80, color=_REFERENCE, label="reference")
        axes[0].axvline(0, color="black", linewidth=0.6)
        axes[0].set_title("rank IC")
        axes[1].barh(places, _numbers([each.mean_shift for each in found]), color=_SEEN)
        axes[1].axvline(0, color="black", linewidth=0.6)
        axes[1].set_xscale("symlog", linthresh=1.0)
        axes[1].set_title("mean shift, in standard deviations of the reference")
        for axis in axes[:2]:
            axis.set_yticks(places, [each.feature for each in found])
    return result[0]


@contextmanager
def _figure(panels: int, *, across: int = _ACROSS, height: float = 2.0) -> Iterator[tuple[list[Any], list[str]]]:
    """Panels to draw on; what was drawn is the one entry of the second list afterwards."""
    # Its own canvas and settings: the process may draw other things, on other threads.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    result: list[str] = []
    down = max(1, -(-panels // across))
    # A dollar in a feature's name is a dollar.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "tickserve", "font.size": 7, "text.parse_math": False}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(11, height * down + 0.3), layout="constrained")
        FigureCanvasSVG(figure)
        axes = list(np.atleast_1d(figure.subplots(down, across)).ravel())
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        yield axes, result
        for axis in axes[panels:]:
            axis.remove()
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    result.append(_inline(buffer.getvalue()))


def _inline(svg: str) -> str:
    """The element alone, without sizes of its own: what stands before it belongs to a file, not into a page."""
    element = svg[svg.index("<svg") :]
    for size in ("width", "height"):
        element = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", element, count=1)
    return element


def _numbers(values: Sequence[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in values], np.float64)
