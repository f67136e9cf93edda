"""Predictions over one stream with the asyncio client: `python stream_aio.py ADDRESS MODEL`."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator

from tickserve import Prediction, Request, TickserveError, aio

COUNT = 20


async def ticks(names: tuple[str, ...]) -> AsyncIterator[Request]:
    """Made-up features, as a market-data feed would bring them; the first lacks one."""
    for number in range(COUNT):
        row = {name: abs(random.gauss(0.0, 0.01)) for name in names}
        if number == 0:
            row.popitem()
        yield Request(row, request_id=f"tick-{number}", event_time=time.time_ns())


async def main(address: str, model: str) -> int:
    answered = 0
    async with aio.Client(address, model=model) as client:
        await client.wait_ready(timeout_s=5.0)
        info = await client.get_model()
        print(f"{info.model} version {info.version}, digest {info.digest[:12]}: {len(info.feature_names)} features")

        # Many requests under way at once; results come in order, and a refusal takes one place among them.
        async for result in client.predict_many(ticks(info.feature_names), timeout_s=0.5):
            if isinstance(result, Prediction):
                answered += 1
                print(f"{result.request_id}: signal {result.signal}, version {result.version}")
            else:
                ran = "the model may have run" if result.executed else "the model did not run"
                print(f"{result.request_id}: {type(result).__name__}: {result.message} ({ran})")

        # One request at a time, where each decision waits for its answer.
        async with client.stream(timeout_s=0.5) as stream:
            answer = await stream.predict(dict.fromkeys(info.feature_names, 0.0), event_time=time.time_ns())
            print(f"one more: values {answer.values[0]}, {answer.server_duration_ns / 1000:.0f} us in the server")
    print(f"{answered} of {COUNT} ticks were answered")
    return 0 if answered >= COUNT - 1 else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: stream_aio.py ADDRESS MODEL")
    try:
        sys.exit(asyncio.run(main(*sys.argv[1:])))
    except TickserveError as error:
        sys.exit(f"{type(error).__name__}: {error}")
