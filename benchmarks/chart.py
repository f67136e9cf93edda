"""One picture of a comparison: latency and CPU of every server under every load, on the forest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

MODEL = "forest-100"
PANELS = (("p50_us", "p50 in microseconds"), ("cpu_us_per_request", "CPU per request in microseconds"))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws the runs of a result file as SVG; the same runs give the same file."""
    runs = [run for run in result["runs"] if run["model"] == MODEL]
    loads = list(dict.fromkeys(run["load"] for run in runs))
    servers = list(dict.fromkeys(_name(run) for run in runs))
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tickserve", "font.size": 9})
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 4.2), layout="constrained")
    width = 0.8 / max(len(servers), 1)
    for axis, (field, title) in zip(axes, PANELS, strict=True):
        for position, server in enumerate(servers):
            values = {run["load"]: run[field] for run in runs if _name(run) == server}
            places = [loads.index(load) + (position - (len(servers) - 1) / 2) * width for load in values]
            bars = axis.bar(places, list(values.values()), width, label=server)
            axis.bar_label(bars, fmt="{:,.0f}", fontsize=6, padding=1)
        axis.set_yscale("log")
        axis.set_xticks(range(len(loads)), loads)
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    machine = result["machine"]
    figure.suptitle(
        f"100-tree forest, 10 features, loopback; {machine['cpus']} CPUs ({machine['cpu']}), {machine['measured_at']}",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _name(run: Mapping[str, Any]) -> str:
    return f"{run['server']} {run['engine'] or ''}".strip()
