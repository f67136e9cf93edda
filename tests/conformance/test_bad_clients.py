"""Clients that do not read, or die in the middle: they cost little, and the others get their answers."""

import time

import grpc
import numpy as np
import pytest

from mlops.package import Limits
from tests.conformance.cases.streams import predict_message
from tests.conformance.conftest import Bench
from tests.conformance.process import resident_bytes
from tests.conformance.requests import PREDICT_STREAM, predict
from tests.conformance.running import Stream
from tests.conformance.served import tensor
from tests.support.models import echo_model, slow_model, version_plan

ONE_VALUE = (tensor("values", "FP32", -1, 1),)


@pytest.fixture
def echo(bench: Bench) -> Bench:
    bench.install(version_plan(bench.folder, echo_model(), limits=Limits(max_rows=64)))
    return bench


def unread_answers(bench: Bench) -> int:
    """Answers of 64 rows, told by the rows from those of one."""
    counted = bench.counted("echo")
    return (counted.rows - counted.answered) // 63


def test_a_client_that_never_reads_is_not_read_either(echo: Bench) -> None:
    with grpc.insecure_channel(echo.address, options=[("grpc.http2.bdp_probe", 0)]) as channel:
        stuck = Stream(channel, PREDICT_STREAM)
        before = resident_bytes()
        features = np.zeros(64 * 3, np.float32)
        for sequence in range(3000):
            stuck.send(predict_message(sequence, predict(features, rows=64)))
        unread = -1
        # None yet says that the stream was not begun on.
        while (now := unread_answers(echo)) != unread or not now:
            unread = now
            for _ in range(50):
                assert echo.predict().status == "OK"
        # The answers that no one reads are bounded by the flow-control windows, not by what was asked.
        assert 0 < unread < 1000
        assert resident_bytes() - before < 64 << 20
        stuck.call.cancel()
        stuck.close()
    assert echo.predict().status == "OK"


def test_a_client_that_dies_in_the_middle_of_a_stream(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(), name="slow", outputs=ONE_VALUE))
    bench.install(version_plan(bench.folder, echo_model()))
    for _ in range(10):
        channel = grpc.insecure_channel(bench.address)
        stream = Stream(channel, PREDICT_STREAM)
        stream.send(predict_message(1, predict([1, 2, 3])))
        stream.receive()
        stream.send(predict_message(2, predict([1, 2, 3], model="slow")))
        channel.close()
        stream.close()
    deadline = time.monotonic() + 60
    while bench.engine.counters().in_flight and time.monotonic() < deadline:
        bench.predict()
    assert bench.engine.counters().in_flight == 0
