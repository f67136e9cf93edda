"""The scenario of rollouts: a second version that is good goes to everything by itself, one that is not is taken back.

Server, sidecar and clients are processes as users run them. CANARY says what the second version is (good, violations,
slow, shifted, failing), STRATEGY how it is rolled out, SHARES its steps in percent, KEYS how many routing keys ask and
RATE how often a second they do so together, SKEW how unequally; WINDOW_S, CELLS, LATENCY and ALPHA are window,
tolerances and level of the spec, ENGINE who serves.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.clients import processes
from benchmarks.soak.retrained import MODEL, Answers, build
from benchmarks.soak.swap import serving
from mlops.registry import Author, Registry
from mlops.registry.desired import make_state
from mlops.registry.gates.policy import read_policy
from mlops.registry.values import Share
from mlops.tap import default_folder
from tickserve.client import Client

AUTHOR = Author("soak", "measured")
_START_S, _TIMEOUT_S = 60.0, 10.0
PROGRAM = Path(sys.executable).with_name("tickserve")


@dataclass(frozen=True)
class Plan:
    """One rollout: see the module."""

    canary: str = "good"
    strategy: str = "canary"
    shares: tuple[float, ...] = (1.0, 5.0, 25.0, 50.0)
    keys: int = 3_000
    rate: float = 1_000.0
    window_s: float = 2.0
    cells: float = 0.1
    latency: float = 0.5
    alpha: float = 0.01
    skew: float = 1.0
    rounds: int = 24
    engine: str = "auto"
    most_s: float = 3_000.0

    def spec(self) -> dict[str, Any]:
        """The rollout's spec, as its file has it."""
        steps = [
            {"share": share, "min_time_s": 5 * self.window_s, "max_time_s": self.most_s / 2, "min_requests": 200}
            for share in self.shares
        ]
        analysis = {
            "alpha": self.alpha,
            "errors": {"tolerance": self.cells},
            "violations": {"tolerance": self.cells},
            # A version with few of the requests finds caches cold, and is slower for that alone.
            "latency": {"quantile": 0.9, "worse": 0.2, "tolerance": self.latency},
            "sign_flips": {"tolerance": 0.2},
        }
        return {
            "strategy": self.strategy,
            "keys": self.keys,
            "window_s": self.window_s,
            "steps": steps,
            "analysis": analysis,
        }


@dataclass(frozen=True, eq=False)
class Seen:
    """What one client saw, one entry a request: arrays of shape (requests,). Version 0 is a failure."""

    at_unix_ns: np.ndarray
    version: np.ndarray
    is_flagged: np.ndarray
    is_right: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Seen"]) -> "Seen":
        """All of them."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__})


def main(environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs the scenario and returns its figures."""
    usual = Plan()
    plan = Plan(
        canary=environment.get("CANARY", usual.canary),
        strategy=environment.get("STRATEGY", usual.strategy),
        shares=tuple(float(share) for share in environment["SHARES"].split(","))
        if "SHARES" in environment
        else usual.shares,
        keys=int(environment.get("KEYS", usual.keys)),
        rate=float(environment.get("RATE", usual.rate)),
        window_s=float(environment.get("WINDOW_S", usual.window_s)),
        cells=float(environment.get("CELLS", usual.cells)),
        latency=float(environment.get("LATENCY", usual.latency)),
        alpha=float(environment.get("ALPHA", usual.alpha)),
        skew=float(environment.get("SKEW", usual.skew)),
        engine=environment.get("ENGINE", usual.engine),
        most_s=float(environment.get("DURATION_S", usual.most_s)),
    )
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        try:
            return run(Path(folder), plan)
        finally:
            # The sidecar ends before it has read the server's last records, which stay for another one.
            shutil.rmtree(default_folder(Path(folder)), ignore_errors=True)


def run(home: Path, plan: Plan) -> dict[str, Any]:
    """Runs it in this folder of state."""
    first, second, answers = build(home / "packages", plan.canary, plan.rounds)
    (home / "registry").mkdir()
    registry = Registry(
        f"sqlite:///{home}/registry/registry.db", str(home / "registry" / "artifacts"), home / "cache", home / "keys"
    )
    for package in (first, second):
        registry.approve(MODEL, registry.register(package, AUTHOR).version, AUTHOR)
    registry.set_desired(MODEL, make_state(split=(Share(version=1, role="stable", weight_bp=10_000),)), AUTHOR, None)
    # Nothing was measured of these models, so a person lets the second one through the gates.
    policy = home / "policy.toml"
    policy.write_text("minimums = []\ncomparisons = []\nlatency = { budget_us = 100_000 }\n")
    registry.check(MODEL, 2, AUTHOR, read_policy(policy))
    registry.approve_inconclusive(MODEL, 2, AUTHOR)
    spec = home / "rollout.json"
    spec.write_text(json.dumps(plan.spec()))
    with serving(home, plan.engine) as (_, control), watching(home):
        status = control.status()
        with clients(status.listen[0], plan, answers) as stop:
            begun = time.time_ns()
            _tickserve(
                *(home, "rollout", "start", MODEL, "2", "--spec", str(spec), "--policy", str(policy)),
                *("--reason", "retrained"),
            )
            decided = wait_for_end(home, plan)
            # What is still on its way is seen, too.
            time.sleep(2 * plan.window_s)
            seen = stop()
        log = json.loads(_tickserve(home, "rollout", "log", MODEL, "--json"))
    history = [(_unix_ns(each["at"]), each["share_bp"]) for each in log if each["share_bp"] >= 0]
    registry.close()
    return figures(plan, seen, history, begun, decided) | {"scenario": "canary", "engine": status.engine}


def wait_for_end(home: Path, plan: Plan) -> dict[str, Any]:
    """The rollout once it has ended or waits for people, as `rollout status --json` shows it."""
    until = time.monotonic() + plan.most_s
    said = ""
    while True:
        found = json.loads(_tickserve(home, "rollout", "status", MODEL, "--json"))
        phase = f"{found['phase']}, step {found['step']}"
        if phase != said:
            print(phase, found["reason"], flush=True)
            said = phase
        if found["phase"] in ("finished", "aborted", "paused") or time.monotonic() > until:
            return dict(found)
        time.sleep(0.5)


def figures(
    plan: Plan, seen: Seen, history: Sequence[tuple[int, int]], begun: int, decided: Mapping[str, Any]
) -> dict[str, Any]:
    """What the clients saw, and how fast the server obeyed the last change of shares."""
    ended, last = history[-1]
    of_canary = seen.version == 2
    late = seen.at_unix_ns[of_canary & (seen.at_unix_ns > ended)] if last == 0 else np.array([], np.int64)
    return {
        "canary": plan.canary,
        "phase": decided["phase"],
        "reason": decided["reason"],
        "shares": [share / 100 for at, share in history if at >= begun],
        "decided_s": round((ended - begun) / 1e9, 1),
        "obeyed_ms": round(float(late.max() - ended) / 1e6, 1) if len(late) else 0.0,
        "requests": len(seen.version),
        "bad_answers": decided["evidence"]["bad_answers"],
        "failed": int((seen.version == 0).sum()),
        "wrong": int((~seen.is_right & (seen.version > 0)).sum()),
        "canary_answers": int(of_canary.sum()),
        "flagged_of_canary": int((seen.is_flagged & of_canary).sum()),
        "flagged_of_stable": int((seen.is_flagged & (seen.version == 1)).sum()),
        "last_version": int(seen.version[seen.at_unix_ns.argmax()]),
    }


@contextmanager
def watching(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A sidecar over this folder."""
    with open(home / "sidecar.log", "ab") as log:
        process = subprocess.Popen(
            [PROGRAM, "sidecar", "--http", "127.0.0.1:0", "--listen", f"unix:{home}/outcomes.sock"],
            # The edge is frozen from windows of outputs, which take as long as windows of counts without a rollout.
            env=_environment(home) | {"TICKSERVE_SIDECAR_COUNTS_WINDOW_S": "1"},
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def clients(address: str, plan: Plan, answers: Answers, count: int = 2) -> AbstractContextManager[Callable[[], Seen]]:
    """Client processes; what is yielded ends them and gives what they saw."""
    return processes(ask, [(place, address, plan, plan.rate / count, answers) for place in range(count)], Seen.joined)


def ask(
    place: int, address: str, plan: Plan, rate: float, answers: Answers, stopping: Any, ready: Any, results: Any
) -> None:
    """Asks at fixed times until told to stop; a key's part of the requests falls with its rank, by the power `skew`."""
    draw = np.random.default_rng(place)
    traffic = np.arange(1, plan.keys + 1) ** -plan.skew
    entries: list[tuple[int, int, bool, bool]] = []
    with Client(address, model=MODEL, timeout_s=_TIMEOUT_S) as client:
        client.predict(answers.rows[0])
        ready.wait(_START_S)
        due = time.monotonic()
        while not stopping.is_set():
            asked = draw.choice(plan.keys, size=1_000, p=traffic / traffic.sum()).tolist()
            rows = draw.integers(len(answers.rows), size=1_000).tolist()
            for key, row in zip(asked, rows, strict=True):
                if stopping.is_set():
                    break
                due += 1 / rate
                time.sleep(max(0.0, due - time.monotonic()))
                entries.append(_ask_one(client, answers, f"key-{key}", row))
    columns = list(zip(*entries, strict=True))
    results.put(
        Seen(
            np.array(columns[0], np.int64),
            np.array(columns[1], np.int64),
            np.array(columns[2], bool),
            np.array(columns[3], bool),
        )
    )


def _ask_one(client: Client, answers: Answers, key: str, row: int) -> tuple[int, int, bool, bool]:
    try:
        answer = client.predict(answers.rows[row], routing_key=key)
    except Exception:  # noqa: BLE001 - whatever it is, it is no answer
        return time.time_ns(), 0, False, False
    is_right = np.array(answer.values, np.float32).tobytes() == answers.answers[answer.version][row]
    return time.time_ns(), int(answer.version), bool(answer.findings), is_right


def _unix_ns(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1e9)


def _tickserve(home: Path, *arguments: str) -> str:
    done = subprocess.run([PROGRAM, *arguments], env=_environment(home), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"tickserve {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKSERVE_")}
    return kept | {"TICKSERVE_HOME": str(home)}
