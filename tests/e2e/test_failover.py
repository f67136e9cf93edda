"""Servers that die under clients of several: no call is executed twice, and none that was is said not to have been."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlops.tap import default_folder
from tests.e2e.conftest import Launcher
from tests.support.packages import add_constant
from tests.support.waiting import until
from tests.unit.client.blocking import Connect
from tests.unit.client.conftest import connect, loop, transport
from tests.unit.client.cutting import CuttingProxy
from tests.unit.client.scripted import ScriptedServer
from tickserve.errors import TickserveError

__all__ = ["connect", "loop", "transport"]
#: Times that a server ends under load.
TURNS = 3
ROOT = Path(__file__).resolve().parents[2]


def failure(client: Any, request_id: str) -> TickserveError | None:
    """Asks; the error, where there is no answer."""
    try:
        assert client.predict([1, 2, 3], request_id=request_id).request_id == request_id
    except TickserveError as error:
        return error
    return None


@pytest.mark.parametrize("resets", [False, True], ids=["ended", "reset"])
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("is_warm", [True, False], ids=["on an open connection", "while connecting"])
@pytest.mark.timeout(300)
def test_a_call_cut_at_any_byte_is_executed_at_most_once_and_never_said_not_to_be(
    connect: Connect, request: pytest.FixtureRequest, direction: str, is_warm: bool, resets: bool
) -> None:
    first, second = ScriptedServer(), ScriptedServer()
    # Every byte of a call where the connection just ends, for the blocking clients; below the bytes all share their
    # code with these, so that the others may step.
    is_thorough = is_warm and not resets and "blocking" in request.node.callspec.id
    step = 1 if is_thorough else 11
    size, outcomes, answered = 0, Counter[str](), set[str]()
    while True:
        proxy = CuttingProxy(first.address)
        request_id = f"{direction}-{size}"
        try:
            if not is_warm:
                proxy.arm(direction, size, resets=resets)
            addresses: Any = [proxy.address, second.address]
            with connect(addresses, model="m", timeout_s=20.0, check_features=False) as client:
                if is_warm:
                    warm_up(client, first, request_id)
                    proxy.arm(direction, size, resets=resets)
                error = failure(client, request_id)
                # There is another server: what was certainly not executed has an answer.
                assert error is None or error.executed, (size, error)
                outcomes["unknown" if error else "answered"] += 1
                if error is None:
                    answered.add(request_id)
            if not proxy.is_cut:
                break
        finally:
            proxy.close()
        size += step
    for server in (first, second):
        server.stop()
    counts = Counter(each.request_id for server in (first, second) for each in server.script.requests)
    assert max(counts.values()) == 1, [each for each, count in counts.items() if count > 1]
    assert answered <= counts.keys()
    assert outcomes["answered"] > 0
    if is_warm:
        assert size > 30
        assert outcomes["unknown"] > 0


def warm_up(client: Any, server: ScriptedServer, name: str) -> None:
    """Calls until this server has answered: on a busy machine the other one may be heard of first."""
    end = time.monotonic() + 60
    number = 0
    while not server.script.requests or not server.script.requests[-1].request_id.startswith(f"warm-{name}-"):
        assert time.monotonic() < end
        client.predict([1, 2, 3], request_id=f"warm-{name}-{number}")
        number += 1


class Counting:
    """A counting server on a fixed port, started and killed at will; its log outlives it."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = log
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.counting_server", self.address, self._log, "0.002"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(60)
        self.process.stdout.close()  # type: ignore[union-attr]

    def executions(self) -> Counter[str]:
        return Counter(self._log.read_text().split() if self._log.exists() else [])


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[list[Counting]]:
    servers = [Counting(tmp_path / name) for name in ("first", "second")]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.end(signal.SIGKILL)


@contextmanager
def calling(client: Any, threads: int) -> Iterator[dict[str, TickserveError | None]]:
    """Calls from several threads while the block runs; what became of each request, by its id."""
    became: dict[str, TickserveError | None] = {}
    is_over = threading.Event()

    def call(name: int) -> None:
        number = 0
        while not is_over.is_set():
            request_id = f"{name}-{number}"
            became[request_id] = failure(client, request_id)
            number += 1

    running = [threading.Thread(target=call, args=(name,)) for name in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield became
    finally:
        is_over.set()
        for thread in running:
            thread.join(60)


def go_on(became: dict[str, TickserveError | None], calls: int) -> None:
    """Waits for so many calls more."""
    so_far = len(became)
    until(lambda: len(became) > so_far + calls)


def found_again(server: Counting) -> None:
    """Starts it, and waits until it is asked."""
    before = server.executions().total()
    server.start()
    until(lambda: server.executions().total() > before)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGTERM, id="drained", marks=pytest.mark.integration),
    ],
)
@pytest.mark.timeout(180)
def test_servers_that_end_under_load_execute_no_call_twice(
    connect: Connect, counting: list[Counting], how: signal.Signals
) -> None:
    addresses: Any = [server.address for server in counting]
    with connect(addresses, model="m", timeout_s=20.0, check_features=False) as client:
        with calling(client, 4) as became:
            preferred = counting[0]
            for _ in range(TURNS):
                go_on(became, 50)
                preferred.end(how)
                go_on(became, 50)
                found_again(preferred)
        counts = counting[0].executions() + counting[1].executions()
    twice = [each for each, count in counts.items() if count > 1]
    assert twice == []
    lost = [each for each, error in became.items() if error is None and counts[each] != 1]
    assert lost == []
    lied = [each for each, error in became.items() if error is not None and not error.executed and counts[each]]
    assert lied == []
    failed = [error for error in became.values() if error is not None]
    if how is signal.SIGTERM:
        assert failed == []
    else:
        # What was under way when the server died, and what a thread sent before it was noticed.
        assert len(failed) <= 2 * 4 * TURNS
        assert all(error.executed for error in failed)


@pytest.mark.timeout(120)
def test_a_real_server_that_drains_costs_its_clients_nothing(launcher: Launcher, connect: Connect) -> None:
    add_constant(launcher.models, 0.5)
    other = Launcher(launcher.home / "other")
    (launcher.home / "other").mkdir()
    (launcher.home / "other" / "models").symlink_to(launcher.models)
    with ExitStack() as running:
        # It is killed at the end, and leaves its part of the memory.
        running.callback(shutil.rmtree, default_folder(other.home), ignore_errors=True)
        first = running.enter_context(launcher.serve())
        second = running.enter_context(other.serve())
        addresses: Any = [first.address, second.address]
        client = running.enter_context(connect(addresses, model="demo", timeout_s=20.0))
        with calling(client, 4) as became:
            until(lambda: len(became) > 100)
            first.process.send_signal(signal.SIGTERM)
            first.process.wait(60)
            go_on(became, 100)
        assert [str(error) for error in became.values() if error is not None] == []
