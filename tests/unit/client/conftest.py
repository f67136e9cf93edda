"""A scripted server, and both clients of it."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.unit.client.blocking import BlockingClient, Connect, Loop
from tests.unit.client.scripted import Script, ScriptedServer
from tickserve import Client


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


@pytest.fixture(params=["grpcio", "native"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both transports run the same suite; the native one where it is built."""
    if request.param == "native":
        pytest.importorskip("tickserve_native")
    return str(request.param)


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest, transport: str, loop: Loop) -> Connect:
    """Both clients run the same suite."""

    def connect_blocking(address: str, **options: Any) -> Client:
        return Client(address, **{"transport": transport, **options})

    def connect_aio(address: str, **options: Any) -> Client:
        return cast(Client, BlockingClient(loop, address, **{"transport": transport, **options}))

    return connect_blocking if request.param == "blocking" else connect_aio


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
    with connect(server.address, model="m", timeout_s=20.0) as connected:
        yield connected
