"""The picture of the S&P 500 study: states of every column by window, and the rolling IC of ranks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from mlops.drift import WindowResult
from mlops.outcomes import OutcomeFigure

_STATES = ("insufficient", "ok", "warning", "critical")
_COLOURS = ("#d9d9d9", "#a6d8a8", "#ffd27f", "#ef8a80")


def draw(
    windows: Mapping[str, Sequence[WindowResult]],
    rolling: Mapping[str, Sequence[OutcomeFigure]],
    columns: Sequence[str],
    path: Path,
) -> None:
    """One column of panels for each stream; the same figures give the same file."""
    mpl.use("Agg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tickserve", "font.size": 8})
    figure, axes = plt.subplots(
        2, len(windows), figsize=(11, 6.4), layout="constrained", height_ratios=(1.7, 1), sharey="row"
    )
    for place, (scenario, results) in enumerate(windows.items()):
        _states(axes[0][place], results, columns)
        axes[0][place].set_title(scenario)
        _rolling(axes[1][place], rolling[scenario])
    axes[1][0].set_ylabel("rank IC over 60 sessions")
    figure.suptitle(
        "PSI against the baseline by window of 250 rows: grey insufficient, green ok, yellow warning, red critical"
    )
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _states(axis: Axes, results: Sequence[WindowResult], columns: Sequence[str]) -> None:
    decisions = [{each.column: each for each in result.decisions} for result in results]
    grid = np.array([[_STATES.index(window[column].state) for window in decisions] for column in columns])
    axis.imshow(grid, aspect="auto", cmap=ListedColormap(_COLOURS), vmin=0, vmax=len(_STATES) - 1)
    for row, column in enumerate(columns):
        for place, window in enumerate(decisions):
            value = window[column].value
            axis.text(place, row, "-" if value is None else f"{value:.2f}", ha="center", va="center")
    axis.set_yticks(range(len(columns)), columns)
    axis.set_xticks(range(len(results)), [f"to {_month(result.last_ns)}" for result in results])


def _rolling(axis: Axes, figures: Sequence[OutcomeFigure]) -> None:
    times = np.array([figure.end_ns for figure in figures], "datetime64[ns]")
    value, lower, upper = (
        np.array([getattr(figure, name) if getattr(figure, name) is not None else np.nan for figure in figures])
        for name in ("value", "lower", "upper")
    )
    axis.axhline(0, color="black", linewidth=0.6)
    axis.fill_between(times, lower, upper, color="#9ecae1", alpha=0.6, linewidth=0)
    axis.plot(times, value, marker="o", markersize=3, linewidth=1)
    axis.tick_params("x", rotation=30)
    axis.spines[["top", "right"]].set_visible(False)


def _month(unix_ns: int) -> str:
    return str(np.datetime64(unix_ns, "ns").astype("datetime64[M]"))
