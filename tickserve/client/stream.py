"""A stream of predictions for threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Self, Unpack

from tickserve.client.core import PREDICT, PREDICT_STREAM, Call, Core, Job, Outcome, Step
from tickserve.client.exchange import Exchange, closed, late, too_late_to_send
from tickserve.client.failure import prediction_error
from tickserve.client.features import Features
from tickserve.client.options import Request, RequestOptions, to_request
from tickserve.client.transport import CallError, Transport
from tickserve.errors import TickserveError
from tickserve.prediction import Prediction

# For the server's status, where nothing is under way any more.
_CLOSE_S = 1.0


class Stream:
    """Predictions over one call, without the cost of a call each; made by `Client.stream`.

    Any number of threads may use it at once: each gets its own answers. A refusal concerns one request only. Where the
    stream itself ends (the server drains, the connection breaks, someone closes it) every request under way and every
    later one fails with the cause, such as DrainingError; open a new stream then.
    """

    def __init__(self, core: Core, transport: Transport, perform: Callable[[Step], Outcome], window: int) -> None:
        self._core = core
        self._perform_alone = perform
        self._window = window
        self._lock = threading.Lock()
        self._exchange: Exchange[Future[Outcome]] = Exchange(window)
        try:
            self._call = transport.stream(PREDICT_STREAM)
        except CallError as failed:
            raise prediction_error(failed, address=core.address) from None
        self._reader = threading.Thread(target=self._read, name="tickserve-stream", daemon=True)
        self._reader.start()

    def predict(self, features: Features, **options: Unpack[RequestOptions]) -> Prediction:
        """Sends one request and waits for its answer; takes and raises what `Client.predict` does.

        A deadline that passes ends the waiting, not the stream.
        """
        return self._finish(self._begin(Request(features, **options)))

    def predict_many(self, requests: Iterable[Features | Request]) -> Iterator[Prediction | TickserveError]:
        """Exactly one result for each request, in order: the prediction, or the error that `predict` would raise.

        Keeps up to `window` requests under way; each one's deadline counts from when it was sent. Results are handed
        over while the next request is fetched, so where requests come slowly and answers matter at once, `predict`
        is the better call. An exception of `requests` itself is raised to the caller.
        """
        under_way: deque[_UnderWay | TickserveError] = deque()
        for given in requests:
            try:
                under_way.append(self._begin(to_request(given)))
            except TickserveError as error:
                under_way.append(error)
            while under_way and (len(under_way) >= self._window or _is_done(under_way[0])):
                yield self._result(under_way.popleft())
        while under_way:
            yield self._result(under_way.popleft())

    def close(self) -> None:
        """Ends the stream; requests under way fail, and are marked as executed for all one knows."""
        with self._lock:
            is_idle = self._exchange.is_idle
            self._exchange.end(closed())
        if is_idle:
            self._call.finish()
            self._reader.join(_CLOSE_S)
        self._call.cancel()
        self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, request: Request) -> _UnderWay:
        job = self._core.predict(request)
        while job.step is not None:
            if isinstance(job.step, Call) and job.step.method == PREDICT:
                return _UnderWay(job, job.step, self._ask(job.step))
            job.advance(self._perform_alone(job.step))
        raise AssertionError("a prediction without a call of PREDICT")

    def _finish(self, sent: _UnderWay) -> Prediction:
        job = sent.job
        job.advance(self._after(sent.call, _await(sent.call, sent.ticket)))
        while job.step is not None:
            job.advance(self._perform(job.step))
        return job.result

    def _result(self, sent: _UnderWay | TickserveError) -> Prediction | TickserveError:
        if isinstance(sent, TickserveError):
            return sent
        try:
            return self._finish(sent)
        except TickserveError as error:
            return error

    def _perform(self, step: Step) -> Outcome:
        if isinstance(step, Call) and step.method == PREDICT:
            return self._after(step, _await(step, self._ask(step)))
        return self._perform_alone(step)

    def _after(self, call: Call, outcome: Outcome) -> Outcome:
        """Where the stream's server cannot answer and has not tried, a call of its own goes to another one."""
        return self._perform_alone(call) if self._core.goes_elsewhere(outcome) else outcome

    def _ask(self, call: Call) -> Future[Outcome]:
        ticket: Future[Outcome] = Future()
        while True:
            with self._lock:
                in_the_way = self._exchange.in_the_way()
                if in_the_way is None:
                    message = self._exchange.ask(call, ticket)
                    if message is not None:
                        # Under the lock, so that messages leave in the order of their numbers.
                        self._call.send(message)
                    return ticket
            if not wait((in_the_way,), call.left_s).done:
                ticket.set_result(too_late_to_send())
                return ticket

    def _read(self) -> None:
        why: CallError | None = None
        try:
            for data in self._call:
                with self._lock:
                    is_whole = self._exchange.take(data)
                if not is_whole:
                    self._call.cancel()
        except CallError as failed:
            why = failed
        with self._lock:
            self._exchange.end(why)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    job: Job[Prediction]
    call: Call
    ticket: Future[Outcome]


def _await(call: Call, ticket: Future[Outcome]) -> Outcome:
    try:
        return ticket.result(call.left_s)
    except TimeoutError:
        return late()


def _is_done(sent: _UnderWay | TickserveError) -> bool:
    return isinstance(sent, TickserveError) or sent.ticket.done()
