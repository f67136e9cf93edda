"""What a run comes to, and what speaks against trusting it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickserve.cli.bench import plot, report
from tickserve.load import TIMES, ClosedLoop, Distribution, Interval, Load, OpenLoop, Result

OPEN = Load("127.0.0.1:1", "/p", [b"x"], OpenLoop(100.0, 50))
CLOSED = replace(OPEN, pacing=ClosedLoop(4))


def distribution(p50: float = 100.0, p99: float = 200.0, count: int = 1000) -> Distribution:
    quantiles = {"p50": p50, "p90": p99, "p99": p99, "p99.9": p99, "p99.99": p99}
    return Distribution(count, p50, p50 / 2, p99 * 2, quantiles, [(int(p50 * 1e3), count - 1), (int(p99 * 2e3), 1)])


FINE = Result(
    outcomes=("OK",),
    counts={"OK": 1000},
    warmup_counts={"OK": 10},
    broken=0,
    missed=0,
    answered_in_time=990,
    measured_s=10.0,
    is_stopped=False,
    latency=distribution(),
    service_time=distribution(),
    lateness=distribution(1.0, 5.0),
    intervals=(Interval(0.0, 1000, 0, 100.0, 200.0, 400.0), Interval(1.0, 0, 3, 0.0, 0.0, 0.0)),
    times=np.empty(0, TIMES),
    cpu_s=1.0,
    wall_s=10.0,
    most_in_flight=4,
    stream_limit=100,
    reconnections=0,
)


def kinds(load: Load, result: Result) -> list[str]:
    return [flag.kind for flag in report.flags(load, result) if flag.spoils]


def test_a_run_without_fault_has_no_flags() -> None:
    assert kinds(OPEN, FINE) == kinds(CLOSED, FINE) == []


@pytest.mark.parametrize(
    ("load", "changes", "kind"),
    [
        (OPEN, {"counts": {"UNAVAILABLE DRAINING": 5}, "latency": None}, "nothing_answered"),
        (OPEN, {"broken": 1}, "broken"),
        (OPEN, {"missed": 1}, "missed"),
        (OPEN, {"lateness": distribution(30.0, 30.0)}, "generator_late"),
        (OPEN, {"lateness": distribution(1.0, 21.0)}, "generator_late"),
        (CLOSED, {"cpu_s": 9.5}, "generator_busy"),
        (CLOSED, {"stream_limit": 3}, "stream_limit"),
    ],
)
def test_what_speaks_against_the_figures_is_said(load: Load, changes: dict[str, Any], kind: str) -> None:
    assert kinds(load, replace(FINE, **changes)) == [kind]


def test_refusals_of_a_server_are_figures_not_faults() -> None:
    overloaded = replace(FINE, counts={"OK": 500, "RESOURCE_EXHAUSTED OVERLOADED": 500})
    assert kinds(OPEN, overloaded) == []


def test_a_run_that_was_interrupted_says_so_and_is_not_spoilt() -> None:
    (flag,) = report.flags(CLOSED, replace(FINE, is_stopped=True))
    assert (flag.kind, flag.spoils) == ("interrupted", False)


def whole(load: Load = OPEN, result: Result = FINE) -> dict[str, Any]:
    target = {"address": "127.0.0.1:1", "model": "m", "version": None, "api": "infer", "server": None, "tls": False}
    payload = {"kind": "random", "rows": 8, "different_requests": 64, "request_bytes": 99}
    return report.as_json(load, result, target=target, payload=payload, found=report.flags(load, result))


def test_the_json_is_what_its_document_lists() -> None:
    made = json.loads(json.dumps(whole(), allow_nan=False))
    document = Path(__file__).parents[3] / "docs" / "formats" / "bench.md"
    listed = {line.split("`")[1] for line in document.read_text().splitlines() if line.startswith("| `")}
    assert listed >= made.keys()
    assert listed >= {f"generator.{name}" for name in made["generator"]}
    assert (made["requests"], made["answered"], made["failed"], made["requests_per_s"]) == (1000, 1000, 0, 99.0)
    assert made["rows_per_s"] == 8 * 99.0
    assert sum(count for _, count in made["histogram_ns"]) == made["answered"]
    assert made["over_time"][1]["p50_us"] is None


def test_a_quantile_that_so_few_requests_cannot_tell_is_null() -> None:
    figures = whole()["latency_us"]
    assert figures["p99.9"] == 200.0
    assert figures["p99.99"] is None


def test_a_closed_loop_reports_no_lateness() -> None:
    assert whole(CLOSED)["generator"]["lateness_us"] is None


@pytest.mark.parametrize("result", [FINE, replace(FINE, latency=None, counts={"UNKNOWN": 3}, intervals=())])
def test_the_picture_is_drawn_and_equal_for_equal_reports(tmp_path: Path, result: Result) -> None:
    for name in ("one.svg", "two.svg"):
        plot.draw(whole(result=result), tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert "by percentile" in text
    assert ("NOT TO BE TRUSTED: nothing_answered" in text) == (result.latency is None)
