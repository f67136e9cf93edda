"""Whatever a caller's features are, the bytes sent hold just these, in the model's order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tickserve.client.failure import EXECUTED_KEY, FIELD_KEY, prediction_error
from tickserve.client.features import NamedLines, parse_features
from tickserve.client.request import Head, encode_array, encode_lines, make_head
from tickserve.client.transport import CallError
from tickserve.errors import Code
from tickserve.prediction import Limits, ModelInfo, Role
from tickserve.v1 import prediction_pb2 as pb

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True)


def head() -> Head:
    return make_head("m", "3", "r", "k", ["e"], 5)


def describe(names: list[str]) -> ModelInfo:
    return ModelInfo(
        model="m",
        version="1",
        digest="",
        role=Role.STABLE,
        plan_generation=1,
        feature_names=tuple(names),
        feature_digest="ab" * 32,
        inputs=(),
        outputs=(),
        value_names=(),
        limits=Limits(0, 0, 0, 0),
        has_signal=False,
        has_confidence=False,
        requires_event_time=False,
        max_age_ns=0,
        max_future_ns=0,
    )


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=40), elements=FLOATS))
def test_an_array_arrives_bit_for_bit(values: np.ndarray) -> None:
    given_values = parse_features(values)
    assert isinstance(given_values, np.ndarray)
    data = encode_array(head(), given_values, None, None)
    assert data.endswith(values.tobytes())
    request = pb.PredictRequest.FromString(data)
    np.testing.assert_array_equal(np.array(request.features[:], np.float32), values.ravel())
    rows, steps = {1: (1, 1), 2: (values.shape[0], 1), 3: values.shape[:2]}[values.ndim]
    request.ClearField("features")
    assert request == pb.PredictRequest(
        model="m",
        version="3",
        request_id="r",
        routing_key="k",
        entities=["e"],
        event_time_unix_ns=5,
        rows=rows,
        steps=steps,
    )


@given(st.data(), NAMES, st.integers(1, 4))
def test_the_order_of_names_does_not_matter(data: st.DataObject, names: list[str], count: int) -> None:
    rows = data.draw(st.lists(st.lists(FLOATS, min_size=len(names), max_size=len(names)), min_size=count, max_size=4))
    lines = [dict(zip(names, row, strict=True)) for row in rows]
    shuffled = [{name: line[name] for name in data.draw(st.permutations(names))} for line in lines]
    parsed = parse_features(shuffled)
    assert isinstance(parsed, NamedLines)
    request = pb.PredictRequest.FromString(encode_lines(head(), parsed, describe(names), None))
    expected = np.array(rows, np.float32)
    np.testing.assert_array_equal(np.array(request.features[:], np.float32).reshape(expected.shape), expected)
    assert request.rows == len(rows)
    assert request.feature_digest == b"\xab" * 32


@given(st.data(), NAMES.filter(lambda names: len(names) > 1))
def test_a_line_that_lacks_names_goes_with_just_those_given(data: st.DataObject, names: list[str]) -> None:
    given_names = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=len(names) - 1, unique=True))
    line = {name: data.draw(FLOATS.filter(lambda value: value == value)) for name in given_names}
    parsed = parse_features(line)
    assert isinstance(parsed, NamedLines)
    request = pb.PredictRequest.FromString(encode_lines(head(), parsed, describe(names), None))
    assert {value.name: value.value for value in request.named} == line
    assert (len(request.features), request.feature_digest) == (0, b"")


@given(
    st.sampled_from([code for code in Code if code is not Code.OK]),
    st.one_of(st.none(), st.text(st.characters(codec="ascii", categories=("L", "N", "P")))),
    st.one_of(st.none(), st.text(st.characters(codec="ascii", categories=("L", "N", "P", "Zs")))),
    st.booleans(),
)
def test_no_call_counts_as_not_executed_unless_that_is_known(
    code: Code, reason: str | None, executed: str | None, never_left: bool
) -> None:
    trailers = {"tickserve-reason": reason, EXECUTED_KEY: executed, FIELD_KEY: "%zz"}
    failed = CallError(
        code,
        "text",
        trailers={key: value for key, value in trailers.items() if value is not None},
        never_left=never_left,
    )
    error = prediction_error(failed, address="here:1")
    assert error.executed is not (never_left or executed == "0")
    assert error.code is code
