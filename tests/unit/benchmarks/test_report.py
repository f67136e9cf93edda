"""What the benchmarks compute from their rounds, and what their result file holds."""

import json
from pathlib import Path

import pytest

from benchmarks.comparison import all_cells, default_cells, named
from benchmarks.figures import difference_of_rounds, ratio_of_rounds
from benchmarks.kinds import KINDS
from benchmarks.measure import Round, stages_between
from benchmarks.report import Comparison, write
from benchmarks.servers import Snapshot

RUN_FIELDS = {"server", "engine", "model", "load", "p50_us", "p99_us", "p999_us", "requests_per_s"}


def measured(number: int, server: str, p50_us: float) -> Round:
    return Round(
        number=number,
        server=server,
        model="mlp",
        load="c=1",
        p50_us=p50_us,
        p99_us=2 * p50_us,
        p999_us=3 * p50_us,
        requests_per_s=1e6 / p50_us,
        cpu_us_per_request=p50_us / 2,
        steal_pct=0.0,
        stages_us={"run": p50_us / 4} if server == "native" else {},
    )


def test_figures_are_paired_round_by_round() -> None:
    # The machine slows down by a factor of three on the way; the pairs do not see it.
    figure, reference = [10.0, 20.0, 30.0], [20.0, 40.0, 60.0]
    ratio = ratio_of_rounds(figure, reference)
    assert (ratio.median, ratio.low, ratio.high, ratio.rounds) == (0.5, 0.5, 0.5, 3)
    assert difference_of_rounds(figure, reference).median == -20.0


def test_an_interval_holds_its_median_and_widens_with_the_spread() -> None:
    narrow = ratio_of_rounds([10, 11, 10, 11, 10], [10] * 5)
    wide = ratio_of_rounds([5, 20, 10, 15, 8], [10] * 5)
    for ratio in (narrow, wide):
        assert ratio.low <= ratio.median <= ratio.high
    assert wide.high - wide.low > narrow.high - narrow.low


def test_servers_are_compared_over_the_rounds_that_both_took_part_in() -> None:
    rounds = [measured(n, "native", 100.0) for n in range(4)]
    rounds += [measured(n, "bare", 400.0 if n == 0 else 800.0) for n in (0, 2)]
    ratios = Comparison(named(("native", "bare")), [("native", "bare")], rounds).ratios()
    p50 = ratios["native/bare mlp c=1 p50_us"]
    assert (p50.median, p50.rounds) == (pytest.approx((0.25 + 0.125) / 2), 2)


def test_servers_that_share_no_load_are_not_compared() -> None:
    rounds = [measured(0, "native", 100.0)]
    assert Comparison(named(("native", "cpp")), [("native", "cpp")], rounds).ratios() == {}


def test_the_result_file_is_what_others_read(tmp_path: Path) -> None:
    rounds = [measured(n, server, 100.0) for n in range(2) for server in ("native", "cpp")]
    report = Comparison(named(("native", "cpp")), [("native", "cpp")], rounds)
    file = tmp_path / "results" / "latest.json"
    write(file, {"machine": {"cpus": 2}, **report.result()})
    written = json.loads(file.read_text())
    assert written["machine"] == {"cpus": 2}
    native, cpp = written["runs"]
    assert native.keys() >= RUN_FIELDS | {"cpu_us_per_request", "steal_pct"}
    assert (native["server"], native["engine"], cpp["server"], cpp["engine"]) == (
        "tickserve",
        "native",
        "bare_cpp",
        None,
    )
    assert written["ratios"]["native/cpp mlp c=1 cpu_us_per_request"]["median"] == 1.0
    assert written["stages"] == {"mlp c=1 native": {"run": 25.0}}
    assert [r["number"] for r in written["rounds"]] == [0, 0, 1, 1]


def test_a_server_asked_for_twice_is_two() -> None:
    assert list(named(("bare", "cpp", "bare"))) == ["bare-1", "cpp", "bare-3"]


def test_the_forest_is_measured_under_every_load_by_everyone() -> None:
    forest, *others = default_cells(tuple(KINDS), 30)
    assert forest.servers == tuple(KINDS)
    assert {load.name for load in forest.loads} == {"c=1", "c=4", "c=16", "stream c=1", "64 rows c=1"}
    assert {cell.model for cell in others} == {"logistic", "boosting-100", "mlp"}
    assert all(cell.loads == forest.loads for cell in all_cells(tuple(KINDS), 30))


def test_stages_are_means_over_the_requests_between() -> None:
    before = Snapshot(10, {"run": (1.0, 10)})
    after = Snapshot(30, {"run": (1.5, 30), "decode": (0.0, 0)})
    assert stages_between(before, after) == {"run": pytest.approx(25_000.0)}
