"""Streams: whose answer is whose, what a refusal costs, what the end of a stream means. Both clients pass this."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from tests.unit.client.blocking import Connect, Loop
from tests.unit.client.scripted import DIGEST, Refusal, Script, ScriptedServer, describe
from tickserve import Client, Prediction, Request
from tickserve.errors import (
    BY_REASON,
    Code,
    DeadlineError,
    DrainingError,
    FeaturesChangedError,
    HaltedError,
    InternalError,
    InvalidInputError,
    Reason,
    StatusError,
    TickserveError,
    UnreachableError,
)
from tickserve.v1 import prediction_pb2 as pb

ROW = {"c": 3.0, "a": 1.0, "b": 2.0}
STATUS = {code.value[0]: code for code in grpc.StatusCode}
HALTED = Refusal(
    grpc.StatusCode.FAILED_PRECONDITION, "no", (("tickserve-reason", "HALTED"), ("tickserve-executed", "0"))
)
DRAINING = Refusal(
    grpc.StatusCode.UNAVAILABLE, "going", (("tickserve-reason", "DRAINING"), ("tickserve-executed", "0"))
)


def rows(count: int) -> list[dict[str, float]]:
    return [{"a": float(row), "b": 0.0, "c": 0.0} for row in range(count)]


def numbers(results: list[Prediction | TickserveError]) -> list[float | str]:
    """The first value of each answer, and the kind of each error."""
    return [float(r.values[0, 0]) if isinstance(r, Prediction) else type(r).__name__ for r in results]


def wait_until(condition: Callable[[], bool]) -> None:
    """Fails where it stays false for 20 seconds."""
    waiting = threading.Event()
    for _ in range(2000):
        if condition():
            return
        waiting.wait(0.01)
    pytest.fail("the condition stayed false")


def has_no_stream(script: Script) -> bool:
    return not any(context.is_active() for context in script.streams)


def threads() -> set[threading.Thread]:
    """All but those that stay: the server's pool, and the one of grpc that serves every event loop."""
    staying = ("ThreadPoolExecutor", "_poll_wrapper")
    return {thread for thread in threading.enumerate() if not any(name in thread.name for name in staying)}


@pytest.fixture(autouse=True)
def _nothing_is_left(loop: Loop, script: Script) -> Iterator[None]:
    """Every test leaves no stream, thread or task behind, however its stream ended."""
    before = threads()
    yield
    script.gate.set()
    wait_until(lambda: has_no_stream(script))
    wait_until(lambda: threads() <= before)
    wait_until(lambda: loop.tasks() == 0)


def test_a_request_on_a_stream_is_the_same_as_alone(client: Client, script: Script) -> None:
    options = {"request_id": "r-1", "routing_key": "k", "entities": ["X"], "version": "3", "event_time": 5}
    alone = client.predict(ROW, **options)  # type: ignore[arg-type]
    with client.stream() as stream:
        streamed = stream.predict(ROW, **options)  # type: ignore[arg-type]
    assert streamed.values.tolist() == alone.values.tolist()
    assert streamed.named_values.keys() == alone.named_values.keys()
    assert (streamed.digest, streamed.request_id) == (alone.digest, "r-1")
    by_call, by_stream = script.requests
    assert by_stream.timeout_us
    by_stream.ClearField("timeout_us")
    assert by_call == by_stream


def test_many_requests_share_one_call(client: Client, script: Script) -> None:
    with client.stream() as stream:
        assert [stream.predict(row).values[0, 0] for row in rows(50)] == list(range(50))
    assert len(script.streams) == 1
    assert len(script.described) == 1


def test_a_stream_has_defaults_of_its_own(client: Client, script: Script) -> None:
    script.models["n"] = describe(model="n")
    with client.stream(model="n", timeout_s=5.0) as stream:
        assert stream.predict(ROW).model == "n"
        assert stream.predict(ROW, model="m", timeout_s=0.5).model == "m"
    by_stream, by_request = (request.timeout_us for request in script.requests)
    assert 4_000_000 < by_stream <= 5_000_000
    assert 0 < by_request <= 500_000


def test_every_message_of_a_stream_has_a_deadline(client: Client, script: Script) -> None:
    with client.stream() as stream:
        stream.predict(ROW)
    assert 0 < script.requests[0].timeout_us <= 20_000_000


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("executed", [False, True])
def test_each_reason_is_its_exception_and_the_stream_goes_on(
    client: Client, script: Script, reason: Reason, executed: bool
) -> None:
    kind = BY_REASON[reason]
    trailers = (
        ("tickserve-reason", str(reason)),
        ("tickserve-executed", str(int(executed))),
        ("tickserve-field", "rsi%2014%C3%A9%25"),
    )
    with client.stream() as stream:
        stream.predict(ROW)
        script.refusals.extend([Refusal(STATUS[kind.code], "so it is: é", trailers)] * 2)
        with pytest.raises(kind) as caught:
            stream.predict(ROW, request_id="r-7")
        script.refusals.clear()
        assert stream.predict(ROW).rows == 1
    error = caught.value
    assert (type(error), error.message) == (kind, "so it is: é")
    assert (error.field, error.request_id, error.executed) == ("rsi 14é%", "r-7", executed)
    assert len(script.streams) == 1


@pytest.mark.parametrize("code", [2, 13, 99])
def test_an_error_without_a_reason_keeps_its_code(client: Client, script: Script, code: int) -> None:
    def edit(response: pb.PredictStreamResponse) -> None:
        response.error.CopyFrom(pb.Error(code=code, message="because", reason=99, executed=True))  # type: ignore[arg-type]

    script.stream_edit = edit
    with client.stream() as stream, pytest.raises(StatusError, match="because") as caught:
        stream.predict(ROW)
    assert caught.value.code == (code if code in set(Code) else Code.UNKNOWN)
    assert caught.value.executed


def test_names_follow_a_model_that_changes_its_order(client: Client, script: Script) -> None:
    with client.stream() as stream:
        stream.predict(ROW)
        script.models["m"] = describe(("c", "b", "a"), version="2", digest=DIGEST[::-1])
        prediction = stream.predict(ROW)
    assert list(script.requests[-1].features) == [3, 2, 1]
    assert prediction.version == "2"


def test_arrays_never_follow_a_model_that_changes_its_order(client: Client, script: Script) -> None:
    with client.stream() as stream:
        stream.predict(np.zeros(3, np.float32))
        script.models["m"] = describe(("c", "b", "a"))
        with pytest.raises(FeaturesChangedError, match="make a new one"):
            stream.predict(np.zeros(3, np.float32))


def test_threads_share_a_stream_and_get_their_own_answers(client: Client) -> None:
    start = threading.Barrier(8)
    with client.stream(window=3) as stream:

        def ask(thread: int) -> list[list[float]]:
            start.wait()
            return [stream.predict({"a": thread, "b": call, "c": 0.0}).values[0].tolist() for call in range(25)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == [[[thread, call, 0] for call in range(25)] for thread in range(8)]


@pytest.mark.parametrize("window", [1, 2, 7, 64])
def test_many_results_come_in_order_one_a_request(client: Client, script: Script, window: int) -> None:
    assert numbers(list(client.predict_many(rows(40), window=window))) == list(range(40))
    assert [request.features[0] for request in script.requests] == list(range(40))
    assert len(script.streams) == 1


def test_many_go_out_before_the_first_answer_but_no_more_than_the_window(client: Client, script: Script) -> None:
    taken: list[int] = []

    def requests() -> Iterator[dict[str, float]]:
        for number, row in enumerate(rows(20)):
            taken.append(number)
            if number == 4:
                # The window is full with this one, though not one answer has come.
                script.gate.set()
            yield row

    client.get_model()
    script.gate.clear()
    results = client.predict_many(requests(), window=5)
    assert next(results).values[0, 0] == 0.0  # type: ignore[union-attr]
    assert taken == [0, 1, 2, 3, 4]
    assert numbers(list(results)) == list(range(1, 20))


def test_requests_of_many_may_bring_what_single_ones_bring(client: Client, script: Script) -> None:
    script.models["n"] = describe(model="n")
    requests = [Request(ROW, model="n", request_id="r-0", entities="X"), ROW, [ROW, ROW], np.zeros(3, np.float32)]
    results = list(client.predict_many(requests, timeout_s=5.0))
    assert [(result.model, result.rows) for result in results if isinstance(result, Prediction)] == [
        ("n", 1),
        ("m", 1),
        ("m", 2),
        ("m", 1),
    ]
    assert results[0].request_id == "r-0"
    assert list(script.requests[0].entities) == ["X"]
    assert max(request.timeout_us for request in script.requests) <= 5_000_000


def test_errors_of_many_come_in_their_places(client: Client, script: Script) -> None:
    script.refusals.append(HALTED)
    requests = [ROW, {"z": 1.0}, Request(ROW, request_id="x" * 65), ROW]
    results = list(client.predict_many(requests))
    assert numbers(results) == ["HaltedError", "NamesDifferError", "InvalidInputError", 1.0]
    assert isinstance(results[0], HaltedError)
    assert not results[0].executed


def test_many_of_none_is_none(client: Client) -> None:
    assert list(client.predict_many([])) == []


def test_an_order_that_changes_amid_many_is_followed(client: Client, script: Script) -> None:
    client.get_model()
    script.models["m"] = describe(("c", "b", "a"), version="2", digest=DIGEST[::-1])
    results = list(client.predict_many([ROW] * 10, window=5))
    assert numbers(results) == [3.0] * 10


def test_a_draining_server_answers_what_it_began_and_says_so_to_the_rest(client: Client, script: Script) -> None:
    script.stream_ends[3] = DRAINING
    with client.stream() as stream:
        assert numbers([stream.predict(ROW), stream.predict(ROW)]) == [1.0, 1.0]
        for _ in range(2):
            with pytest.raises(DrainingError, match="going") as caught:
                stream.predict(ROW, request_id="r-3")
            assert (caught.value.executed, caught.value.request_id) == (False, "r-3")
    assert len(script.requests) == 2


def test_a_stream_that_has_ended_holds_nothing_though_no_one_closes_it(client: Client, script: Script) -> None:
    script.stream_ends[1] = DRAINING
    stream = client.stream()
    with pytest.raises(DrainingError):
        stream.predict(ROW)


def test_a_draining_server_leaves_one_error_for_each_of_many(client: Client, script: Script) -> None:
    script.stream_ends[4] = DRAINING
    # Often, because a message that is sent just as the stream ends must not hide why it ended.
    for _ in range(20):
        results = list(client.predict_many(rows(10), window=4))
        assert numbers(results) == [0.0, 1.0, 2.0, *["DrainingError"] * 7]
        assert not any(result.executed for result in results if isinstance(result, TickserveError))


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (Refusal(grpc.StatusCode.UNAVAILABLE, "gone"), UnreachableError, "broke before an answer came"),
        (Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "too big"), StatusError, "too big"),
        (None, InternalError, "ended the stream"),
    ],
    ids=["gone", "status", "ok"],
)
def test_a_stream_that_ends_may_have_run_what_is_unanswered_and_nothing_after(
    client: Client, script: Script, end: Refusal | None, kind: type[TickserveError], words: str
) -> None:
    script.stream_ends[2] = end
    with client.stream() as stream:
        stream.predict(ROW)
        for executed in (True, False):
            with pytest.raises(kind, match=words) as caught:
                stream.predict(ROW)
            assert caught.value.executed is executed


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda response: setattr(response, "sequence", 7), "answered request 7 of the stream, where 1 was next"),
        (lambda response: response.ClearField("answer"), "answer to request 1 of the stream is empty"),
    ],
    ids=["sequence", "empty"],
)
def test_an_answer_that_can_be_no_ones_breaks_the_stream(
    client: Client, script: Script, edit: Callable[[pb.PredictStreamResponse], None], words: str
) -> None:
    script.stream_edit = edit
    with client.stream() as stream:
        with pytest.raises(InternalError, match=words) as caught:
            stream.predict(ROW)
        assert caught.value.executed
        with pytest.raises(InternalError):
            stream.predict(ROW)
        wait_until(lambda: has_no_stream(script))


def test_an_answer_that_contradicts_itself_concerns_one_request(client: Client, script: Script) -> None:
    script.edit = lambda answer: answer.values.append(1.0)
    with client.stream() as stream:
        with pytest.raises(InternalError, match="contradicts itself") as caught:
            stream.predict([ROW, ROW], request_id="r-1")
        assert (caught.value.executed, caught.value.request_id) == (True, "r-1")
        script.edit = lambda answer: None
        assert stream.predict(ROW).rows == 1


def test_a_late_answer_ends_the_waiting_and_not_the_stream(client: Client, script: Script) -> None:
    client.get_model()
    with client.stream() as stream:
        script.gate.clear()
        with pytest.raises(DeadlineError) as caught:
            stream.predict({**ROW, "a": 8.0}, timeout_s=1.0, request_id="late")
        assert (caught.value.executed, caught.value.request_id) == (True, "late")
        script.gate.set()
        assert stream.predict({**ROW, "a": 9.0}).values[0, 0] == 9.0


def test_a_server_that_stops_answering_is_not_fed_for_ever(client: Client, script: Script) -> None:
    client.get_model()
    with client.stream(window=2) as stream:
        script.gate.clear()
        for executed in (True, True, False, False):
            with pytest.raises(DeadlineError) as caught:
                stream.predict(ROW, timeout_s=0.4)
            assert caught.value.executed is executed
        script.gate.set()
        assert stream.predict(ROW).rows == 1
    assert len(script.requests) == 3


def test_a_window_without_room_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInputError, match="window is 0"):
        client.stream(window=0)


def test_many_that_are_left_half_way_leave_no_stream(client: Client, script: Script) -> None:
    results = client.predict_many(rows(1000), window=4)
    assert numbers([next(results), next(results)]) == [0.0, 1.0]
    results.close()  # type: ignore[attr-defined]
    wait_until(lambda: has_no_stream(script))
    assert len(script.requests) < 1000


def test_an_exception_of_the_callers_requests_reaches_the_caller_and_ends_the_stream(
    client: Client, script: Script
) -> None:
    def requests() -> Iterator[dict[str, float]]:
        yield from rows(3)
        raise LookupError("no more ticks")

    results = client.predict_many(requests(), window=2)
    assert next(results).values[0, 0] == 0.0  # type: ignore[union-attr]
    with pytest.raises(LookupError, match="no more ticks"):
        list(results)
    wait_until(lambda: has_no_stream(script))


def test_a_stream_that_is_closed_says_so(client: Client, script: Script) -> None:
    stream = client.stream()
    stream.predict(ROW)
    stream.close()
    stream.close()
    with pytest.raises(StatusError, match="the stream is closed; open a new one") as caught:
        stream.predict(ROW)
    assert (caught.value.code, caught.value.executed) == (Code.CANCELLED, False)
    assert len(script.requests) == 1


@pytest.mark.parametrize("what", ["stream", "client"])
def test_closing_amid_a_request_ends_the_waiting(client: Client, script: Script, what: str) -> None:
    client.get_model()
    stream = client.stream()
    script.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stream.predict, ROW)
        wait_until(lambda: len(script.requests) == 1)
        (stream if what == "stream" else client).close()
        with pytest.raises(StatusError) as caught:
            asked.result(60)
    assert (caught.value.code, caught.value.executed) == (Code.CANCELLED, True)
    wait_until(lambda: has_no_stream(script))
    stream.close()


def test_a_closed_client_begins_no_stream(client: Client) -> None:
    client.close()
    with pytest.raises(StatusError, match="the client is closed"):
        client.stream()


def test_no_server_is_unreachable_and_nothing_ran(connect: Connect) -> None:
    with connect("unix:/nowhere.sock", model="m", check_features=False, timeout_s=20.0) as client:
        for result in client.predict_many([np.zeros(3)] * 3):
            assert isinstance(result, UnreachableError)
            assert not result.executed


def test_a_server_that_is_killed_ends_the_stream(connect: Connect) -> None:
    server = ScriptedServer()
    with connect(server.address, model="m", timeout_s=20.0) as client, client.stream() as stream:
        stream.predict(ROW)
        server.stop()
        with pytest.raises(TickserveError):
            stream.predict(ROW)
