"""Several servers: who is asked, and that nothing breaks a call into two executions."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.waiting import until
from tests.unit.client.blocking import Connect
from tests.unit.client.cutting import CuttingProxy
from tests.unit.client.scripted import Refusal, ScriptedServer
from tickserve import Client, Request
from tickserve.client import failover
from tickserve.client.core import PREDICT
from tickserve.client.failover import Hedge
from tickserve.client.failover_sync import FailoverTransport
from tickserve.client.transport import CallError
from tickserve.errors import (
    Code,
    ConfigurationError,
    DeadlineError,
    DrainingError,
    HaltedError,
    InternalError,
    InvalidInputError,
    TickserveError,
    UnreachableError,
)
from tickserve.wire import health_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def refusal(reason: str, *, executed: bool = False, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Refusal:
    return Refusal(code, reason.lower(), (("tickserve-reason", reason), ("tickserve-executed", str(int(executed)))))


DRAINING, LOADING = refusal("DRAINING"), refusal("LOADING")
OVERLOADED = refusal("OVERLOADED", code=grpc.StatusCode.RESOURCE_EXHAUSTED)
HALTED = refusal("HALTED", code=grpc.StatusCode.FAILED_PRECONDITION)
INTERNAL = refusal("INTERNAL", executed=True, code=grpc.StatusCode.INTERNAL)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server is waited for: on a busy machine the second may be heard of long before it, and is asked."""
    monkeypatch.setattr(failover, "_PATIENCE_S", 60.0)
    monkeypatch.setattr("tickserve.client.failover_sync.STREAM_S", 60.0)
    monkeypatch.setattr("tickserve.client.failover_aio.STREAM_S", 60.0)


@pytest.fixture
def pair() -> Iterator[tuple[ScriptedServer, ScriptedServer]]:
    servers = ScriptedServer(), ScriptedServer()
    yield servers
    for server in servers:
        server.stop()


Pair = tuple[ScriptedServer, ScriptedServer]
Open = Callable[..., Client]


@pytest.fixture
def open_client(connect: Connect, pair: Pair) -> Iterator[Open]:
    """Makes clients of both servers, or of other addresses; closed at the end."""
    made: list[Client] = []

    def make(*addresses: str, **options: Any) -> Client:
        given = list(addresses) or [server.address for server in pair]
        made.append(connect(given, **({"model": "m", "timeout_s": 20.0} | options)))
        return made[-1]

    yield make
    for client in made:
        client.close()


def executions(*servers: ScriptedServer) -> Counter[str]:
    """How often each request was executed, by its id."""
    return Counter(request.request_id for server in servers for request in server.script.requests)


def failure(asked: Any, request_id: str) -> TickserveError | None:
    """Asks a client or a stream; the error, where it is not answered."""
    try:
        assert asked.predict([1, 2, 3], request_id=request_id).request_id == request_id
    except TickserveError as error:
        return error
    return None


def test_the_first_healthy_server_is_asked(open_client: Open, pair: Pair) -> None:
    client, (first, second) = open_client(), pair
    for _ in range(3):
        client.predict([1, 2, 3])
    assert [len(first.script.requests), len(second.script.requests)] == [3, 0]


def test_a_server_that_is_not_serving_is_left_out_until_it_serves(open_client: Open, pair: Pair) -> None:
    first, second = pair
    first.script.health.append(NOT_SERVING)
    client = open_client()
    client.predict([1, 2, 3])
    assert [len(first.script.requests), len(second.script.requests)] == [0, 1]
    first.script.health.append(SERVING)
    until(lambda: client.predict([1, 2, 3]) is not None and len(first.script.requests) > 0)


@pytest.mark.parametrize("refused", [DRAINING, LOADING, OVERLOADED], ids=lambda each: each.message)
def test_what_the_server_did_not_execute_goes_to_another(open_client: Open, pair: Pair, refused: Refusal) -> None:
    first, second = pair
    first.script.refusals.append(refused)
    answer = open_client().predict([1, 2, 3], request_id="r")
    assert answer.values.tolist() == [[1, 2, 3]]
    assert [each.request_id for each in second.script.requests] == ["r"]


@pytest.mark.parametrize(("refused", "error"), [(HALTED, HaltedError), (INTERNAL, InternalError)])
def test_what_is_no_matter_of_the_server_or_was_executed_goes_nowhere_else(
    open_client: Open, pair: Pair, refused: Refusal, error: type[TickserveError]
) -> None:
    first, second = pair
    first.script.refusals.append(refused)
    with pytest.raises(error) as raised:
        open_client().predict([1, 2, 3])
    assert raised.value.executed is (error is InternalError)
    assert second.script.requests == []


def test_an_unavailable_that_does_not_say_executed_goes_nowhere_else(open_client: Open, pair: Pair) -> None:
    first, second = pair
    first.script.refusals.append(Refusal(grpc.StatusCode.UNAVAILABLE, "who knows"))
    with pytest.raises(UnreachableError) as raised:
        open_client().predict([1, 2, 3])
    assert raised.value.executed
    assert second.script.requests == []


def test_each_server_is_asked_once_and_the_last_refusal_tells_of_all(open_client: Open, pair: Pair) -> None:
    for server in pair:
        server.script.refusals.extend([DRAINING, DRAINING])
    with pytest.raises(DrainingError) as raised:
        open_client().predict([1, 2, 3])
    assert not raised.value.executed
    assert all(server.address in str(raised.value) for server in pair)
    assert [len(server.script.refusals) for server in pair] == [1, 1]


def test_a_silent_server_costs_its_deadline_once_and_then_the_other_is_asked(open_client: Open, pair: Pair) -> None:
    first, second = pair
    client = open_client()
    client.get_model()
    first.script.gate.clear()
    with pytest.raises(DeadlineError) as raised:
        client.predict([1, 2, 3], timeout_s=1.0)
    assert raised.value.executed
    assert client.predict([1, 2, 3]).rows == 1
    assert len(second.script.requests) == 1


def test_the_deadline_covers_all_attempts(open_client: Open, pair: Pair) -> None:
    first, second = pair
    first.script.refusals.append(DRAINING)
    client = open_client(timeout_s=15.0)
    client.get_model()
    asked = len(first.script.seconds_left)
    first.script.gate.clear()
    held_s = 0.3

    def let_go() -> None:
        until(lambda: len(first.script.seconds_left) > asked)
        time.sleep(held_s)
        first.script.gate.set()

    threading.Thread(target=let_go).start()
    client.predict([1, 2, 3])
    # Half of what the first one held it for: servers see a deadline rounded, each on its way.
    assert second.script.seconds_left[-1] <= first.script.seconds_left[-1] - held_s / 2


def test_nobody_there_is_said_and_nothing_was_executed(open_client: Open, pair: Pair) -> None:
    for server in pair:
        server.stop()
    with pytest.raises(UnreachableError) as raised:
        open_client().predict([1, 2, 3])
    assert not raised.value.executed


def test_a_server_that_comes_back_is_asked_again(open_client: Open, pair: Pair) -> None:
    first, second = pair
    client = open_client()
    client.predict([1, 2, 3])
    first.stop()
    # A write into a connection that is just ending is a doubt.
    error = failure(client, "after")
    assert error is None or error.executed
    until(lambda: failure(client, "again") is None and len(second.script.requests) > 0)
    again = ScriptedServer(first.address)
    try:
        until(lambda: client.predict([1, 2, 3]) is not None and len(again.script.requests) > 0)
    finally:
        again.stop()


@pytest.mark.parametrize("when", ["before connecting", "before the call"])
def test_a_server_gone_before_the_call_costs_nothing(connect: Connect, pair: Pair, when: str) -> None:
    first, second = pair
    proxy = CuttingProxy(first.address)
    with connect([proxy.address, second.address], model="m", timeout_s=20.0) as client:
        if when == "before the call":
            client.predict([1, 2, 3], request_id="warm")
        proxy.close()
        # A write into a connection that is just ending is a doubt: the error says so, and the next call is fine.
        error = failure(client, "after")
        assert error is None or error.executed
        client.predict([1, 2, 3], request_id="last")
    assert max(executions(first, second).values()) == 1
    assert second.script.requests[-1].request_id == "last"


def test_hedging_is_refused_unless_it_is_said_that_both_may_execute(connect: Connect) -> None:
    two = ["127.0.0.1:1", "127.0.0.1:2"]
    for addresses, options, text in [
        (two, {"hedge_after_s": 0.01}, "may_execute_twice=True"),
        (two, {"hedge_after_s": 0.0, "may_execute_twice": True}, "above 0"),
        (two, {"may_execute_twice": True}, "only with hedge_after_s"),
        ("127.0.0.1:1", {"hedge_after_s": 0.01, "may_execute_twice": True}, "two addresses"),
    ]:
        with pytest.raises(ConfigurationError, match=text):
            connect(addresses, **options)  # type: ignore[arg-type]


def test_a_hedge_takes_the_first_answer(open_client: Open, pair: Pair) -> None:
    first, second = pair
    client = open_client(hedge_after_s=0.05, may_execute_twice=True)
    client.get_model()
    first.script.gate.clear()
    assert client.predict([1, 2, 3], request_id="r").values.tolist() == [[1, 2, 3]]
    assert [each.request_id for each in second.script.requests] == ["r"]
    first.script.gate.set()


def test_a_hedge_that_fails_twice_says_executed_where_either_may_have(open_client: Open, pair: Pair) -> None:
    first, second = pair
    client = open_client(hedge_after_s=0.05, may_execute_twice=True)
    client.get_model()
    first.script.gate.clear()
    second.script.refusals.append(INTERNAL)
    with pytest.raises((InternalError, DeadlineError)) as raised:
        client.predict([1, 2, 3], timeout_s=3.0)
    assert raised.value.executed


class Stuck:
    """A transport to a server that answers nothing; keeps how long each prediction might take."""

    def __init__(self) -> None:
        self.left_s: list[float] = []

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        self.left_s.append(timeout_s)
        threading.Event().wait(timeout_s)
        raise CallError(Code.DEADLINE_EXCEEDED, "late")

    def stream(self, method: str) -> Any:
        raise CallError(Code.UNIMPLEMENTED, "no such service")

    def close(self) -> None:
        """Nothing to close."""


def test_a_hedged_call_that_waits_for_a_thread_has_the_deadline_that_it_came_with() -> None:
    stuck, timeout_s = Stuck(), 5.0
    transport = FailoverTransport(["a:1", "b:1"], None, lambda address, tls: stuck, Hedge(0.01))
    with ThreadPoolExecutor(40) as callers:
        calls = [callers.submit(transport.call, PREDICT, b"", timeout_s) for _ in range(40)]
        assert {type(each.exception()) for each in calls} == {CallError}
    transport.close()
    first, later = stuck.left_s[:32], stuck.left_s[32:]
    assert len(first) == 32
    assert all(left_s < 0.75 * timeout_s for left_s in later), later


def test_two_calls_of_a_hedge_that_begin_at_once_go_to_two_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the thread of the first one is held up until the second one is sent."""
    servers, together, choose = {"a:1": Stuck(), "b:1": Stuck()}, threading.Barrier(2), failover.Endpoints.next

    def choose_together(endpoints: failover.Endpoints, tried: set[int]) -> int | None:
        index = choose(endpoints, tried)
        if threading.current_thread().name.startswith("tickserve-hedge"):
            with suppress(threading.BrokenBarrierError):
                together.wait(0.5)
        return index

    monkeypatch.setattr(failover.Endpoints, "next", choose_together)
    transport = FailoverTransport(list(servers), None, lambda address, tls: servers[address], Hedge(0.01))
    with pytest.raises(CallError):
        transport.call(PREDICT, b"", 3.0)
    transport.close()
    assert [len(server.left_s) for server in servers.values()] == [1, 1]


@pytest.mark.parametrize("half", [1, 2])
def test_a_hedge_that_is_closed_by_another_thread_is_an_error_of_a_call(half: int) -> None:
    class Closed(ThreadPoolExecutor):
        """As if it were closed just before this half of a call."""

        halves = 0

        def submit(self, *arguments: Any, **named: Any) -> Any:
            self.halves += 1
            if self.halves == half:
                transport._closed.set()
                self.shutdown(wait=False)
            return super().submit(*arguments, **named)

    transport = FailoverTransport(["a:1", "b:1"], None, lambda address, tls: Stuck(), Hedge(0.01))
    transport._hedging = Closed(2)
    with pytest.raises(CallError) as failed:
        transport.call(PREDICT, b"", 1.0)
    # Nothing of the call went out, or its first half did.
    assert failed.value.never_left is (half == 1)
    transport.close()


@pytest.mark.parametrize("addresses", [[], ["127.0.0.1:1", "127.0.0.1:1"], ["127.0.0.1:1", "nowhere"]])
def test_addresses_are_one_or_several_different_ones(connect: Connect, addresses: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        connect(addresses)  # type: ignore[arg-type]
    assert raised.value.field == "address"


def test_a_default_stands_for_an_answer_and_says_why(open_client: Open, pair: Pair) -> None:
    first, _ = pair
    client = open_client()
    assert not client.predict([1, 2, 3], default=0.5).is_default
    first.script.refusals.append(HALTED)
    answer = client.predict([[1, 2, 3], [4, 5, 6]], default=0.25, request_id="r")
    assert answer.is_default
    assert isinstance(answer.default_because, HaltedError)
    assert answer.default_because.request_id == answer.request_id == "r"
    assert answer.signal is not None
    np.testing.assert_array_equal(answer.signal, [0.25, 0.25])
    assert (answer.rows, answer.position_scale, answer.version, answer.digest) == (2, 0.0, "", "")
    named = client.predict([{"a": 1, "b": 2, "moon": 3}], default=0.0)
    assert isinstance(named.default_because, InvalidInputError)
    for server in pair:
        server.stop()
    assert isinstance(client.predict([1, 2, 3], default=0.0).default_because, TickserveError)


@pytest.mark.parametrize("options", [{"request_id": "x" * 65}, {"default": "flat"}, {"timeout_s": -1.0}])
def test_a_default_does_not_hide_what_is_wrong_at_any_server(open_client: Open, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        open_client().predict([1, 2, 3], **({"default": 0.0} | options))
    with pytest.raises(InvalidInputError):
        open_client().predict("nonsense", default=0.0)


def test_a_stream_stays_with_its_server_and_what_it_did_not_execute_goes_elsewhere(
    open_client: Open, pair: Pair
) -> None:
    first, second = pair
    first.script.stream_ends[3] = DRAINING
    client = open_client()
    requests = [Request([1, 2, number], request_id=f"r{number}") for number in range(6)]
    results = list(client.predict_many(requests, window=2))
    assert [result.request_id for result in results] == [f"r{number}" for number in range(6)]
    assert not any(isinstance(result, TickserveError) for result in results)
    assert executions(first, second) == {f"r{number}": 1 for number in range(6)}


def test_a_stream_whose_connection_breaks_leaves_what_was_under_way_in_doubt(connect: Connect, pair: Pair) -> None:
    first, second = pair
    proxy = CuttingProxy(first.address)
    with connect([proxy.address, second.address], model="m", timeout_s=20.0) as client, client.stream() as stream:
        stream.predict([1, 2, 3], request_id="before")
        first.script.gate.clear()
        proxy.arm("down", 0)
        first.script.gate.set()
        error = failure(stream, "under way")
        assert error is not None
        assert error.executed
        assert stream.predict([1, 2, 3], request_id="after").rows == 1
    assert [each.request_id for each in second.script.requests] == ["after"]
    proxy.close()
