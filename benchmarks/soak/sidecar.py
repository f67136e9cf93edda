"""Many records through a real sidecar: all of them are in the log or removed by its bound, and its memory is flat.

`RECORDS` is how many, 50 million by default; `RATE` how many a second at most, 0 for as fast as it takes them.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bulk import BulkProducer
from mlops.tap import default_folder

RING_BYTES = 64 << 20
PIECE = 16_384
LOG_MB = 1024
#: A sample of memory every so often, and what comes before the first segments went is warm-up.
_SAMPLE_S = 0.5
_WARM_UP = 0.25


def main(environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs the scenario in its long form."""
    records, rate = int(environment.get("RECORDS", "50000000")), float(environment.get("RATE", "0"))
    with tempfile.TemporaryDirectory(prefix="ts-") as home:
        return run(Path(home), records=records, rate=rate)


def run(home: Path, *, records: int, rate: float = 0.0, log_mb: int = LOG_MB) -> dict[str, Any]:
    """Gives a sidecar `records` records and says what became of them, and of its memory (resident, KiB)."""
    folder = default_folder(home)
    producer = BulkProducer(folder, ring_bytes=RING_BYTES, piece=PIECE)
    log = open(home / "sidecar.log", "wb")  # noqa: SIM115 - closed with the process
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("tickserve"), "sidecar", "--http", "127.0.0.1:0", "--log-mb", str(log_mb),
            "--listen", f"unix:{home}/outcomes.sock", "--log-format", "json",
        ],
        env=os.environ | {"TICKSERVE_HOME": str(home)},
        stderr=log,
    )  # fmt: skip
    try:
        http = _address(process, home / "sidecar.log")
        started, samples, sampled_at = time.monotonic(), [], 0.0
        while producer.produced < records:
            assert process.poll() is None, (home / "sidecar.log").read_text()
            now = time.monotonic()
            if now - sampled_at >= _SAMPLE_S:
                samples.append(_resident_kib(process.pid))
                sampled_at = now
            if producer.room >= producer.piece and (not rate or producer.produced <= rate * (now - started)):
                producer.produce()
            else:
                time.sleep(0.001)
        took = time.monotonic() - started
        produced = producer.produced
        until = time.monotonic() + 60
        while (found := _metrics(http))["tickserve_sidecar_records_total"] < produced and time.monotonic() < until:
            time.sleep(0.1)
        samples.append(_resident_kib(process.pid))
        producer.end()
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
    warm = samples[int(len(samples) * _WARM_UP) :]
    quarters = [int(np.median(part)) >> 10 for part in np.array_split(np.array(warm), 4) if len(part)]
    return {
        "scenario": "sidecar",
        "records": produced,
        "logged": int(found["tickserve_sidecar_records_total"]),
        "dropped": int(found["tickserve_sidecar_dropped_total"]),
        "damaged": int(found["tickserve_sidecar_damaged_total"]),
        "records_per_s": round(produced / took),
        "cpu_us_per_record": round(found["process_cpu_seconds_total"] / produced * 1e6, 3),
        "log_mb": round(found["tickserve_sidecar_log_bytes"] / (1 << 20), 1),
        "resident_mb": {"start": samples[0] >> 10, "quarters": quarters, "most": max(samples) >> 10},
        "exit_code": code,
    }


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "ready":
                    return str(event["http"])
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


def _metrics(http: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))
