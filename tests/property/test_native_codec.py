"""What the native client writes is what protobuf reads, and what it reads is what the Python client makes of it."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.property.test_client_requests import FLOATS, describe
from tickserve.client.answer import to_prediction
from tickserve.client.features import parse_features
from tickserve.client.request import encode_array, make_head
from tickserve.errors import InternalError
from tickserve.v1 import prediction_pb2 as pb

pytest.importorskip("tickserve_native")

from tickserve.client.native_codec import NativeCodec

IDS = st.text(max_size=16)
TEXTS = st.text(max_size=12)


@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=20), elements=FLOATS),
    IDS,
    IDS,
    st.lists(TEXTS, max_size=3),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
)
def test_a_request_is_the_one_that_the_python_client_sends(
    values: np.ndarray, request_id: str, routing_key: str, entities: list[str], event_time: int, is_described: bool
) -> None:
    names = [f"f{number}" for number in range(values.shape[-1])]
    info = describe(names) if is_described else None
    request_id = request_id or "r"
    data = NativeCodec().encode(("m", "3"), info, values, request_id, routing_key, entities, event_time)
    assert data is not None
    head = make_head("m", "3", request_id, routing_key, entities, event_time or None)
    parsed = parse_features(values)
    assert isinstance(parsed, np.ndarray)
    expected = pb.PredictRequest.FromString(encode_array(head, parsed, info, None))
    read = pb.PredictRequest.FromString(data)
    assert np.array_equal(np.array(read.features[:], np.float32).view(np.int32), values.ravel().view(np.int32))
    for message in (read, expected):
        # NaN is not equal to itself.
        message.ClearField("features")
    assert read == expected


@pytest.mark.parametrize(
    "features",
    [
        np.zeros(4, np.float32),
        np.zeros(3, np.float64),
        np.zeros(3, ">f4"),
        np.zeros((2, 6), np.float32)[:, ::2],
        np.asfortranarray(np.zeros((2, 3), np.float32)),
        np.zeros((0, 3), np.float32),
        np.zeros((1, 1, 1, 3), np.float32),
        np.float32(1),
        np.array(["a", "b", "c"]),
    ],
)
def test_what_is_unusual_is_left_to_python(features: Any) -> None:
    info = describe(["a", "b", "c"])
    assert NativeCodec().encode(("m", ""), info, features, "r", None, [], 0) is None


def test_texts_that_cannot_be_sent_are_left_to_python() -> None:
    codec, row = NativeCodec(), np.zeros(3, np.float32)
    assert codec.encode(("m", ""), None, row, "x" * 65, None, [], 0) is None
    assert codec.encode(("m", ""), None, row, "r", "é" * 33, [], 0) is None
    assert codec.encode(("m", ""), None, row, "\ud800", None, [], 0) is None
    assert codec.encode(("m", ""), None, row, "r", None, [3], 0) is None  # type: ignore[list-item]


ANSWERS = st.builds(
    lambda rows, columns, draw, texts, numbers, has_signal, role, kinds: (
        rows,
        columns,
        draw,
        texts,
        numbers,
        has_signal,
        role,
        kinds,
    ),
    st.integers(1, 6),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
    st.lists(TEXTS, min_size=4, max_size=4),
    st.integers(0, 2**64 - 1),
    st.booleans(),
    st.integers(0, 9),
    st.lists(st.integers(0, 9), max_size=3),
)


@given(ANSWERS, st.booleans(), st.integers(0, 4))
def test_an_answer_is_the_prediction_that_the_python_client_makes_of_it(
    drawn: tuple[Any, ...], is_known: bool, names: int
) -> None:
    rows, columns, seed, texts, number, has_signal, role, kinds = drawn
    random = np.random.default_rng(seed)
    answer = pb.PredictResponse(
        request_id=texts[0],
        model=texts[1],
        version=texts[2],
        digest=random.bytes(32),
        role=role,
        plan_generation=number,
        values=random.standard_normal(rows * columns),
        rows=rows,
        signal=random.standard_normal(rows) if has_signal else [],
        position_scale=random.random(),
        findings=[pb.Finding(kind=kind, row=1, column=2, rule=texts[3]) for kind in kinds],  # type: ignore[arg-type]
        server_duration_ns=number,
        findings_left_out=number % 2**32,
    )
    info = dataclasses.replace(
        describe(["a"]),
        digest=answer.digest.hex() if is_known else "ab" * 32,
        value_names=tuple(f"v{column}" for column in range(names)),
    )
    expected = to_prediction(answer, info)
    made = NativeCodec().decode(answer.SerializeToString(), info)
    assert type(made) is type(expected)
    for field in dataclasses.fields(expected):
        ours, theirs = getattr(made, field.name), getattr(expected, field.name)
        assert type(ours) is type(theirs), field.name
        if isinstance(theirs, np.ndarray):
            assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
            assert ours.flags.writeable
            assert ours.flags.aligned
        else:
            assert ours == theirs, field.name


@given(st.binary(max_size=60))
def test_bytes_that_are_no_answer_are_left_to_python(data: bytes) -> None:
    made = NativeCodec().decode(data, None)
    try:
        expected = to_prediction(pb.PredictResponse.FromString(data), None)
    except (DecodeError, InternalError):
        assert made is None
    else:
        assert made is not None
        assert made.rows == expected.rows
