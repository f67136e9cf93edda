"""What yields the processor: at which priority a session is made and measured."""

import os
import threading
from pathlib import Path

import pytest

from server.engine.python import session as session_module
from server.engine.python.runtime import prepare
from server.engine.yielding import run_yielding
from tests.support.models import echo_model, version_plan
from tickserve.errors import PackageError


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_work_runs_at_low_priority_and_the_caller_keeps_its_own() -> None:
    own = niceness()
    assert run_yielding(niceness) == min(19, own + 10)
    assert niceness() == own


def test_what_the_work_raises_is_raised() -> None:
    def fail() -> None:
        raise PackageError("no good", field="model.onnx")

    with pytest.raises(PackageError, match="no good"):
        run_yielding(fail)


def test_sessions_are_made_at_low_priority_and_measured_at_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    measured: list[int] = []
    open_session, run_one = session_module.open_session, session_module.Session.run_one

    def making(model: bytes) -> object:
        made.append(niceness())
        return open_session(model)

    def running(self: session_module.Session, arrays: object) -> object:
        measured.append(niceness())
        return run_one(self, arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(session_module, "open_session", making)
    monkeypatch.setattr(session_module.Session, "run_one", running)
    prepare(version_plan(tmp_path, echo_model()))
    assert made == [min(19, niceness() + 10)]
    assert set(measured) == {niceness()}
