"""The end of a server: what calls and streams get, and that no client can hold it up."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlops.package import TensorSpec
from server.engine.python import PythonEngine
from server.engine.python.session import Session
from tests.support.models import constant_model, echo_model, version_plan
from tests.unit.server.engines import BOUND_S, GET_MODEL, PREDICT, PREDICT_STREAM, connection, refused, running
from tickserve.v1 import prediction_pb2 as pb

ONE_VALUE = (TensorSpec(name="values", datatype="FP32", shape=(-1, 1)),)
SMALL = pb.PredictRequest(model="echo", features=[1, 2, 3]).SerializeToString()
DRAINING = ("UNAVAILABLE", "DRAINING", "0", "the server is draining; use another endpoint")


def wait_until(condition: Callable[[], object]) -> None:
    waited = threading.Event()
    for _ in range(int(BOUND_S / 0.01)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it did not happen in time")


class HeldRun:
    """Runs wait here until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        run = Session.run

        def held(session: Session, arrays: Any) -> Any:
            self.reached.set()
            assert self.opened.wait(BOUND_S)
            return run(session, arrays)

        monkeypatch.setattr(Session, "run", held)


def stopping(engine: PythonEngine, grace_s: float) -> "Future[None]":
    """The end of the engine, on a thread of its own; a daemon, so that a failed test ends all the same."""
    ended: Future[None] = Future()

    def stop() -> None:
        engine.stop(grace_s)
        ended.set_result(None)

    threading.Thread(target=stop, daemon=True).start()
    return ended


def test_calls_on_open_connections_are_told_that_the_server_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = version_plan(tmp_path, constant_model(1.0), outputs=ONE_VALUE)
    rows = plan.limits.max_rows
    many = pb.PredictRequest(model="echo", rows=rows, features=np.zeros(3 * rows, np.float32)).SerializeToString()
    described = pb.GetModelRequest(model="echo").SerializeToString()
    with running(plan) as (engine, address), connection(address) as channel:
        channel.unary_unary(PREDICT)(SMALL, timeout=BOUND_S)
        held = HeldRun(monkeypatch)
        busy = channel.unary_unary(PREDICT).future(many, timeout=BOUND_S)
        assert held.reached.wait(BOUND_S)
        ended = stopping(engine, BOUND_S)
        wait_until(lambda: engine._pipeline.is_draining)
        for _ in range(20):
            assert refused(channel, PREDICT, SMALL) == DRAINING
        # A connection that is new is told so too, and descriptions are given to the end.
        with connection(address) as other:
            assert refused(other, PREDICT, SMALL) == DRAINING
            assert other.unary_unary(GET_MODEL)(described, timeout=BOUND_S)
        assert not ended.done()
        held.opened.set()
        assert len(pb.PredictResponse.FromString(busy.result()).values) == rows
        ended.result(BOUND_S)


def never_ending(rows: int) -> Iterator[bytes]:
    """Requests of a stream, for as long as they are taken."""
    large = pb.PredictRequest(model="echo", rows=rows, features=np.zeros(3 * rows, np.float32))
    for sequence in itertools.count():
        yield pb.PredictStreamRequest(sequence=sequence, predict=large).SerializeToString()


def test_a_client_that_never_reads_does_not_take_the_whole_grace(tmp_path: Path) -> None:
    with running(version_plan(tmp_path, echo_model())) as (engine, address), connection(address) as channel:
        stuck = channel.stream_stream(PREDICT_STREAM)(never_ending(rows=4096))
        wait_until(lambda: is_stuck(engine))
        # The grace is far beyond the bound of this test.
        stopping(engine, grace_s=1000 * BOUND_S).result(BOUND_S)
        with pytest.raises(grpc.RpcError) as ended:
            for _ in stuck:
                pass
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_that_reads_late_is_told_why_its_stream_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(version_plan(tmp_path, echo_model())) as (engine, address), connection(address) as channel:
        stuck = channel.stream_stream(PREDICT_STREAM)(never_ending(rows=4096))
        wait_until(lambda: is_stuck(engine))
        with connection(address) as other:
            held = HeldRun(monkeypatch)
            many = pb.PredictRequest(model="echo", rows=4096, features=np.zeros(3 * 4096, np.float32))
            busy = other.unary_unary(PREDICT).future(many.SerializeToString(), timeout=BOUND_S)
            assert held.reached.wait(BOUND_S)
            ended = stopping(engine, BOUND_S)
            wait_until(lambda: not engine._transport._services.streams._open)
            with pytest.raises(grpc.RpcError) as told:
                for _ in stuck:
                    pass
            held.opened.set()
            assert busy.result()
        assert told.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(told.value.trailing_metadata())["tickserve-reason"] == "DRAINING"
        ended.result(BOUND_S)


def is_stuck(engine: PythonEngine) -> bool:
    """Whether a stream is at the same write for a while: as many answers before as after some waiting."""
    (before,) = (item.answered for item in engine.counters().versions)
    threading.Event().wait(0.2)
    (after,) = (item.answered for item in engine.counters().versions)
    return before == after > 0 and len(engine._transport._services.streams._writing) == 1
