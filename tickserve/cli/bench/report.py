"""What a run came to: its figures, what speaks against trusting them, as JSON and as a table."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from tickserve.load import ANSWERED, Distribution, Load, OpenLoop, Result

FORMAT = 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999}
#: The generator counts as late where it adds so much of a percentile, and more than `_LATE_US`.
_LATE_SHARE = 0.1
_LATE_US = 20.0
#: Of one CPU, in a closed loop; beyond it the generator may be what limits.
_BUSY_SHARE = 0.9


@dataclass(frozen=True)
class Flag:
    """Something that a reader of the figures must know; `spoils` where they are not what they seem because of it."""

    kind: str
    text: str
    spoils: bool = True


def flags(load: Load, result: Result) -> list[Flag]:
    """What speaks against the figures, the worst first."""
    found = []
    if result.answered == 0:
        found.append(Flag("nothing_answered", "not one request was answered"))
    if result.broken:
        found.append(
            Flag(
                "broken", f"{result.broken} requests have no answer and no status: the connection or the server failed"
            )
        )
    if result.missed:
        text = f"{result.missed} requests were not sent, since {_in_flight(load)} were unanswered"
        found.append(Flag("missed", f"{text}: the server does not keep up with this rate"))
    if isinstance(load.pacing, OpenLoop):
        found += _late(result)
    elif result.wall_s > 0 and result.cpu_s / result.wall_s > _BUSY_SHARE:
        share = 100 * result.cpu_s / result.wall_s
        found.append(Flag("generator_busy", f"the generator used {share:.0f}% of a CPU: it may be what limits"))
    if result.stream_limit is not None and result.most_in_flight > result.stream_limit:
        found.append(
            Flag(
                "stream_limit",
                f"up to {result.most_in_flight} requests were in flight on a connection that the server lets have "
                f"{result.stream_limit}: the others waited here; use more --connections",
            )
        )
    if result.is_stopped:
        found.append(Flag("interrupted", f"interrupted after {result.measured_s:.1f} s of measuring", spoils=False))
    return found


def as_json(
    load: Load, result: Result, *, target: Mapping[str, Any], payload: Mapping[str, Any], found: list[Flag]
) -> dict[str, Any]:
    """As docs/formats/bench.md says."""
    pacing = load.pacing
    is_open = isinstance(pacing, OpenLoop)
    return {
        "format": FORMAT,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": dict(target),
        "load": {
            "loop": "open" if is_open else "closed",
            "rate": pacing.rate if isinstance(pacing, OpenLoop) else None,
            "concurrency": None if is_open else _in_flight(load),
            "max_in_flight": _in_flight(load) if is_open else None,
            "travel": str(load.travel),
            "connections": load.connections,
            "warmup_s": load.warmup_s,
            "duration_s": load.duration_s,
            "deadline_s": load.deadline_s,
        },
        "payload": dict(payload),
        "measured_s": result.measured_s,
        "requests": result.requests,
        "answered": result.answered,
        "failed": result.requests - result.answered,
        "missed": result.missed,
        "requests_per_s": result.requests_per_s,
        "rows_per_s": result.requests_per_s * payload["rows"],
        "latency_us": _figures(result.latency),
        "service_time_us": _figures(result.service_time),
        "outcomes": dict(result.counts),
        "warmup_outcomes": dict(result.warmup_counts),
        "generator": {
            "lateness_us": _figures(result.lateness) if is_open else None,
            "cpu_s": result.cpu_s,
            "wall_s": result.wall_s,
            "most_in_flight_on_a_connection": result.most_in_flight,
            "stream_limit_of_the_server": result.stream_limit,
            "reconnections": result.reconnections,
        },
        "over_time": [
            {
                "start_s": each.start_s,
                "answered": each.answered,
                "failed": each.failed,
                "p50_us": each.p50_us if each.answered else None,
                "p99_us": each.p99_us if each.answered else None,
                "max_us": each.max_us if each.answered else None,
            }
            for each in result.intervals
        ],
        "histogram_ns": [] if result.latency is None else [list(bucket) for bucket in result.latency.buckets],
        "flags": [{"kind": flag.kind, "text": flag.text, "spoils": flag.spoils} for flag in found],
        "machine": {
            "cpus": os.cpu_count(),
            "cpu": platform.machine(),
            "kernel": platform.release(),
            "load_average": os.getloadavg()[0],
        },
    }


def show(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the figures."""
    target, load, payload = report["target"], report["load"], report["payload"]
    pace = f"{load['rate']:g} requests/s" if load["loop"] == "open" else f"{load['concurrency']} in flight"
    console.print(
        f"{target['model']} at {target['address']} ({target['server'] or 'server unnamed'}), {target['api']}, "
        f"{load['travel']}; {load['loop']} loop, {pace}, {load['connections']} connections; {payload['kind']} payload, "
        f"{payload['rows']} rows, {payload['request_bytes']} bytes a request",
        markup=False,
        highlight=False,
    )
    table = Table("microseconds", *(["mean", *QUANTILES, "max"]))
    for column in table.columns[1:]:
        column.justify = "right"
    lines = [("latency", report["latency_us"])]
    if load["loop"] == "open":
        lines += [("from sending", report["service_time_us"]), ("late", report["generator"]["lateness_us"])]
    for name, figures in lines:
        if figures is not None:
            table.add_row(name, *(_shown(figures[each]) for each in ("mean", *QUANTILES, "max")))
    console.print(table)
    console.print(
        f"{report['requests_per_s']:,.0f} requests/s answered over {report['measured_s']:.1f} s; "
        f"{report['requests']:,} sent, {report['answered']:,} answered, {report['failed']:,} failed, "
        f"{report['missed']:,} not sent",
        highlight=False,
    )
    for outcome, count in report["outcomes"].items():
        if outcome != ANSWERED:
            console.print(f"  {count:,} x {outcome}", markup=False, highlight=False)


def _figures(distribution: Distribution | None) -> dict[str, float | None] | None:
    """A quantile is null where fewer than one request lies beyond it."""
    if distribution is None:
        return None
    figures: dict[str, float | None] = {"mean": distribution.mean_us, "min": distribution.min_us}
    for name, quantile in QUANTILES.items():
        is_known = distribution.count * (1 - quantile) >= 1
        figures[name] = distribution.quantiles[name] if is_known else None
    return figures | {"max": distribution.max_us}


def _late(result: Result) -> list[Flag]:
    if result.lateness is None or result.latency is None:
        return []
    for name in ("p50", "p99"):
        late_us, latency_us = result.lateness.quantiles[name], result.latency.quantiles[name]
        if late_us > max(_LATE_US, _LATE_SHARE * latency_us):
            text = f"the generator was itself late by {late_us:,.0f} us at {name}, of a latency of {latency_us:,.0f} us"
            return [Flag("generator_late", f"{text}: give it a CPU, or a lower rate")]
    return []


def _in_flight(load: Load) -> int:
    pacing = load.pacing
    return pacing.max_in_flight if isinstance(pacing, OpenLoop) else getattr(pacing, "in_flight", 1)


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"
