"""Streams: one answer or one error a message, in order; what ends a stream, and what does not."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from mlops.package import OutputRule
from server.plan import Halt
from tests.conformance.conftest import TIMEOUT_S, Bench
from tests.conformance.test_oip import request as infer_request
from tests.conformance.test_oip import values_of
from tests.conformance.test_prediction import ONE_VALUE
from tests.support.models import constant_model, echo_model, slow_model, version_plan
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

PREDICT_STREAM = "/tickserve.v1.Prediction/PredictStream"
INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


class Stream:
    """One open stream: send, receive, close, over raw bytes."""

    def __init__(self, channel: grpc.Channel, method: str) -> None:
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.call: Any = channel.stream_stream(method)(self._requests(), timeout=TIMEOUT_S)

    def _requests(self) -> Iterator[bytes]:
        while (data := self._outgoing.get()) is not None:
            yield data

    def send(self, data: bytes) -> None:
        self._outgoing.put(data)

    def receive(self) -> bytes:
        return bytes(next(self.call))

    def close(self) -> None:
        self._outgoing.put(None)

    def predict(self, sequence: int, **request: Any) -> pb.PredictStreamResponse:
        self.send(message(sequence, **request))
        return pb.PredictStreamResponse.FromString(self.receive())

    def ends_with(self) -> tuple[str, str]:
        """Reads to the end; the status and the reason in the trailers."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError:
            pass
        return self.call.code().name, dict(self.call.trailing_metadata()).get("tickserve-reason", "")


def message(sequence: int, **request: Any) -> bytes:
    predict = pb.PredictRequest(**({"model": "echo", "features": [1, 2, 3]} | request))
    return pb.PredictStreamRequest(sequence=sequence, predict=predict).SerializeToString()


@pytest.fixture
def echo(bench: Bench) -> Bench:
    bench.install(version_plan(bench.folder, echo_model()))
    return bench


def test_each_message_gets_one_answer_in_order(echo: Bench) -> None:
    stream = Stream(echo.channel, PREDICT_STREAM)
    for sequence in (0, 1, 2, 300, 2**63):
        stream.send(message(sequence, features=[sequence % 7, 2, 3], request_id=f"r{sequence}"))
    for sequence in (0, 1, 2, 300, 2**63):
        reply = pb.PredictStreamResponse.FromString(stream.receive())
        assert (reply.sequence, reply.WhichOneof("result")) == (sequence, "answer")
        assert (reply.answer.request_id, list(reply.answer.values)) == (f"r{sequence}", [sequence % 7, 2, 3])
    stream.close()
    assert stream.ends_with() == ("OK", "")


def test_a_bad_request_is_one_error_and_the_stream_goes_on(echo: Bench) -> None:
    stream = Stream(echo.channel, PREDICT_STREAM)
    refused = [
        ({"features": [1]}, 3, pb.REASON_INVALID_INPUT, "features"),
        ({"features": [1, float("nan"), 3]}, 3, pb.REASON_INVALID_INPUT, "rsi"),
        ({"model": "nope"}, 5, pb.REASON_NOT_FOUND, "model"),
        ({"timeout_us": 1}, 4, pb.REASON_DEADLINE, ""),
    ]
    for sequence, (change, code, reason, field) in enumerate(refused, start=1):
        reply = stream.predict(sequence, request_id="mine", **change)
        assert (reply.sequence, reply.WhichOneof("result")) == (sequence, "error")
        error = reply.error
        assert (error.code, error.reason, error.field, error.executed) == (code, reason, field, False)
        assert (error.request_id, bool(error.message)) == ("mine", True)
        assert stream.predict(100 + sequence).WhichOneof("result") == "answer"
    empty = pb.PredictStreamRequest(sequence=9).SerializeToString()
    stream.send(empty)
    reply = pb.PredictStreamResponse.FromString(stream.receive())
    assert (reply.sequence, reply.error.message) == (9, "the message holds no request")
    stream.close()
    assert stream.ends_with() == ("OK", "")


def test_an_error_after_the_run_says_executed(bench: Bench) -> None:
    rule = OutputRule(name="range", output="values", kind="range", minimum=0)
    bench.install(version_plan(bench.folder, echo_model(), output_rules=(rule,)))
    error = Stream(bench.channel, PREDICT_STREAM).predict(1, features=[-1, 0, 0]).error
    assert (error.reason, error.executed, bool(error.request_id)) == (pb.REASON_OUTPUT_RULE, True, True)


def test_undecodable_and_oversize_messages_end_the_stream(echo: Bench) -> None:
    stream = Stream(echo.channel, PREDICT_STREAM)
    assert stream.predict(1).WhichOneof("result") == "answer"
    stream.send(b"\x12\xff")
    assert stream.ends_with() == ("INVALID_ARGUMENT", "INVALID_INPUT")
    stream = Stream(echo.channel, PREDICT_STREAM)
    stream.send(message(1, features=[0.0] * (1 << 19)))
    assert stream.ends_with()[0] == "RESOURCE_EXHAUSTED"
    assert Stream(echo.channel, PREDICT_STREAM).predict(1).WhichOneof("result") == "answer"


def test_the_plan_is_read_for_each_message(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, constant_model(1.0), outputs=ONE_VALUE))
    stream = Stream(bench.channel, PREDICT_STREAM)
    assert list(stream.predict(1).answer.values) == [1]
    bench.models.clear()
    second = version_plan(bench.folder, constant_model(2.0), version="2", outputs=ONE_VALUE)
    bench.install(second)
    reply = stream.predict(2)
    assert (list(reply.answer.values), reply.answer.version) == ([2], "2")
    bench.install(second, halt=Halt("stop", "kim", 1))
    assert stream.predict(3).error.reason == pb.REASON_HALTED


def test_drain_ends_a_waiting_stream_at_once_and_a_busy_one_after_its_message(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(repeats=400), name="slow", outputs=ONE_VALUE))
    bench.install(version_plan(bench.folder, echo_model()))
    waiting, busy = Stream(bench.channel, PREDICT_STREAM), Stream(bench.channel, PREDICT_STREAM)
    assert waiting.predict(1).WhichOneof("result") == "answer"
    busy.send(message(1, model="slow"))
    busy.send(message(2, model="slow"))
    while bench.engine.counters().in_flight == 0:
        threading.Event().wait(0.001)
    stopping = threading.Thread(target=bench.engine.stop, args=(20.0,))
    stopping.start()
    assert waiting.ends_with() == ("UNAVAILABLE", "DRAINING")
    reply = pb.PredictStreamResponse.FromString(busy.receive())
    assert (reply.sequence, reply.WhichOneof("result")) == (1, "answer")
    assert busy.ends_with() == ("UNAVAILABLE", "DRAINING")
    stopping.join()


def test_a_client_that_goes_away_leaves_nothing_in_flight(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, slow_model(), name="slow", outputs=ONE_VALUE))
    bench.install(version_plan(bench.folder, echo_model()))
    for _ in range(20):
        stream = Stream(bench.channel, PREDICT_STREAM)
        stream.send(message(1, model="slow"))
        stream.call.cancel()
        stream.close()
    while bench.engine.counters().in_flight:
        threading.Event().wait(0.001)
    assert bench.predict(features=[1, 2, 3]).status == "OK"


def test_infer_stream_answers_and_keeps_errors_in_band(echo: Bench) -> None:
    stream = Stream(echo.channel, INFER_STREAM)
    stream.send(infer_request().SerializeToString())
    reply = oip.ModelStreamInferResponse.FromString(stream.receive())
    assert (reply.error_message, values_of(reply.infer_response), reply.infer_response.id) == ("", [1, 2, 3], "a-1")
    stream.send(infer_request(np.zeros((1, 4), np.float32), id="bad").SerializeToString())
    reply = oip.ModelStreamInferResponse.FromString(stream.receive())
    assert reply.error_message == "input 'features' has shape [1, 4], expected [-1, 3]"
    assert reply.infer_response.id == "bad"
    stream.send(infer_request(id="good").SerializeToString())
    assert oip.ModelStreamInferResponse.FromString(stream.receive()).infer_response.id == "good"
    stream.send(b"\x0a\xff")
    assert stream.ends_with() == ("INVALID_ARGUMENT", "INVALID_INPUT")


def test_messages_of_streams_are_counted_like_calls(echo: Bench) -> None:
    stream = Stream(echo.channel, PREDICT_STREAM)
    for sequence in range(3):
        stream.predict(sequence)
    stream.predict(4, features=[1])
    counted = echo.counted("echo")
    assert (counted.answered, counted.errors) == (3, {"INVALID_INPUT": 1})
