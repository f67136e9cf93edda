"""One client's bound is no other's: told apart by their certificates, else by their addresses."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conformance.conftest import Bench, outcome
from tests.conformance.requests import PREDICT, predict
from tests.conformance.running import OWN_CONNECTION
from tests.conformance.served import tensor
from tests.support.certificates import Authority, Signed
from tests.support.models import echo_model, version_plan, working_model
from tickserve.listening.tls import Certificates, TlsFiles

BOUND_S = 60.0
PER_CLIENT = 2
#: Of work for a held request: most of a second, in which the others are asked.
TURNS = 600

Make = Callable[..., Bench]
Connect = Callable[..., grpc.Channel]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def make_bounded(make_bench: Make) -> Make:
    """A server where one client may have two requests in flight; its model `slow` keeps them there."""

    def make(**settings: Any) -> Bench:
        bench = make_bench(max_in_flight=8, max_in_flight_per_client=PER_CLIENT, **settings)
        one_value = (tensor("values", "FP32", -1, 1),)
        bench.install(version_plan(bench.folder, working_model(), name="slow", outputs=one_value))
        bench.install(version_plan(bench.folder, echo_model()))
        return bench

    return make


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes channels and relays."""
    with ExitStack() as stack:
        yield stack


def ask(channel: grpc.Channel, model: str = "echo", turns: float = 1, timeout_s: float = BOUND_S) -> Any:
    return channel.unary_unary(PREDICT).future(predict([turns, 2, 3], model=model), timeout=timeout_s)


def check_bounds(bench: Bench, first: grpc.Channel, same: grpc.Channel, other: grpc.Channel) -> None:
    """`first` takes all its places; `same` is the same client over another connection, `other` is another client."""
    # With the handshakes done, what follows takes less time than the requests that are held.
    assert {outcome(ask(channel)).status for channel in (first, same, other)} == {"OK"}
    held = [ask(first, "slow", TURNS, timeout_s=3 * BOUND_S) for _ in range(PER_CLIENT)]
    end = time.monotonic() + BOUND_S
    while bench.engine.counters().in_flight < PER_CLIENT and time.monotonic() < end:
        threading.Event().wait(0.001)
    for channel in (first, same):
        seen = outcome(ask(channel))
        assert (seen.status, seen.reason, seen.executed) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED", "0")
        assert seen.text == "3 requests of this client are in flight, the bound is 2"
    assert outcome(ask(other)).status == "OK"
    # All of that came while the first two were in flight.
    assert not any(call.done() for call in held)
    assert [outcome(call).status for call in held] == ["OK", "OK"]
    assert outcome(ask(first)).status == "OK"
    assert bench.engine.counters().refused == {("echo", "RATE_LIMITED"): 2}


def test_clients_are_told_apart_by_their_certificates(
    make_bounded: Make, authority: Authority, opened: ExitStack, tmp_path: Path
) -> None:
    own = authority.sign("server")
    certificates = Certificates(TlsFiles(own.certificate, own.key, client_ca=authority.certificate))
    bench = make_bounded(certificates=certificates)

    def connect(shown: Signed) -> grpc.Channel:
        files = (authority.certificate, shown.key, shown.certificate)
        credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))
        return opened.enter_context(grpc.secure_channel(bench.address, credentials, OWN_CONNECTION))

    first, other = authority.sign("engine-a"), authority.sign("engine-b")
    check_bounds(bench, connect(first), connect(first), connect(other))


def test_clients_without_certificates_are_told_apart_by_their_addresses(make_bounded: Make, opened: ExitStack) -> None:
    bench = make_bounded()

    def connect(source: str) -> grpc.Channel:
        address = opened.enter_context(Relay(bench.address, source)).address
        return opened.enter_context(grpc.insecure_channel(address, OWN_CONNECTION))

    check_bounds(bench, connect("127.0.0.1"), connect("127.0.0.1"), connect("127.0.0.2"))


class Relay:
    """Passes one connection on to the server from another address of this machine."""

    def __init__(self, target: str, source: str) -> None:
        host, _, port = target.rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = socket.create_connection((host, int(port)), timeout=BOUND_S, source_address=(source, 0))
        self._server.settimeout(None)
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._threads = [threading.Thread(target=self._serve, daemon=True)]

    def __enter__(self) -> "Relay":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(BOUND_S)

    def _serve(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            back = threading.Thread(target=_pump, args=(self._server, client), daemon=True)
            self._threads.append(back)
            back.start()
            _pump(client, self._server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
