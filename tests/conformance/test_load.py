"""Load over time: deadlines that pass while a model runs, bounds on what is in flight and waits, cancelled calls."""

import time
from collections.abc import Callable, Iterator

import pytest

from mlops.package import Limits
from tests.conformance.conftest import Bench, Outcome, benches, outcome
from tests.conformance.requests import PREDICT, predict
from tests.conformance.served import tensor
from tests.support.models import echo_model, slow_model, version_plan

ONE_VALUE = (tensor("values", "FP32", -1, 1),)
SLOW = predict([1, 2, 3], model="slow")
BOUND_S = 60.0


@pytest.fixture(scope="module")
def slow(engine_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A server of two models: `slow` runs for tens of milliseconds, `echo` answers at once."""
    making = benches(engine_name, tmp_path_factory.mktemp("slow"))
    bench = next(making)()
    bench.install(version_plan(bench.folder, slow_model(), name="slow", outputs=ONE_VALUE))
    bench.install(version_plan(bench.folder, echo_model()))
    yield bench
    for _ in making:
        pass


def test_deadline_that_passes_while_the_model_runs_says_that_it_ran(slow: Bench) -> None:
    seen = passed_while_it_ran(lambda: slow.predict(model="slow", timeout_us=5_000))
    assert seen.text == "the deadline passed while the model ran"
    assert list(slow.predict(model="slow").message.values) == [6]


def test_deadline_of_the_call_that_is_shorter_than_the_run(slow: Bench) -> None:
    assert slow.predict(model="slow", timeout_s=0.005).status == "DEADLINE_EXCEEDED"
    wait_until_idle(slow)
    assert slow.predict().status == "OK"


def test_packages_default_deadline_holds_where_the_call_brings_none(bench: Bench) -> None:
    limits = Limits(default_deadline_us=5_000, latency_budget_us=100)
    bench.install(version_plan(bench.folder, slow_model(), outputs=ONE_VALUE, limits=limits))
    passed_while_it_ran(bench.predict)


def test_slow_answers_are_counted_against_the_packages_budget(slow: Bench) -> None:
    before = slow.counted("slow").slow
    slow.predict(model="slow")
    assert slow.counted("slow").slow == before + 1


def test_requests_over_the_in_flight_bound_are_refused_at_once(slow: Bench) -> None:
    call = slow.channel.unary_unary(PREDICT)
    outcomes = [outcome(future) for future in [call.future(SLOW, timeout=BOUND_S) for _ in range(40)]]
    assert {(seen.status, seen.reason) for seen in outcomes} == {("OK", ""), ("RESOURCE_EXHAUSTED", "OVERLOADED")}
    refused = next(seen for seen in outcomes if seen.reason)
    assert (refused.text, refused.executed) == ("9 requests are in flight, the bound is 8", "0")
    assert slow.engine.counters().in_flight == 0
    assert slow.predict().status == "OK"


def test_requests_that_wait_too_long_are_refused(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, echo_model(), limits=Limits(max_wait_us=1)))
    call = bench.channel.unary_unary(PREDICT)
    refused = None
    end = time.monotonic() + BOUND_S
    while refused is None and time.monotonic() < end:
        futures = [call.future(predict([1, 2, 3]), timeout=BOUND_S) for _ in range(8)]
        refused = next((seen for seen in map(outcome, futures) if seen.status != "OK"), None)
    assert refused is not None
    assert (refused.status, refused.reason, refused.executed) == ("RESOURCE_EXHAUSTED", "OVERLOADED", "0")
    assert refused.text.startswith("requests wait ")
    assert refused.text.endswith(" us, the bound of model 'echo' is 1 us")


def test_cancelled_requests_leave_nothing_in_flight(slow: Bench) -> None:
    call = slow.channel.unary_unary(PREDICT)
    for future in [call.future(SLOW, timeout=BOUND_S) for _ in range(4)]:
        future.cancel()
    wait_until_idle(slow)
    assert slow.predict().status == "OK"


def test_request_ids_are_drawn_and_never_twice(slow: Bench) -> None:
    drawn = {slow.predict().message.request_id for _ in range(20)}
    assert len(drawn) == 20
    assert all(0 < len(request_id) <= 64 for request_id in drawn)


def passed_while_it_ran(call: Callable[[], Outcome]) -> Outcome:
    """Calls until the deadline lets the run begin: on a busy machine it can pass before that, which is said too."""
    end = time.monotonic() + BOUND_S
    while True:
        seen = call()
        assert (seen.status, seen.reason) == ("DEADLINE_EXCEEDED", "DEADLINE")
        if seen.executed == "1" or time.monotonic() > end:
            assert seen.executed == "1"
            return seen
        assert seen.text == "the deadline passed before the model ran"


def wait_until_idle(bench: Bench) -> None:
    end = time.monotonic() + BOUND_S
    while bench.engine.counters().in_flight and time.monotonic() < end:
        bench.predict()
    assert bench.engine.counters().in_flight == 0
