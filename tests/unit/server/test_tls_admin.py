"""The admin listener on TCP: operators show a certificate of an authority of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.api.admin import AdminServer
from server.api.control import ControlService, ProcessFacts
from server.api.repository import RepositoryService
from server.engine.python import PythonEngine
from server.models import DirectorySource, LocalState, Memory, Operations, Reconciler
from tests.support.certificates import Authority
from tickserve.client import ControlClient, Tls
from tickserve.errors import UnreachableError
from tickserve.listening.tls import Certificates, TlsFiles

Serve = Callable[[Certificates | None], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts an admin listener on a free port."""
    engine = PythonEngine([], pool_threads=1, max_in_flight=1, max_in_flight_per_client=1, max_message_bytes=1024)
    reconciler = Reconciler(DirectorySource(tmp_path), engine, LocalState(tmp_path))
    operations = Operations(reconciler)
    control = ControlService(
        reconciler,
        operations,
        engine,
        Memory(),
        process=lambda: ProcessFacts("serving", (), ""),
        drain=lambda: pytest.fail("drained"),
    )
    started: list[AdminServer] = []

    def serve(certificates: Certificates | None) -> str:
        started.append(
            AdminServer("127.0.0.1:0", control, RepositoryService(reconciler, operations), certificates=certificates)
        )
        started[-1].start()
        return started[-1].address

    yield serve
    for admin in started:
        admin.stop()


def state(address: str, tls: Tls | None) -> str:
    with ControlClient(address, timeout_s=60.0, tls=tls) as control:
        return control.status().state


def test_operators_are_served_and_clients_are_not(serve: Serve, tmp_path: Path) -> None:
    clients, operators = Authority(tmp_path, "clients"), Authority(tmp_path, "operators")
    server = operators.sign("server")
    address = serve(Certificates(TlsFiles(server.certificate, server.key, clients.certificate, operators.certificate)))
    assert state(address, operators.client(operators.sign("operator"))) == "serving"
    for tls in (operators.client(clients.sign("engine")), operators.client(), None):
        with pytest.raises(UnreachableError):
            state(address, tls)


def test_without_an_authority_of_operators_it_is_plain(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.sign("server")
    certificates = Certificates(TlsFiles(server.certificate, server.key, authority.certificate))
    assert state(serve(certificates), None) == "serving"
