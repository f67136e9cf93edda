"""Streams of requests: one answer or one error a message, in order; what ends a stream, and how a drain does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
from google.protobuf.message import DecodeError

from server.engine import texts
from server.engine.python import oip, prediction
from server.engine.python.abort import Context, abort
from server.engine.python.oip import varint
from server.engine.python.pipeline import Pipeline
from tickserve.errors import PredictionError
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2

# Wire tags: PredictStreamResponse.sequence and .answer, ModelStreamInferResponse.infer_response.
_SEQUENCE_TAG = b"\x08"
_ANSWER_TAG = b"\x12"
_INFER_RESPONSE_TAG = b"\x12"

#: Answers one message, given its bytes, when it arrived, the stream's deadline and the client.
AnswerMessage = Callable[[bytes, int, int, str], Awaitable[bytes]]


class Streams:
    """All open request streams.

    A stream reads a message, answers it and only then reads the next, so answers are in order and a client that does
    not read them is not read either. A drain ends a stream between two messages: at once where it waits for one.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._waiting: set[asyncio.Task[None]] = set()

    async def serve(self, context: Context, answer: AnswerMessage, deadline: int, client: str) -> None:
        """Serves one stream to its end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - handlers run as tasks
        while True:
            if self._pipeline.is_draining:
                raise await abort(context, texts.DRAINING.error())
            self._waiting.add(task)
            try:
                data = await context.read()
            except asyncio.CancelledError:
                if not self._pipeline.is_draining or context.cancelled():
                    raise
                raise await abort(context, texts.DRAINING.error()) from None
            finally:
                self._waiting.discard(task)
            if data is grpc.aio.EOF:  # type: ignore[attr-defined]
                return
            try:
                reply = await answer(data, time.perf_counter_ns(), deadline, client)
            except PredictionError as error:
                # Only what no answer can be given to comes here: bytes that are no message.
                self._pipeline.count_refusal(error)
                raise await abort(context, error) from None
            await context.write(reply)

    def end_waiting(self) -> None:
        """Ends the streams that wait for a message; the others end after the one they are at."""
        for task in self._waiting:
            task.cancel()

    async def predict(self, data: bytes, arrived: int, deadline: int, client: str) -> bytes:
        """Answers one PredictStreamRequest."""
        try:
            message = pb.PredictStreamRequest.FromString(data)
        except DecodeError:
            raise texts.MALFORMED.error(message="PredictStreamRequest") from None
        head = _SEQUENCE_TAG + varint(message.sequence)
        try:
            if not message.HasField("predict"):
                raise texts.NO_REQUEST.error(at="request")
            answer = await self._pipeline.answer(prediction.CODEC, message.predict, arrived, deadline, client)
        except PredictionError as error:
            return head + pb.PredictStreamResponse(error=_wire_error(error)).SerializeToString()
        return head + _ANSWER_TAG + varint(len(answer)) + answer

    async def infer(self, data: bytes, arrived: int, deadline: int, client: str) -> bytes:
        """Answers one ModelInferRequest of a ModelStreamInfer."""
        request = oip.parse(data)
        try:
            answer = await self._pipeline.answer(oip.CODEC, request, arrived, deadline, client)
        except PredictionError as error:
            response = grpc_service_pb2.ModelInferResponse(id=error.request_id)
            return grpc_service_pb2.ModelStreamInferResponse(
                error_message=error.message, infer_response=response
            ).SerializeToString()
        return _INFER_RESPONSE_TAG + varint(len(answer)) + answer


def _wire_error(error: PredictionError) -> pb.Error:
    return pb.Error(
        code=error.code,
        reason=None if error.reason is None else f"REASON_{error.reason}",
        message=error.message,
        field=error.field,
        request_id=error.request_id,
        executed=error.executed,
    )
