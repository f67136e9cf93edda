"""What only the asyncio client promises: cancellation, concurrency on one loop, and asynchronous requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from tests.unit.client.scripted import Script, ScriptedServer
from tickserve import Prediction, aio
from tickserve.client.choice import TransportName
from tickserve.errors import StatusError

ROW = {"a": 1.0, "b": 2.0, "c": 3.0}


def row(number: int) -> dict[str, float]:
    return {**ROW, "a": float(number)}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        # What is waited for happens on the server's threads.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
async def client(server: ScriptedServer, transport: TransportName) -> AsyncIterator[aio.Client]:
    async with aio.Client(server.address, model="m", timeout_s=20.0, transport=transport) as connected:
        yield connected
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_client_may_be_made_where_no_loop_runs(server: ScriptedServer, transport: TransportName) -> None:
    client = aio.Client(server.address, model="m", timeout_s=20.0, transport=transport)

    async def ask() -> Prediction:
        async with client:
            return await client.predict(ROW)

    assert asyncio.run(ask()).rows == 1


async def test_tasks_share_a_client_and_get_their_own_answers(client: aio.Client) -> None:
    answers = await asyncio.gather(*(client.predict(row(number)) for number in range(50)))
    assert [answer.values[0, 0] for answer in answers] == list(range(50))


async def test_tasks_share_a_stream_and_get_their_own_answers(client: aio.Client, script: Script) -> None:
    async with client.stream(window=3) as stream:
        answers = await asyncio.gather(*(stream.predict(row(number)) for number in range(50)))
    assert [answer.values[0, 0] for answer in answers] == list(range(50))
    assert len(script.streams) == 1


async def test_a_cancelled_task_cancels_its_call_and_no_other(client: aio.Client, script: Script) -> None:
    await client.get_model()
    script.gate.clear()
    cancelled, kept = (asyncio.create_task(client.predict(row(number))) for number in range(2))
    await until(lambda: len(script.requests) == 2)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    script.gate.set()
    assert (await kept).values[0, 0] == 1.0


async def test_a_cancelled_task_leaves_its_stream_to_the_others(client: aio.Client, script: Script) -> None:
    await client.get_model()
    async with client.stream() as stream:
        script.gate.clear()
        cancelled, kept = (asyncio.create_task(stream.predict(row(number))) for number in range(2))
        await until(lambda: len(script.requests) == 1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        script.gate.set()
        assert (await kept).values[0, 0] == 1.0


async def test_a_task_cancelled_while_it_closes_a_stream_leaves_nothing(client: aio.Client, script: Script) -> None:
    stream = client.stream()
    script.gate.clear()
    asked = asyncio.create_task(stream.predict(ROW, timeout_s=20.0))
    await asyncio.sleep(0)
    closing = asyncio.create_task(stream.close())
    await asyncio.sleep(0)
    closing.cancel()
    script.gate.set()
    with pytest.raises(StatusError):
        await asked
    await stream.close()


async def test_a_closed_client_ends_the_calls_under_way(client: aio.Client, script: Script) -> None:
    await client.get_model()
    script.gate.clear()
    asked = asyncio.create_task(client.predict(ROW))
    await until(lambda: len(script.requests) == 1)
    await client.close()
    with pytest.raises(StatusError, match="Channel closed!") as caught:
        await asked
    assert caught.value.executed


async def test_requests_may_come_asynchronously(client: aio.Client) -> None:
    async def ticks() -> AsyncIterator[dict[str, float]]:
        for number in range(30):
            await asyncio.sleep(0)
            yield row(number)

    values = [result.values[0, 0] async for result in client.predict_many(ticks(), window=4)]  # type: ignore[union-attr]
    assert values == list(range(30))


async def test_many_that_are_left_half_way_leave_no_task(client: aio.Client, script: Script) -> None:
    async with aclosing(client.predict_many((row(number) for number in range(1000)), window=4)) as results:
        async for _ in results:
            break
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await until(lambda: not any(context.is_active() for context in script.streams))
    assert len(script.requests) < 1000


async def test_requests_that_fail_are_closed_and_reach_the_caller(client: aio.Client) -> None:
    async def ticks() -> AsyncIterator[dict[str, float]]:
        yield row(0)
        raise LookupError("no more ticks")

    with pytest.raises(LookupError, match="no more ticks"):
        async for _ in client.predict_many(ticks()):
            pass
