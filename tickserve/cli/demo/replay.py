"""The demo's trading engine: a process that sends every row of the test period and writes what came back as JSON.

Called as `python -m tickserve.cli.demo.replay ADDRESS DATASET MODEL...`; one request a row, closed loop.
"""

import json
import sys
import time
from typing import Any

import numpy as np

from mlops.training import close_times, test_rows
from tickserve.client import Client
from tickserve.errors import TickserveError


def replay(address: str, dataset: str, models: list[str]) -> list[dict[str, Any]]:
    """For each model: the signals by session, latencies in microseconds as the caller sees them, and failures."""
    sessions, features, *_ = test_rows(dataset)
    event_times = close_times(sessions).astype("datetime64[ns]").astype(np.int64).tolist()
    results = []
    with Client(address) as client:
        for model in models:
            signals: list[float | None] = []
            latencies_us: list[float] = []
            failures: list[str] = []
            for session, event_time, row in zip(sessions, event_times, features, strict=True):
                start = time.perf_counter()
                try:
                    answer = client.predict(row, model=model, entities=dataset, event_time=event_time)
                except TickserveError as error:
                    failures.append(f"{session}: {error}")
                    signals.append(None)
                else:
                    latencies_us.append((time.perf_counter() - start) * 1e6)
                    signals.append(float(answer.signal[0]) if answer.signal is not None else None)
            results.append({"model": model, "signals": signals, "latencies_us": latencies_us, "failures": failures})
    return results


if __name__ == "__main__":
    json.dump(replay(sys.argv[1], sys.argv[2], sys.argv[3:]), sys.stdout)
