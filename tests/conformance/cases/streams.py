"""Both streams: every message of the other surfaces, one answer or one error each, in order; and what ends a stream."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from google.protobuf.message import Message

from server.engine import texts
from server.engine.texts import Text
from tests.conformance.answers import predicted
from tests.conformance.case import Case, Expected, Reply, refused, refused_by_grpc
from tests.conformance.cases import datatypes, infer, parameters, predict, routing, rules, schemas
from tests.conformance.cases.echo import ANSWERED, ECHO, ON_ECHO, ROW
from tests.conformance.requests import BROKEN, INFER, INFER_STREAM, PREDICT, PREDICT_STREAM, nested
from tests.conformance.requests import infer as infer_request
from tests.conformance.requests import predict as predict_request
from tests.conformance.served import Served
from tickserve.errors import Code
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

_UNARY = (
    *infer.MESSAGES,
    *parameters.CASES,
    *datatypes.CASES,
    *schemas.CASES,
    *predict.MESSAGES,
    *rules.CASES,
    *routing.CASES,
)
_SEQUENCES = (0, 1, 127, 128, 2**63, 2**64 - 1)
_ONE = predict_request([1, 2, 3], request_id="r")
_PREDICTED = predicted(ECHO, [1, 2, 3], request_id="r")


def predict_message(sequence: int, request: bytes) -> bytes:
    """A PredictStreamRequest that holds this PredictRequest."""
    head = pb.PredictStreamRequest(sequence=sequence).SerializeToString()
    return head + nested(2, request)


def predict_reply(sequence: int, request: bytes, expected: Expected) -> Reply:
    """What a stream says where the unary call would have come to `expected`."""
    if expected.replies:
        (reply,) = expected.replies
        return Reply(pb.PredictStreamResponse(sequence=sequence, answer=reply.message), reply.varies)
    request_id = pb.PredictRequest.FromString(request).request_id
    error = pb.Error(
        code=Code[expected.status],
        reason=f"REASON_{expected.reason}",
        message=expected.text,
        field=expected.field,
        request_id=texts.bounded(request_id, 64),
        executed=expected.executed == "1",
    )
    varies = frozenset() if request_id else frozenset({"request_id"})
    return Reply(pb.PredictStreamResponse(sequence=sequence, error=error), varies)


def infer_reply(request: bytes, expected: Expected) -> Reply:
    """The same for a ModelStreamInfer."""
    if expected.replies:
        (reply,) = expected.replies
        return Reply(oip.ModelStreamInferResponse(infer_response=reply.message), reply.varies)
    answer = oip.ModelInferResponse(id=texts.bounded(oip.ModelInferRequest.FromString(request).id, 64))
    return Reply(oip.ModelStreamInferResponse(error_message=expected.text, infer_response=answer))


def together(replies: Iterable[Reply], parts: Iterable[Expected], end: Expected | None = None) -> Expected:
    """What a stream of these replies comes to, which ends well or as `end` says."""
    counts: dict[tuple[str, str], int] = {}
    table: tuple[Text, ...] = ()
    for part in (*parts, *([end] if end else [])):
        table += part.table
        for key, count in part.counts.items():
            counts[key] = counts.get(key, 0) + count
    return replace(end or Expected(), replies=tuple(replies), counts=counts, table=table)


def _is_decodable(case: Case) -> bool:
    return texts.MALFORMED not in case.expected.table


def _is_slow_enough(case: Case) -> bool:
    # In a stream a microsecond may be longer than a request of one row takes to reach its model.
    return texts.DEADLINE not in case.expected.table


def _every_message() -> Iterable[Case]:
    """For each server one stream of everything that unary calls ask of it: no refusal ends it."""
    for served in {case.served.name: case.served for case in _UNARY}.values():
        for method, stream in ((PREDICT, PREDICT_STREAM), (INFER, INFER_STREAM)):
            cases = [case for case in _UNARY if (case.served, case.method) == (served, method)]
            cases = [case for case in cases if _is_decodable(case) and _is_slow_enough(case)]
            if cases:
                yield _stream(f"everything asked of {served.name}", served, stream, cases)


def _stream(name: str, served: Served, method: str, cases: Sequence[Case]) -> Case:
    sent = [(request, case.expected) for case in cases for request in case.messages]
    if method == PREDICT_STREAM:
        messages = [predict_message(sequence, request) for sequence, (request, _) in enumerate(sent)]
        replies = [predict_reply(sequence, *each) for sequence, each in enumerate(sent)]
    else:
        messages = [request for request, _ in sent]
        replies = [infer_reply(*each) for each in sent]
    return Case(name, served, method, tuple(messages), together(replies, [expected for _, expected in sent]))


def _predicts(name: str, messages: Sequence[bytes], replies: Sequence[Reply], end: Expected | None = None) -> Case:
    """A stream to the echo model, each of whose replies is an answer to `_ONE`."""
    expected = together(replies, [_PREDICTED] * len(replies), end)
    return Case(name, ON_ECHO, PREDICT_STREAM, tuple(messages), expected)


def _answer(sequence: int) -> Reply:
    return predict_reply(sequence, _ONE, _PREDICTED)


def _no_request(sequence: int) -> Reply:
    error = texts.NO_REQUEST.error(at="request")
    told = pb.Error(code=error.code, reason="REASON_INVALID_INPUT", message=error.message, field="request")
    return Reply(pb.PredictStreamResponse(sequence=sequence, error=told))


_TOO_LARGE = nested(15, bytes(2 << 20))

PREDICTS = (
    _predicts("no message", [], []),
    _predicts("any sequence", [predict_message(n, _ONE) for n in _SEQUENCES], [_answer(n) for n in _SEQUENCES]),
    _predicts(
        "bytes that are no message end it",
        [predict_message(1, _ONE), BROKEN, predict_message(2, _ONE)],
        [_answer(1)],
        refused(texts.MALFORMED, by="", message="PredictStreamRequest"),
    ),
    _predicts(
        "message over the bound ends it",
        [predict_message(1, _ONE), _TOO_LARGE],
        [_answer(1)],
        refused_by_grpc(Code.RESOURCE_EXHAUSTED),
    ),
    Case(
        "message without a request",
        ON_ECHO,
        PREDICT_STREAM,
        (pb.PredictStreamRequest(sequence=9).SerializeToString(), predict_message(10, _ONE)),
        replace(together([_no_request(9), _answer(10)], [_PREDICTED]), table=(texts.NO_REQUEST,)),
    ),
)


def _infers(name: str, messages: Sequence[bytes], replies: Sequence[Message], end: Expected | None = None) -> Case:
    expected = together([Reply(each) for each in replies], [ANSWERED] * len(replies), end)
    return Case(name, ON_ECHO, INFER_STREAM, tuple(messages), expected)


_INFER = infer_request(ROW)
_INFERRED = infer_reply(_INFER, ANSWERED).message

INFERS = (
    _infers("no message", [], []),
    _infers(
        "bytes that are no message end it",
        [_INFER, BROKEN, _INFER],
        [_INFERRED],
        refused(texts.MALFORMED, by="", message="ModelInferRequest"),
    ),
    _infers(
        "message over the bound ends it", [_INFER, _TOO_LARGE], [_INFERRED], refused_by_grpc(Code.RESOURCE_EXHAUSTED)
    ),
)


CASES = (*_every_message(), *PREDICTS, *INFERS)
