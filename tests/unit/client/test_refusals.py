"""What a caller gets where there is no answer, and whether it may ask again. Both clients pass this."""

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc
import numpy as np
import pytest

from tests.unit.client.blocking import Connect
from tests.unit.client.scripted import Refusal, Script, ScriptedServer
from tickserve import Client, PredictionError, TickserveError
from tickserve.errors import (
    BY_REASON,
    Code,
    ConfigurationError,
    DeadlineError,
    OverloadedError,
    Reason,
    StatusError,
    UnreachableError,
)
from tickserve.wire import health_pb2

ROW = {"a": 1.0, "b": 2.0, "c": 3.0}
STATUS = {code.value[0]: code for code in grpc.StatusCode}


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize(("trailer", "executed"), [("0", False), ("1", True), (None, True)])
def test_each_reason_is_its_exception(
    client: Client, script: Script, reason: Reason, trailer: str | None, executed: bool
) -> None:
    kind = BY_REASON[reason]
    trailers = [("tickserve-reason", str(reason)), ("tickserve-field", "rsi%2014%C3%A9%25")]
    if trailer is not None:
        trailers.append(("tickserve-executed", trailer))
    client.get_model()
    script.refusals.extend([Refusal(STATUS[kind.code], "so it is: é", tuple(trailers))] * 2)
    with pytest.raises(kind) as caught:
        client.predict(ROW, request_id="r-7")
    error = caught.value
    assert type(error) is kind
    assert (error.message, str(error)) == ("so it is: é", "so it is: é")
    assert (error.field, error.request_id, error.executed) == ("rsi 14é%", "r-7", executed)


@pytest.mark.parametrize("code", set(Code) - {Code.OK, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})
def test_a_status_without_a_reason_keeps_its_code(client: Client, script: Script, code: Code) -> None:
    script.refusals.append(Refusal(STATUS[code], "because"))
    with pytest.raises(StatusError, match="because") as caught:
        client.predict(ROW)
    assert caught.value.code is code
    assert caught.value.executed


def test_an_unknown_reason_is_a_status(client: Client, script: Script) -> None:
    script.refusals.append(Refusal(grpc.StatusCode.ABORTED, "later", (("tickserve-reason", "MOON_PHASE"),)))
    with pytest.raises(StatusError, match="later"):
        client.predict(ROW)


def test_every_error_is_a_tickserve_error_and_a_refusal_a_prediction_error() -> None:
    assert issubclass(UnreachableError, TickserveError)
    assert issubclass(OverloadedError, PredictionError)
    assert not issubclass(UnreachableError, PredictionError)


def test_a_late_answer_is_a_deadline_error_that_may_have_run(client: Client, script: Script) -> None:
    client.get_model()
    script.gate.clear()
    with pytest.raises(DeadlineError) as caught:
        client.predict(ROW, timeout_s=1.0, request_id="late")
    assert (caught.value.executed, caught.value.request_id) == (True, "late")


def test_a_late_description_is_a_deadline_error_that_ran_nothing(client: Client, script: Script) -> None:
    script.gate.clear()
    with pytest.raises(DeadlineError) as caught:
        client.predict(np.zeros(3, np.float32), timeout_s=0.2)
    assert not caught.value.executed
    assert script.requests == []


def test_every_call_has_a_deadline(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.address, model="m", timeout_s=30.0) as client:
        client.predict(ROW)
        client.predict(ROW, timeout_s=10.0)
    by_client, by_call = server.script.seconds_left
    # The wire rounds a deadline up by some percent.
    assert by_client < 33.0
    assert by_call < 11.0


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, and on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_no_server_is_unreachable_and_nothing_ran(closed_port: int, connect: Connect) -> None:
    address = f"127.0.0.1:{closed_port}"
    with (
        connect(address, model="m", check_features=False, timeout_s=10.0) as client,
        pytest.raises(UnreachableError, match="no server answered") as caught,
    ):
        client.predict(np.zeros(3, np.float32))
    assert address in caught.value.message
    assert not caught.value.executed
    assert caught.value.code is Code.UNAVAILABLE


def test_an_unknown_host_is_unreachable_and_nothing_ran(connect: Connect) -> None:
    with (
        connect("no-such-host.invalid:1", model="m", check_features=False, timeout_s=20.0) as client,
        pytest.raises(UnreachableError, match=r"no-such-host\.invalid") as caught,
    ):
        client.predict(np.zeros(3, np.float32))
    assert not caught.value.executed


@pytest.fixture
def dropping_port(transport: str) -> Iterator[int]:
    """Speaks enough HTTP/2 to take one whole request over a transport that is here, then breaks the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_take_one_request_and_drop, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def _take_one_request_and_drop(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        connection.sendall(bytes.fromhex("000000 04 00 00000000"))
        stream.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        while True:
            head = stream.read(9)
            stream.read(int.from_bytes(head[:3]))
            is_data, is_end = head[3] == 0, head[4] & 1
            if is_data and is_end:
                break
        # With a pending linger of zero the close is a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_connection_that_breaks_after_the_request_may_have_run(dropping_port: int, connect: Connect) -> None:
    with (
        connect(f"127.0.0.1:{dropping_port}", model="m", check_features=False, timeout_s=20.0) as client,
        pytest.raises(UnreachableError, match="broke before an answer") as caught,
    ):
        client.predict(np.zeros(3, np.float32))
    assert caught.value.executed


def test_a_closed_client_says_so(client: Client) -> None:
    client.predict(ROW)
    client.close()
    client.close()
    with pytest.raises(StatusError, match="the client is closed") as caught:
        client.predict(ROW)
    assert (caught.value.code, caught.value.executed) == (Code.CANCELLED, False)


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "localhost:",
        ":80",
        "localhost:0",
        "localhost:65536",
        "http://localhost:80",
        "a b:1",
        "unix:",
        "unix:/" + "x" * 107,
    ],
)
def test_an_address_that_is_none_is_refused_at_once(address: str, connect: Connect) -> None:
    with pytest.raises(ConfigurationError) as caught:
        connect(address)
    assert caught.value.field == "address"
    assert repr(address) in caught.value.message


def test_a_timeout_that_is_none_is_refused_at_once(connect: Connect) -> None:
    for timeout_s in (0, -1, float("inf"), None):
        with pytest.raises(ConfigurationError, match="timeout_s"):
            connect("localhost:1", timeout_s=timeout_s)  # type: ignore[arg-type]


def test_wait_ready_returns_once_the_server_is_ready(client: Client, script: Script) -> None:
    states = health_pb2.HealthCheckResponse
    script.health.extend([states.NOT_SERVING, states.NOT_SERVING, states.SERVING])
    client.wait_ready(timeout_s=20.0)
    assert list(script.health) == [states.SERVING]


def test_a_server_that_starts_later_is_found(tmp_path: Path, connect: Connect) -> None:
    address = f"unix:{tmp_path / 's'}"
    with connect(address, model="m", timeout_s=20.0) as client:
        with pytest.raises(UnreachableError):
            client.predict(ROW)
        server = ScriptedServer(address)
        server.script.health.append(health_pb2.HealthCheckResponse.SERVING)
        client.wait_ready(timeout_s=20.0)
        assert client.predict(ROW).model == "m"
        server.stop()


def test_wait_ready_gives_up(client: Client, script: Script, closed_port: int, connect: Connect) -> None:
    script.health.append(health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(DeadlineError, match="answers, but was not ready within"):
        client.wait_ready(timeout_s=0.2)
    with (
        connect(f"127.0.0.1:{closed_port}") as nowhere,
        pytest.raises(UnreachableError, match="no server answered"),
    ):
        nowhere.wait_ready(timeout_s=0.3)


@pytest.mark.parametrize("name", ["a b", "a?b#c", "a%20b", "é%"])
def test_a_socket_is_found_under_any_name(tmp_path: Path, connect: Connect, name: str) -> None:
    # grpc's own server reads a URI, as its client does.
    server = ScriptedServer(f"unix:{quote(str(tmp_path / name))}")
    try:
        with connect(f"unix:{tmp_path / name}", model="m", timeout_s=20.0) as client:
            assert client.predict(ROW).rows == 1
    finally:
        server.stop()
