"""Whatever bytes a client sends, to whichever method: a status, never a traceback, and nothing left behind."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.conformance.case import TIMEOUT_S
from tests.conformance.cases import datatypes, describing, infer, parameters, predict, reflection
from tests.conformance.cases.echo import ECHO, ON_ECHO
from tests.conformance.cases.health import CHECK, WATCH
from tests.conformance.cases.streams import predict_message
from tests.conformance.conftest import ENGINES
from tests.conformance.mutations import Edit, edit_lists, fields, mutated
from tests.conformance.process import descriptors, resident_bytes
from tests.conformance.requests import INFER, INFER_STREAM, PREDICT_STREAM, typed
from tests.conformance.requests import infer as infer_request
from tests.conformance.running import Server
from tests.conformance.served import one

#: Statuses that a request may meet whatever its bytes are.
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
#: Requests that share one run of Hypothesis: it remembers each of a run, which would look like a leak of the server.
ROUND = 500
#: An engine that keeps nothing grows by 1 to 2 MB here, however many messages it gets.
MOST_GROWTH_BYTES = 4 << 20
SERVED = one(ECHO, datatypes.VERSIONS["BYTES"], datatypes.VERSIONS["BOOL"], name="mutated")


@dataclass(frozen=True)
class Seed:
    """A valid message of a method. To a stream it is sent between two more that are left as they are."""

    method: str
    message: bytes

    @property
    def is_stream(self) -> bool:
        return self.method in (PREDICT_STREAM, INFER_STREAM) or self.method.endswith("ServerReflectionInfo")


def _seeds() -> Iterator[Seed]:
    calls = [*infer.ANSWERS, *parameters.ANSWERS, *predict.ANSWERS, *describing.SERVER, *describing.MODELS]
    calls += [*describing.PREDICTION, *describing.REPOSITORY]
    for case in calls:
        if case.served == ON_ECHO:
            yield from (Seed(case.method, message) for message in case.messages if message)
    for held in datatypes.DATATYPES:
        if held.datatype in ("BYTES", "BOOL"):
            values = [[each.encode() if isinstance(each, str) else each for each in held.edges]]
            sent = typed(values, held.datatype, held.contents)
            yield Seed(INFER, infer_request(sent, model=held.model))
    for case in infer.ANSWERS:
        yield from (Seed(INFER_STREAM, message) for message in case.messages)
    for case in predict.ANSWERS:
        yield from (Seed(PREDICT_STREAM, predict_message(7, message)) for message in case.messages)
    for method in (CHECK, WATCH):
        yield Seed(method, b"\x0a\x1ainference.GRPCInferenceService")
    for version in reflection.VERSIONS:
        for request, _ in reflection.QUESTIONS.values():
            yield Seed(f"/{version}/ServerReflectionInfo", request.SerializeToString())


SEEDS = tuple(_seeds())
METHODS = sorted({each.method for each in SEEDS})
_BY_METHOD = {method: [each for each in SEEDS if each.method == method] for method in METHODS}
_MOST = max(map(len, _BY_METHOD.values()))
#: Every method as often as any other, however many seeds it has.
_EVENLY = [found[number % len(found)] for number in range(_MOST) for found in _BY_METHOD.values()]


@pytest.fixture
def server(engine_name: str, tmp_path: Path) -> Iterator[Server]:
    running = Server(ENGINES[engine_name](), SERVED, tmp_path)
    yield running
    running.stop()


def send(channel: grpc.Channel, sent: Seed, message: bytes) -> tuple[str, str]:
    """Sends the message in place of the seed's own and reads to the end, or once where there is none."""
    if sent.is_stream:
        messages = iter((sent.message, message, sent.message))
        call = channel.stream_stream(sent.method)(messages, timeout=TIMEOUT_S)
    else:
        call = channel.unary_stream(sent.method)(message, timeout=TIMEOUT_S)
    try:
        for _ in call:
            if sent.method == WATCH:
                call.cancel()
                return "OK", ""
    except grpc.RpcError:
        pass
    status = call.code().name
    if status == "DEADLINE_EXCEEDED" and "tickserve-reason" not in dict(call.trailing_metadata() or ()):
        # The client's own clock ended it: the server said nothing.
        status = "NO ANSWER"
    return status, call.details() or ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.integration)])
def test_mutated_messages_always_get_a_status_and_leave_nothing(
    server: Server, count: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    statuses: dict[str, set[str]] = {method: set() for method in METHODS}
    sent_count, rounds = 0, count // ROUND

    def round_of(number: int) -> None:
        @seed(number)
        @settings(max_examples=ROUND, database=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(_EVENLY), st.sampled_from(SEEDS), edit_lists())
        def check(sent: Seed, other: Seed, edits: list[Edit]) -> None:
            nonlocal sent_count
            sent_count += 1
            status, text = send(server.channel, sent, mutated(sent.message, other.message, edits))
            statuses[sent.method].add(status)
            assert status in ALLOWED, text
            assert "Traceback" not in text
            assert server.engine.take_faults() == []

        check()

    with caplog.at_level(logging.WARNING):
        # Heaps settle in the first half; what is kept for each request grows on in the second.
        for number in range(rounds // 2):
            round_of(number)
        memory, files = resident_bytes(), descriptors()
        for number in range(rounds // 2, rounds):
            round_of(number)
        grown = resident_bytes() - memory
    assert sent_count >= count
    assert all("INVALID_ARGUMENT" in seen for seen in statuses.values()), statuses
    assert "OK" in set().union(*statuses.values())
    assert grown < MOST_GROWTH_BYTES
    assert descriptors() <= files + 2
    counters = server.engine.counters()
    assert (counters.faults, counters.in_flight) == (0, 0)
    check_logs(caplog, capfd)
    assert send(server.channel, SEEDS[0], SEEDS[0].message) == ("OK", "")


def check_logs(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither the logs nor what a native library prints tell of a fault."""
    assert [record.getMessage() for record in caplog.records if record.name.startswith(("grpc", "asyncio"))] == []
    printed = "".join(capfd.readouterr())
    assert not any(word in printed for word in ("Traceback", "panicked", "Exception"))


def test_fields_are_found_at_any_depth() -> None:
    found = [*fields(b"\x0a\x04\x0a\x02\x08\x01\x10\x7f")]
    assert found == [(0, 1, 2, 6), (2, 3, 4, 6), (4, 5, 5, 6), (6, 7, 7, 8)]
