"""The breaker's arithmetic: what it counts, over which time, and against what."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mlops.histogram import Histogram
from server.models.breaker import FLOOR_NS, SLICE_NS, Breaker, BreakerLimits, Sample, stretched_ns
from server.models.processor import ThreadClock, ThreadTimes

LIMITS = BreakerLimits(bad_share=0.1, run_factor=4.0, requests=10, window_s=10.0)
RUN_NS = 200_000


def sample(answered: int, bad: int = 0, *, run_ns: int = RUN_NS, rows: int = 1, before: Sample | None = None) -> Sample:
    """So many more answers of such a run time than `before`."""
    histogram = Histogram()
    for _ in range(answered):
        histogram.record(run_ns)
    if before is None:
        return Sample(answered, bad, answered * rows, histogram.counts)
    counts = [sum(pair) for pair in zip(before.run_counts, histogram.counts, strict=True)]
    return Sample(before.answered + answered, before.bad + bad, before.rows + answered * rows, counts)


def started(limits: BreakerLimits = LIMITS, run_time_ns: int = RUN_NS) -> Breaker:
    breaker = Breaker(limits, run_time_ns)
    assert breaker.update(0.0, sample(0)) is None
    return breaker


def test_trips_only_above_the_share_and_with_enough_requests() -> None:
    assert started().update(1.0, sample(0, 9)) is None
    assert started().update(1.0, sample(9, 1)) is None
    verdict = started().update(1.0, sample(8, 2))
    assert verdict is not None
    assert verdict.why == "2 of 10 answers were bad, more than 10.0%"
    assert not verdict.is_slow


def test_counts_from_before_it_was_installed_do_not_matter() -> None:
    breaker = Breaker(LIMITS, RUN_NS)
    bad = sample(0, 1000)
    assert breaker.update(0.0, bad) is None
    assert breaker.update(1.0, sample(100, before=bad)) is None


def test_counts_that_were_folded_begin_anew() -> None:
    breaker = started()
    assert breaker.update(1.0, sample(1000)) is None
    assert breaker.update(2.0, sample(0, 500)) is None
    verdict = breaker.update(3.0, sample(1, 9, before=sample(0, 500)))
    assert verdict is not None
    assert verdict.why == "9 of 10 answers were bad, more than 10.0%"


def test_what_is_older_than_the_window_is_forgotten() -> None:
    breaker = started(BreakerLimits(bad_share=0.1, requests=10, window_s=10.0))
    total = sample(100, 10)
    assert breaker.update(1.0, total) is None
    # The ten bad ones would be too many among twenty.
    total = sample(10, before=total)
    assert breaker.update(11.0, total) is None
    total = sample(7, 3, before=total)
    assert breaker.update(12.0, total) is not None


def test_slow_is_half_of_the_runs_above_the_factor() -> None:
    fast = sample(6)
    assert started().update(1.0, sample(5, run_ns=10 * RUN_NS, before=fast)) is None
    verdict = started().update(1.0, sample(7, run_ns=10 * RUN_NS, before=fast))
    assert verdict is not None
    assert verdict.is_slow
    assert verdict.why.endswith("or longer, more than 800 us")
    assert started().update(1.0, sample(20, run_ns=3 * RUN_NS)) is None


def test_more_rows_may_take_longer_and_short_runs_have_a_floor() -> None:
    assert started().update(1.0, sample(20, run_ns=10 * RUN_NS, rows=8)) is None
    assert started().update(1.0, sample(20, run_ns=10 * RUN_NS, rows=2)) is not None
    assert started(run_time_ns=1000).update(1.0, sample(20, run_ns=FLOOR_NS // 2)) is None
    assert started(run_time_ns=1000).update(1.0, sample(20, run_ns=2 * FLOOR_NS)) is not None


def test_limits_that_are_off_never_trip() -> None:
    off = BreakerLimits(bad_share=1.0, run_factor=0.0, requests=1)
    assert started(off).update(1.0, sample(0, 1000)) is None
    assert started(off).update(1.0, sample(100, run_ns=10**9)) is None


def test_runs_that_waited_for_a_processor_are_not_the_versions_fault() -> None:
    run_ns = 10 * SLICE_NS
    late = sample(20, run_ns=20 * run_ns)
    # Threads ran a tenth of the time that they would have liked to.
    busy = replace(late, times=ThreadTimes(ran_ns=10**9, waited_ns=9 * 10**9))
    assert started(run_time_ns=run_ns).update(1.0, busy) is None
    verdict = started(run_time_ns=run_ns).update(1.0, replace(late, times=ThreadTimes(ran_ns=10**9)))
    assert verdict is not None
    assert verdict.why.endswith("more than 40000 us")
    # What waited before the window excuses nothing.
    breaker = Breaker(LIMITS, run_ns)
    assert breaker.update(0.0, replace(sample(0), times=busy.times)) is None
    later = ThreadTimes(ran_ns=2 * 10**9, waited_ns=9 * 10**9)
    assert breaker.update(1.0, replace(late, times=later)) is not None


def test_short_runs_are_not_stretched() -> None:
    busy = ThreadTimes(ran_ns=10**9, waited_ns=9 * 10**9)
    assert stretched_ns(SLICE_NS, busy) == SLICE_NS
    assert stretched_ns(3 * SLICE_NS, busy) == 21 * SLICE_NS
    assert stretched_ns(3 * SLICE_NS, ThreadTimes()) == 3 * SLICE_NS


def write_task(tasks: Path, number: int, ran_ns: int, waited_ns: int) -> None:
    (tasks / str(number)).mkdir(parents=True, exist_ok=True)
    (tasks / str(number) / "schedstat").write_text(f"{ran_ns} {waited_ns} 7\n")


def test_times_of_threads_never_fall(tmp_path: Path) -> None:
    clock = ThreadClock(tmp_path)
    write_task(tmp_path, 1, 500, 50)
    assert clock.read() == ThreadTimes()
    write_task(tmp_path, 1, 700, 60)
    write_task(tmp_path, 2, 100, 10)
    assert clock.read() == ThreadTimes(200, 10)
    # One ends, and another has its number.
    write_task(tmp_path, 1, 5, 1)
    (tmp_path / "2" / "schedstat").unlink()
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "schedstat").write_text("no numbers")
    assert clock.read() == ThreadTimes(200, 10)
    write_task(tmp_path, 1, 25, 2)
    assert clock.read() == ThreadTimes(220, 11)
    assert ThreadClock(tmp_path / "none").read() == ThreadTimes()


def test_times_of_threads_are_the_kernels() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not count how long threads wait")
    clock = ThreadClock()
    begun, go_on = threading.Event(), threading.Event()

    def spin() -> None:
        begun.set()
        while not go_on.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    begun.wait(60)
    before = clock.read()
    try:
        # Bounded by what runs these tests.
        while clock.read().ran_ns - before.ran_ns < 1_000_000:
            pass
    finally:
        go_on.set()
        thread.join()
