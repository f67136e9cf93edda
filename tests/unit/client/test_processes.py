"""Forks, signals and the end of the interpreter, with calls under way: in real processes."""

import subprocess
import sys

import pytest

from tests.unit.client import processes
from tests.unit.client.scripted import Script, ScriptedServer

BOUND_S = 60


def run(program: str, server: ScriptedServer, transport: str = "native") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, server.address, transport]
    return subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


@pytest.fixture(autouse=True)
def _native() -> None:
    pytest.importorskip("tickserve_native")


def test_a_forked_child_has_a_connection_of_its_own(server: ScriptedServer) -> None:
    check(run(processes.FORK, server))


def test_a_closed_client_is_closed_in_a_child_too(server: ScriptedServer) -> None:
    check(run(processes.FORK_AFTER_CLOSE, server))


def test_a_forked_child_watches_and_hedges_and_closes_by_itself(server: ScriptedServer) -> None:
    check(run(processes.FORK_OF_SEVERAL, server))


def test_a_child_forked_amid_calls_of_threads_is_not_stuck(server: ScriptedServer) -> None:
    check(run(processes.FORK_AMID_CALLS, server))


def test_a_stream_from_before_the_fork_is_an_error_in_the_child(server: ScriptedServer) -> None:
    check(run(processes.FORK_WITH_STREAM, server))


@pytest.mark.parametrize("time", range(5))
def test_the_interpreter_ends_with_calls_under_way(server: ScriptedServer, script: Script, time: int) -> None:
    script.gate.clear()
    check(run(processes.EXIT_AMID_CALLS, server))


def test_an_event_loop_ends_with_calls_under_way(server: ScriptedServer, script: Script) -> None:
    script.gate.clear()
    check(run(processes.EXIT_WITH_LOOP, server))


def test_a_waiting_call_is_interrupted_from_the_keyboard(server: ScriptedServer, script: Script) -> None:
    script.gate.clear()
    check(run(processes.INTERRUPT, server))
