"""The picture of a report: latency by percentile, and over time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tickserve.errors import ConfigurationError

#: Share of requests that are slower, where the axis is marked.
_MARKS = {0.5: "50%", 0.1: "90%", 0.01: "99%", 0.001: "99.9%", 0.0001: "99.99%", 0.00001: "99.999%"}


def check_can_draw() -> None:
    """Raises ConfigurationError where matplotlib is missing: before a run, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "--plot needs matplotlib: pip install 'tickserve[sidecar]', or leave --plot out", field="plot"
        ) from None


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Writes an SVG; the same report gives the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tickserve", "font.size": 9}):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        by_percentile, over_time = figure.subplots(1, 2)
        _draw_percentiles(by_percentile, report["histogram_ns"])
        _draw_time(over_time, report["over_time"])
        for axis in (by_percentile, over_time):
            axis.set_ylabel("latency in microseconds")
            axis.spines[["top", "right"]].set_visible(False)
        target, load = report["target"], report["load"]
        pace = f"{load['rate']:g}/s" if load["loop"] == "open" else f"{load['concurrency']} in flight"
        spoiled = [flag["kind"] for flag in report["flags"] if flag["spoils"]]
        title = f"{target['model']} at {target['address']}, {load['loop']} loop, {pace}, {load['travel']}"
        figure.suptitle(f"{title}{' - NOT TO BE TRUSTED: ' + ', '.join(spoiled) if spoiled else ''}", fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_percentiles(axis: Any, histogram: list[list[int]]) -> None:
    total, seen = sum(count for _, count in histogram), 0
    slower, latencies_us = [], []
    for edge_ns, count in histogram:
        # The slowest bucket has nothing beyond it; a logarithm needs something.
        seen += count
        slower.append(max(1 - seen / total, 1 / total / 2))
        latencies_us.append(edge_ns / 1e3)
    axis.step(slower, latencies_us, where="post")
    axis.set_xscale("log")
    if latencies_us:
        axis.set_yscale("log")
        axis.set_xlim(1, min(slower) / 1.5)
        marks = {share: name for share, name in _MARKS.items() if share >= min(slower) / 1.5}
        axis.set_xticks(list(marks), list(marks.values()), minor=False)
        axis.set_xticks([], minor=True)
    axis.set_title("by percentile")
    axis.grid(alpha=0.3)


def _draw_time(axis: Any, over_time: list[dict[str, Any]]) -> None:
    answered = [each for each in over_time if each["answered"]]
    times = [each["start_s"] for each in answered]
    for name in ("p50", "p99", "max"):
        axis.plot(times, [each[f"{name}_us"] for each in answered], label=name)
    failed = [each["start_s"] for each in over_time if each["failed"]]
    for number, time_s in enumerate(failed):
        axis.axvline(time_s, color="red", alpha=0.3, label=None if number else "requests failed")
    if answered:
        axis.set_yscale("log")
        axis.legend(frameon=False, fontsize=8)
    axis.set_xlabel("seconds")
    axis.set_title("over time")
    axis.grid(alpha=0.3)
