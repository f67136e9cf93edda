"""However a stream's messages and answers interleave, each request gets its own outcome, once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickserve.client.core import Call, Outcome
from tickserve.client.exchange import Exchange
from tickserve.client.failure import EXECUTED_KEY
from tickserve.client.transport import CallError
from tickserve.errors import Code
from tickserve.v1 import prediction_pb2 as pb


class Ticket:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def set_result(self, result: Outcome) -> None:
        self.outcomes.append(result)


def call(number: int, *, end: float = 1e9) -> Call:
    return Call("PREDICT", pb.PredictRequest(request_id=str(number), features=[number]).SerializeToString(), end)


@given(st.integers(1, 5), st.lists(st.sampled_from(["ask", "answer", "refuse"]), max_size=60), st.booleans())
def test_each_request_gets_its_own_outcome_once(window: int, steps: list[str], is_broken: bool) -> None:
    exchange: Exchange[Ticket] = Exchange(window)
    tickets: list[Ticket] = []
    sent: list[pb.PredictStreamRequest] = []
    answered = 0
    for step in steps:
        if step == "ask":
            if exchange.in_the_way() is not None:
                assert exchange.in_the_way() is tickets[answered]
                assert len(tickets) - answered == window
                continue
            tickets.append(Ticket())
            message = exchange.ask(call(len(tickets)), tickets[-1])
            assert message is not None
            sent.append(pb.PredictStreamRequest.FromString(message))
        elif answered < len(tickets):
            response = pb.PredictStreamResponse(sequence=sent[answered].sequence)
            if step == "answer":
                response.answer.request_id = sent[answered].predict.request_id
            else:
                response.error.message = sent[answered].predict.request_id
            assert exchange.take(response.SerializeToString())
            answered += 1
    exchange.end(CallError(Code.UNAVAILABLE, "gone") if is_broken else None)
    for number, (ticket, message) in enumerate(zip(tickets, sent, strict=True), start=1):
        (outcome,) = ticket.outcomes
        if number > answered:
            assert isinstance(outcome, CallError)
            assert outcome.code is (Code.UNAVAILABLE if is_broken else Code.INTERNAL)
        else:
            own = outcome.message if isinstance(outcome, CallError) else outcome.request_id  # type: ignore[union-attr]
            assert own == str(number)
        assert (message.predict.request_id, list(message.predict.features)) == (str(number), [number])
        assert message.predict.timeout_us > 0
    after = Ticket()
    assert exchange.ask(call(0), after) is None
    (outcome,) = after.outcomes
    assert isinstance(outcome, CallError)
    assert outcome.trailers[EXECUTED_KEY] == "0"


@given(st.binary(max_size=40))
def test_bytes_of_any_kind_break_the_stream_or_answer_one_request(data: bytes) -> None:
    exchange: Exchange[Ticket] = Exchange(4)
    tickets = [Ticket(), Ticket()]
    for ticket in tickets:
        exchange.ask(call(1), ticket)
    if exchange.take(data):
        assert [len(ticket.outcomes) for ticket in tickets] == [1, 0]
    else:
        assert [len(ticket.outcomes) for ticket in tickets] == [1, 1]
        assert all(isinstance(ticket.outcomes[0], CallError) for ticket in tickets)


@pytest.mark.parametrize(("end", "timeout_us"), [(0.0, 1), (1e300, 10**15)])
def test_a_deadline_that_has_passed_or_never_will_is_sent_as_one_all_the_same(end: float, timeout_us: int) -> None:
    exchange: Exchange[Ticket] = Exchange(1)
    message = exchange.ask(call(1, end=end), Ticket())
    assert message is not None
    assert pb.PredictStreamRequest.FromString(message).predict.timeout_us == timeout_us
