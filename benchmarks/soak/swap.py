"""The scenarios of swaps: models change under open-loop load from other processes.

Every answer is held against an offline run of the version that it names, and that version against what was desired.
SWAPS swaps go through as many distinct versions, in rounds that alternate with rounds without any, over DURATION_S
seconds. ENGINE says which engine serves, RATE how many requests a second each client process sends. The scenarios
differ in their models.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import ratio_of_rounds
from benchmarks.soak.clients import Answers, processes, run_client
from benchmarks.soak.versions import FEATURES, MODEL, Expected, add_versions, megabyte, resident, slow, small
from mlops.registry import Author, Registry
from mlops.registry.desired import make_state
from mlops.registry.values import Share
from tickserve.client import Client, ControlClient, ModelStatus

ROUNDS = 30
#: Memory, descriptors and threads count from here: what the first swaps need, later ones find.
SETTLED_AFTER = 50
AUTHOR = Author("soak", "measured")
#: A version may answer this long after another one is desired: the poll, the load, and a request under way.
_CONVERGE_NS = 10_000_000_000
_START_S = 60.0
_SWAP_S = 60.0
_QUIET_S = 5.0


@dataclass(frozen=True)
class Scenario:
    """Which models are swapped. Of `slow_every` versions one is slow: the breaker is to return the one before."""

    name: str
    make: Callable[[int], bytes]
    swaps: int
    duration_s: float
    slow_every: int = 0

    def model(self, number: int) -> bytes:
        """The file of a version."""
        return slow(number) if self.is_slow(number) else self.make(number)

    def is_slow(self, number: int) -> bool:
        """Whether this version answers many times more slowly than it does when it is measured."""
        return bool(self.slow_every) and number % self.slow_every == 0


SWAP = Scenario("swap", small, 1000, 1200.0)
SCENARIOS = {
    each.name: each
    for each in (
        SWAP,
        Scenario("swap-1mb", megabyte, 30, 120.0),
        Scenario("swap-200mb", resident, 30, 180.0),
        Scenario("swap-slow", small, 30, 240.0, slow_every=3),
    )
}


@dataclass(frozen=True)
class Process:
    """What a server process holds."""

    rss_mb: float
    anonymous_mb: float
    descriptors: int
    threads: int


def main(scenario: Scenario, environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs a scenario and returns its figures."""
    swaps = int(environment.get("SWAPS", scenario.swaps))
    duration_s = float(environment.get("DURATION_S", scenario.duration_s))
    engine = environment.get("ENGINE", "auto")
    rate = float(environment.get("RATE", "100"))
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        return run(Path(folder), scenario, swaps=swaps, duration_s=duration_s, engine=engine, rate=rate)


def run(home: Path, scenario: Scenario, *, swaps: int, duration_s: float, engine: str, rate: float) -> dict[str, Any]:
    """Runs it in this folder of state."""
    (home / "registry").mkdir()
    registry = Registry(
        f"sqlite:///{home}/registry/registry.db", str(home / "registry" / "artifacts"), home / "cache", home / "keys"
    )
    print(f"making {swaps + 1} versions", flush=True)
    expected = add_versions(registry, home / "packages", swaps + 1, AUTHOR, scenario.model)
    settled_after = min(SETTLED_AFTER, swaps // 5)
    rounds = min(ROUNDS, swaps - settled_after)
    each_ns = int(duration_s * 1e9 / rounds / 2)
    swap_to(registry, 1)
    with serving(home, engine) as (pid, control):
        address = control.status().listen[0]
        desired: list[tuple[int, int]] = [(1, time.monotonic_ns())]
        marks: list[tuple[int, int, bool]] = []

        def swap(count: int, span_ns: int) -> None:
            begin = time.monotonic_ns()
            for step in range(count):
                version = desired[-1][0] + 1
                desired.append((version, time.monotonic_ns()))
                swap_to(registry, version)
                # One after the other: a machine that is slower than the plan takes longer, and skips none.
                control.wait(lambda status, wanted=version: is_there(status.models[0], wanted), _SWAP_S)
                pause_until(begin + (step + 1) * span_ns // count)
            pause_until(begin + span_ns)

        with clients(address, rate, expected) as stop:
            swap(settled_after, each_ns * rounds * settled_after // swaps)
            settled = facts_at_rest(pid, each_ns)
            for place in range(rounds):
                share = swaps - settled_after
                count = share * (place + 1) // rounds - share * place // rounds
                # The order alternates, so that drift favours neither.
                for is_swapping in (place % 2 == 0, place % 2 == 1):
                    begin = time.monotonic_ns()
                    swap(count if is_swapping else 0, each_ns)
                    marks.append((begin, time.monotonic_ns(), is_swapping))
                if place % 5 == 4 or place == rounds - 1:
                    now = facts(pid)
                    print(f"round {place + 1} of {rounds}, version {desired[-1][0]}, {now.rss_mb:.1f} MB", flush=True)
            end = facts_at_rest(pid, each_ns)
            answers = stop()
        status = control.status()
        served = status.models[0]
        rollback_ms = time_rollback(address, control, served.stable) if served.previous else None
    registry.close()
    found = figures(answers, scenario, desired, marks)
    if scenario.slow_every:
        found |= slow_figures(answers, scenario, home / "server" / "events.jsonl")
    return found | {
        "scenario": scenario.name,
        "engine": status.engine,
        "swaps": desired[-1][0] - 1,
        "duration_s": duration_s,
        "rate_per_client": rate,
        "version_mb": round(max(each.resident_bytes for each in served.versions) / 2**20, 1),
        "settled_after": settled_after,
        "rss_after_50_mb": round(settled.rss_mb, 1),
        "rss_end_mb": round(end.rss_mb, 1),
        "anonymous_after_50_mb": round(settled.anonymous_mb, 1),
        "anonymous_end_mb": round(end.anonymous_mb, 1),
        "fds_growth": end.descriptors - settled.descriptors,
        "threads_growth": end.threads - settled.threads,
        "rollback_ms": None if rollback_ms is None else round(rollback_ms, 2),
    }


def is_there(model: ModelStatus, version: int) -> bool:
    """Whether a version is served, or was taken out by the breaker."""
    return model.stable == str(version) or any(each.version == str(version) for each in model.overrides)


def slow_figures(answers: Answers, scenario: Scenario, events: Path) -> dict[str, Any]:
    """How many slow versions were installed and taken out, and how long each answered until then."""
    kinds = [(event["kind"], int(event["version"] or 0)) for event in map(json.loads, events.read_text().splitlines())]
    installed = {version for kind, version in kinds if kind == "installed" and scenario.is_slow(version)}
    answered_ms = []
    for version in sorted(installed):
        times = answers.received_ns[answers.version == version]
        if len(times):
            answered_ms.append(float(times.max() - times.min()) / 1e6)
    return {
        "slow_installed": len(installed),
        "slow_taken_out": sum(kind == "breaker_tripped" for kind, _ in kinds),
        "slow_answered_ms": round(statistics.median(answered_ms), 1) if answered_ms else None,
        "slow_answered_ms_max": round(max(answered_ms), 1) if answered_ms else None,
    }


def swap_to(registry: Registry, version: int) -> None:
    """Makes a version the only one desired."""
    state = make_state(split=(Share(version=version, role="stable", weight_bp=10_000),))
    registry.set_desired(MODEL, state, AUTHOR, None)


def figures(
    answers: Answers, scenario: Scenario, desired: Sequence[tuple[int, int]], marks: Sequence[tuple[int, int, bool]]
) -> dict[str, Any]:
    """What the clients saw: failures, wrong answers, and latencies of rounds with swaps against those without."""
    starts, ends = dict(desired), last_times(desired, scenario)
    given = list(zip(answers.version.tolist(), answers.received_ns.tolist(), strict=True))
    early = np.array([at < starts.get(version, 1 << 62) for version, at in given])
    late = np.array([at - ends.get(version, at) > _CONVERGE_NS for version, at in given])
    is_ok = answers.version > 0
    mistaken, untimely = int((~answers.is_right & is_ok).sum()), int(((early | late) & answers.is_right & is_ok).sum())
    with_us, without_us = [], []
    for begin, end, is_swapping in marks:
        inside = (answers.sent_ns >= begin) & (answers.sent_ns < end) & is_ok
        latencies = answers.latency_us[inside]
        if len(latencies):
            (with_us if is_swapping else without_us).append(float(np.quantile(latencies, 0.999)))
    pairs = min(len(with_us), len(without_us))
    ratio = ratio_of_rounds(with_us[:pairs], without_us[:pairs])
    return {
        "requests": len(answers.version),
        "failed": int((~is_ok).sum()),
        "wrong": mistaken + untimely,
        "wrong_values": mistaken,
        "versions_seen": len(set(answers.version[is_ok].tolist())),
        "rounds": pairs,
        "p999_without_us": round(statistics.median(without_us), 1),
        "p999_during_us": round(statistics.median(with_us), 1),
        "p999_ratio": round(ratio.median, 3),
        "p999_ratio_low": round(ratio.low, 3),
        "p999_ratio_high": round(ratio.high, 3),
    }


def last_times(desired: Sequence[tuple[int, int]], scenario: Scenario) -> dict[int, int]:
    """When each version was no longer wanted: as another one was that stays, for behind a slow one it comes back."""
    ends = {}
    for place, (version, _) in enumerate(desired):
        followers = desired[place + 1 :]
        later = [at for other, at in followers if scenario.is_slow(version) or not scenario.is_slow(other)]
        if later:
            ends[version] = later[0]
    return ends


def serving(home: Path, engine: str) -> AbstractContextManager[tuple[int, ControlClient]]:
    """A server over this folder, from its registry: its process and a client that operates it."""
    return _serving(home, engine, "--source", "registry")


def serving_directory(home: Path, engine: str) -> AbstractContextManager[tuple[int, ControlClient]]:
    """The same from its folder of models."""
    return _serving(home, engine, "--source", "directory")


@contextmanager
def _serving(home: Path, engine: str, *options: str) -> Iterator[tuple[int, ControlClient]]:
    command = ["serve", "--home", str(home), *options, "--engine", engine]
    log = open(home / "server.log", "wb")  # noqa: SIM115 - closed with the process
    process = subprocess.Popen(
        [sys.executable, "-m", "tickserve.cli", *command, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"],
        stderr=log,
    )
    control = ControlClient(f"unix:{home / 'admin.sock'}")
    try:
        control.wait(lambda status: status.is_serving, _START_S)
        yield process.pid, control
    finally:
        control.close()
        process.terminate()
        process.wait(30)
        log.close()


def clients(address: str, rate: float, expected: Expected) -> AbstractContextManager[Callable[[], Answers]]:
    """Two client processes, one with a call a request and one with a stream; what is yielded ends them."""
    return processes(run_client, [(kind, address, rate, expected) for kind in ("unary", "stream")], Answers.joined)


def time_rollback(address: str, control: ControlClient, version: str) -> float:
    """Milliseconds from asking for a rollback to the first answer of the version before."""
    rows = np.zeros(len(FEATURES), np.float32)
    with Client(address, model=MODEL, timeout_s=10.0) as client:
        client.predict(rows)
        with ThreadPoolExecutor(1) as other:
            begin = time.perf_counter()
            asked = other.submit(control.rollback, MODEL, actor="soak", reason="measured")
            while client.predict(rows).version == version:
                pass
            taken_ms = (time.perf_counter() - begin) * 1e3
            asked.result()
        return taken_ms


def facts_at_rest(pid: int, at_most_ns: int) -> Process:
    """The facts of a process, without a swap under way: what one leaves behind is freed by then."""
    time.sleep(min(at_most_ns / 1e9, _QUIET_S))
    return facts(pid)


def facts(pid: int) -> Process:
    """Memory that is resident, in all and the anonymous part of it, open descriptors and threads of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident_kb, own_kb = (int(fields[name].split()[0]) for name in ("VmRSS", "RssAnon"))
    return Process(
        resident_kb / 1024,
        own_kb / 1024,
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
    )


def pause_until(at_ns: int) -> None:
    """Returns at this time of the monotonic clock."""
    time.sleep(max(0.0, (at_ns - time.monotonic_ns()) / 1e9))
