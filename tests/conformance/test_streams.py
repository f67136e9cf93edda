"""Streams over time: the plan changes, the server drains, the client goes away."""

import threading

from server.plan import Halt
from tests.conformance.cases import reflection
from tests.conformance.cases.streams import predict_message
from tests.conformance.conftest import Bench
from tests.conformance.requests import INFER_STREAM, PREDICT_STREAM, infer, predict, raw
from tests.conformance.running import Stream
from tests.conformance.served import tensor
from tests.support.models import constant_model, echo_model, slow_model, version_plan, working_model
from tickserve.v1 import prediction_pb2 as pb

ONE_VALUE = (tensor("values", "FP32", -1, 1),)


def message(sequence: int, model: str = "echo", turns: float = 1) -> bytes:
    return predict_message(sequence, predict([turns, 2, 3], model=model))


def ask(stream: Stream, sequence: int) -> pb.PredictStreamResponse:
    stream.send(message(sequence))
    return pb.PredictStreamResponse.FromString(stream.receive())


def test_the_plan_is_read_for_each_message(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, constant_model(1.0), outputs=ONE_VALUE))
    stream = Stream(bench.channel, PREDICT_STREAM)
    assert list(ask(stream, 1).answer.values) == [1]
    second = version_plan(bench.folder, constant_model(2.0), version="2", outputs=ONE_VALUE)
    bench.install(second)
    reply = ask(stream, 2)
    assert (list(reply.answer.values), reply.answer.version) == ([2], "2")
    bench.install(second, halt=Halt("stop", "kim", 1))
    assert ask(stream, 3).error.reason == pb.REASON_HALTED


def test_drain_refuses_calls_and_ends_a_waiting_stream_at_once_and_a_busy_one_after_its_message(bench: Bench) -> None:
    bench.install(version_plan(bench.folder, working_model(), name="slow", outputs=ONE_VALUE))
    bench.install(version_plan(bench.folder, echo_model()))
    waiting, busy = Stream(bench.channel, PREDICT_STREAM), Stream(bench.channel, PREDICT_STREAM)
    assert ask(waiting, 1).WhichOneof("result") == "answer"
    others = [Stream(bench.channel, INFER_STREAM)]
    others[0].send(infer(raw([[1, 2, 3]])))
    for version in reflection.VERSIONS:
        others.append(Stream(bench.channel, f"/{version}/ServerReflectionInfo"))
        others[-1].send(b"\x3a\x00")
    for each in others:
        assert each.receive()
    # Over a second of work: the engine is there until it is done, and what is asked here comes while it is.
    for sequence in (1, 2):
        busy.send(message(sequence, model="slow", turns=1000))
    while bench.engine.counters().in_flight == 0:
        threading.Event().wait(0.001)
    stopping = threading.Thread(target=bench.engine.stop, args=(20.0,))
    stopping.start()
    for each in (waiting, *others):
        assert each.ends_with() == ("UNAVAILABLE", "DRAINING")
    seen = bench.predict()
    assert (seen.status, seen.reason, seen.executed) == ("UNAVAILABLE", "DRAINING", "0")
    assert seen.text == "the server is draining; use another endpoint"
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
    assert bench.predict().status == "OK"
