"""Both clients' streams against a real server: answers, refusals, a drain in the middle, and the example."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Launcher
from tests.support.models import FEATURES
from tests.support.packages import add_constant
from tickserve import Client, Prediction, aio
from tickserve.client.choice import TransportName
from tickserve.errors import (
    DeadlineError,
    DrainingError,
    HaltedError,
    InvalidInputError,
    TickserveError,
    UnreachableError,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "python" / "stream_aio.py"
ROW = dict.fromkeys(FEATURES, 1.0)
# More requests than a server answers between the call of Drain and its start.
MANY = 20_000
BAD = dict.fromkeys(FEATURES, float("nan"))


def check(results: list[Prediction | TickserveError]) -> None:
    assert [type(result) for result in results] == [Prediction, InvalidInputError] * 50
    assert all(result.values.tolist() == [[0.5]] for result in results if isinstance(result, Prediction))
    assert not any(result.executed for result in results if isinstance(result, TickserveError))


@pytest.fixture(params=["grpcio", "native"])
def transport(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        pytest.importorskip("tickserve_native")
    return str(request.param)


def test_streams_answer_refuse_and_end_with_the_drain(
    launcher: Launcher, client_of: Callable[..., Client], transport: str
) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        client = client_of(running, model="demo", transport=transport)
        check(list(client.predict_many([ROW, BAD] * 50)))
        with client.stream() as stream:
            assert stream.predict(ROW).values.tolist() == [[0.5]]
            running.control.halt("demo", reason="test", actor="test")
            refused = refusal_of(stream.predict)
            assert (type(refused), refused.executed) == (HaltedError, False)
            running.control.resume("demo", actor="test")
            assert stream.predict(ROW).rows == 1
            running.control.drain(actor="test")
            # The call returns when the drain has begun, and some requests are answered yet.
            refused = refusal_of(lambda row: [stream.predict(row) for _ in range(MANY)])
            assert (type(refused), refused.executed) == (DrainingError, False)
        assert running.process.wait(60) == 0


def test_asyncio_streams_answer_refuse_and_end_with_the_drain(launcher: Launcher, transport: TransportName) -> None:
    async def ask(address: str, drain: Callable[[], None]) -> None:
        async with aio.Client(address, model="demo", timeout_s=60.0, transport=transport) as client:
            check([result async for result in client.predict_many([ROW, BAD] * 50)])
            async with client.stream() as stream:
                answers = await asyncio.gather(*(stream.predict(ROW) for _ in range(100)))
                assert all(answer.values.tolist() == [[0.5]] for answer in answers)
                await asyncio.to_thread(drain)
                refused: list[TickserveError] = []
                async for result in stream.predict_many([ROW] * MANY):
                    if isinstance(result, TickserveError):
                        refused.append(result)
                    else:
                        assert not refused, "answered after a refusal"
                    if len(refused) == 100:
                        break
                assert {(type(result), result.executed) for result in refused} == {(DrainingError, False)}
                assert len(refused) == 100

    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        asyncio.run(ask(running.address, lambda: running.control.drain(actor="test")))
        assert running.process.wait(60) == 0


def test_a_server_killed_amid_calls_costs_only_those_under_way(
    launcher: Launcher, client_of: Callable[..., Client], transport: str
) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        client = client_of(running, model="demo", transport=transport)
        client.predict(ROW)
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask_until_refused, client) for _ in range(4)]
            running.process.kill()
            errors = [each.result(60) for each in asked]
    assert {type(error) for error in errors} <= {UnreachableError, DeadlineError}
    # Nobody listens there any more, and that is known.
    refused = refusal_of(client.predict)
    assert (type(refused), refused.executed) == (UnreachableError, False)


def ask_until_refused(client: Client) -> TickserveError:
    return refusal_of(lambda row: [client.predict(row) for _ in range(MANY)])


def test_the_example_runs_and_fails_where_it_should(launcher: Launcher) -> None:
    add_constant(launcher.models, 0.5)
    with launcher.serve() as running:
        done = run_example(running.address, "demo")
        assert done.returncode == 0, done.stderr
        assert "tick-0: InvalidInputError" in done.stdout
        assert "tick-19: signal" in done.stdout
        unknown = run_example(running.address, "nothing")
        assert (unknown.returncode, "NotFoundError" in unknown.stderr) == (1, True)


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def refusal_of(predict: Callable[..., object]) -> TickserveError:
    try:
        predict(ROW)
    except TickserveError as error:
        return error
    raise AssertionError("the request was answered")
