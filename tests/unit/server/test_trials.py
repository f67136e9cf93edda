"""Trying versions in a process of their own: what it finds, how it may end, and that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.package import MODEL_FILE
from server.models import DirectorySource, Trials
from server.models.values import VersionRef
from server.plan import VersionPlan
from tests.support.models import large_model, slow_model
from tests.support.packages import add_constant, flip_byte
from tickserve.errors import Code, ControlError, DamagedPackageError, PackageError

BOUND_S = 60.0


class Clock:
    """Goes on when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trials(clock: Clock) -> Iterator[Trials]:
    made = Trials(BOUND_S, clock=clock)
    yield made
    made.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def plan_of(path: Path) -> VersionPlan:
    source = DirectorySource(path.parent.parent)
    return source.open(path.parent.name, VersionRef(path.name, place=str(path)))


def bare(models: Path, model: bytes) -> VersionPlan:
    path = models / "bare" / "1"
    path.mkdir(parents=True)
    (path / MODEL_FILE).write_bytes(model)
    return plan_of(path)


def idle_process(trials: Trials) -> int:
    assert trials._idle is not None
    return trials._idle.pid


def run_endless(trials: Trials, models: Path, failed: list[Exception]) -> None:
    """Tries what ends with no test."""
    try:
        trials.run(bare(models, slow_model(repeats=20_000)), 0)
    except PackageError as error:
        failed.append(error)


def has_ended(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def test_one_process_tries_one_version_after_the_other(trials: Trials, models: Path) -> None:
    trials.run(plan_of(add_constant(models, 1.0)), 0)
    process = idle_process(trials)
    trials.run(plan_of(add_constant(models, 2.0)), 1 << 30)
    assert idle_process(trials) == process
    assert trials.busy == frozenset()


def test_process_yields_the_processor_and_takes_no_signals_of_the_terminal(trials: Trials, models: Path) -> None:
    trials.run(plan_of(add_constant(models, 1.0)), 0)
    process = idle_process(trials)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, process) == min(19, own + 10)
    # The kernel may weigh niceness within a session alone.
    assert os.getsid(process) == os.getsid(0)
    assert os.getpgid(process) != os.getpgid(0)


def test_version_that_changed_after_it_was_verified_is_refused(trials: Trials, models: Path) -> None:
    path = add_constant(models, 1.0)
    plan = plan_of(path)
    flip_byte(path / MODEL_FILE)
    with pytest.raises(DamagedPackageError):
        trials.run(plan, 0)
    # The process is as good as before.
    trials.run(plan_of(add_constant(models, 2.0)), 0)


def test_memory_bound_holds_for_one_version_only(trials: Trials, models: Path) -> None:
    plan = bare(models, large_model(1 << 27))
    with pytest.raises(ControlError, match=r"takes more than the 64\.0 MiB that are left") as refused:
        trials.run(plan, 64 << 20)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    trials.run(plan, 1 << 31)


def test_process_that_went_between_two_versions_says_nothing_of_the_second(trials: Trials, models: Path) -> None:
    plan = plan_of(add_constant(models, 1.0))
    trials.run(plan, 0)
    process = idle_process(trials)
    os.kill(process, signal.SIGKILL)
    trials.run(plan, 0)
    assert idle_process(trials) != process


def test_processes_do_not_wait_for_each_other(trials: Trials, models: Path) -> None:
    plan = plan_of(add_constant(models, 1.0))
    trials.run(plan, 0)
    first = idle_process(trials)
    failed: list[Exception] = []
    thread = threading.Thread(target=run_endless, args=(trials, models, failed))
    thread.start()
    wait_until(lambda: trials.busy == {first})
    trials.run(plan, 0)
    os.kill(first, signal.SIGKILL)
    thread.join(BOUND_S)
    assert "by SIGKILL" in str(failed[0])


def test_idle_process_ends_after_a_while(trials: Trials, models: Path, clock: Clock) -> None:
    trials.run(plan_of(add_constant(models, 1.0)), 0)
    process = idle_process(trials)
    trials.tend()
    assert not has_ended(process)
    clock.now += 60.0
    trials.tend()
    assert has_ended(process)


def test_end_takes_every_process_with_it(trials: Trials, models: Path) -> None:
    failed: list[Exception] = []
    thread = threading.Thread(target=run_endless, args=(trials, models, failed))
    thread.start()
    wait_until(lambda: trials.busy)
    [process] = trials.busy
    trials.close()
    thread.join(BOUND_S)
    assert has_ended(process)
    assert "ended the process that tried it, by SIGKILL" in str(failed[0])
    with pytest.raises(ControlError, match="the server is ending"):
        trials.run(plan_of(add_constant(models, 1.0)), 0)


def test_process_ends_with_its_server_whatever_it_tries(models: Path) -> None:
    plan = bare(models, slow_model(repeats=20_000))
    request = {"model": plan.model, "path": str(plan.path), "digest": plan.digest.hex(), "room_bytes": 0}
    command = [sys.executable, "-m", "server.trial_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({**request, "timeout_s": 3600.0}).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"begun\n"
        # As the kernel does for a server that is killed.
        process.stdin.close()
        assert process.wait(BOUND_S) == 1


def test_process_that_does_not_start_is_told_apart_from_a_version_that_ends_it(models: Path, tmp_path: Path) -> None:
    plan = plan_of(add_constant(models, 1.0))
    with pytest.raises(ControlError, match="no process to try a version in: No such file"):
        Trials(BOUND_S, command=[str(tmp_path / "missing")]).run(plan, 0)
    with pytest.raises(ControlError, match="does not start: it ended with exit code 3"):
        Trials(BOUND_S, command=[sys.executable, "-c", "raise SystemExit(3)"]).run(plan, 0)


def wait_until(is_true: object) -> None:
    end = time.monotonic() + BOUND_S
    while not is_true():  # type: ignore[operator]
        assert time.monotonic() < end, "not in time"
        threading.Event().wait(0.01)
