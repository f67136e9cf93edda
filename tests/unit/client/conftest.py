"""A scripted server, and a client of it over each transport."""

from collections.abc import Iterator

import pytest

from tests.unit.client.scripted import Script, ScriptedServer
from tickserve import Client
from tickserve.client.transport import Connect, GrpcTransport


@pytest.fixture(params=[pytest.param(GrpcTransport, id="grpc")])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Every transport runs the same suite."""
    return request.param


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.stop()


@pytest.fixture
def script(server: ScriptedServer) -> Script:
    return server.script


@pytest.fixture
def client(server: ScriptedServer, connect: Connect) -> Iterator[Client]:
    with Client(server.address, model="m", timeout_s=20.0, connect=connect) as connected:
        yield connected
