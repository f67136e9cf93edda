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
from server.engine.python.pipeline import FRAME_BYTES, Pipeline
from tickserve.errors import TickserveError
from tickserve.v1 import prediction_pb2 as pb
from tickserve.varint import varint
from tickserve.wire import grpc_service_pb2

# Wire tags: PredictStreamResponse.sequence and .answer, ModelStreamInferResponse.infer_response.
_SEQUENCE_TAG = b"\x08"
_ANSWER_TAG = b"\x12"
_INFER_RESPONSE_TAG = b"\x12"

#: How long a drain waits for a client to take an answer.
_WRITE_WAIT_S = 1.0

#: Answers one message, given its bytes, when it arrived, the stream's deadline and the client.
AnswerMessage = Callable[[bytes, int, int, str], Awaitable[bytes]]


class Streams:
    """All open request streams.

    A stream reads a message, answers it and only then reads the next, so answers are in order and a client that does
    not read them is not read either. A drain ends a stream between two messages: at once where it waits for one. It
    waits `_WRITE_WAIT_S` for a client to take an answer; one that does so later is told of the drain while the
    listener lives.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._open: set[asyncio.Task[None]] = set()
        self._reading: set[asyncio.Task[None]] = set()
        self._writing: set[asyncio.Task[None]] = set()

    async def serve(self, context: Context, answer: AnswerMessage, deadline: int, client: str) -> None:
        """Serves one stream to its end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - handlers run as tasks
        self._open.add(task)
        try:
            error = await self._serve(task, context, answer, deadline, client)
        finally:
            for tasks in (self._open, self._reading, self._writing):
                tasks.discard(task)
        if error is not None:
            raise await abort(context, error)

    def end_reading(self) -> None:
        """Ends the streams that wait for a message; the others end after the one they are at."""
        for task in self._reading:
            task.cancel()

    async def drained(self) -> None:
        """Returns when all streams have ended while draining; gives up those whose client takes no answer.

        A stream ends after the answer that it is at, so one that writes from one round to the next is stuck.
        """
        while self._open:
            writing = self._writing.copy()
            await asyncio.wait(self._open.copy(), timeout=_WRITE_WAIT_S)
            self._open -= writing & self._writing

    async def _serve(
        self, task: asyncio.Task[None], context: Context, answer: AnswerMessage, deadline: int, client: str
    ) -> TickserveError | None:
        """Answers messages; returns the error that ends the stream, or None where the client ended it."""
        while not self._pipeline.is_draining:
            try:
                self._reading.add(task)
                data = await context.read()
                self._reading.discard(task)
                if data is grpc.aio.EOF:  # type: ignore[attr-defined]
                    return None
                try:
                    reply = await answer(data, time.perf_counter_ns(), deadline, client)
                except TickserveError as error:
                    # Only what no answer can be given to comes here: bytes that are no message.
                    self._pipeline.count_refusal(error)
                    return error
                except Exception:  # noqa: BLE001 - whatever it is, the client gets a status and the log the traceback
                    self._pipeline.keep_fault()
                    return texts.FAULT.error()
                if len(reply) > self._pipeline.max_answer_bytes + FRAME_BYTES:
                    return texts.DESCRIPTION_TOO_LONG.error(size=len(reply), bound=self._pipeline.max_answer_bytes)
                self._writing.add(task)
                await context.write(reply)
                self._writing.discard(task)
            except asyncio.CancelledError:
                if not self._pipeline.is_draining or context.cancelled():
                    raise
        return texts.DRAINING.error()

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
            answer = await self._pipeline.answer(
                prediction.CODEC, message.predict, len(data), arrived, deadline, client
            )
        except TickserveError as error:
            return head + pb.PredictStreamResponse(error=_wire_error(error)).SerializeToString()
        return head + _ANSWER_TAG + varint(len(answer)) + answer

    async def infer(self, data: bytes, arrived: int, deadline: int, client: str) -> bytes:
        """Answers one ModelInferRequest of a ModelStreamInfer."""
        request = oip.parse(data)
        try:
            answer = await self._pipeline.answer(oip.CODEC, request, len(data), arrived, deadline, client)
        except TickserveError as error:
            response = grpc_service_pb2.ModelInferResponse(id=error.request_id)
            return grpc_service_pb2.ModelStreamInferResponse(
                error_message=error.message, infer_response=response
            ).SerializeToString()
        return _INFER_RESPONSE_TAG + varint(len(answer)) + answer


def _wire_error(error: TickserveError) -> pb.Error:
    return pb.Error(
        code=error.code,
        reason=None if error.reason is None else f"REASON_{error.reason}",
        message=error.message,
        field=error.field,
        request_id=error.request_id,
        executed=error.executed,
    )
