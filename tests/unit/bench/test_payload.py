"""What `tickserve bench` sends: golden rows, random values, files, and their encoding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops.package import Bounds, InputRules, read_package
from tests.support.models import FEATURES
from tests.support.packages import build_constant
from tickserve.cli.bench.payload import Wanted, encode, from_file, golden, random, rows_of
from tickserve.cli.bench.target import Api, Schema, Target, Tensor
from tickserve.errors import ConfigurationError
from tickserve.v1 import prediction_pb2 as pb
from tickserve.wire import grpc_service_pb2 as oip

FLOATS = Schema((Tensor("features", "FP32", (-1, 3)),), FEATURES, b"d" * 32)
INFER = Target("127.0.0.1:1", "demo", "", Api.INFER, 5.0)
PREDICT = Target("127.0.0.1:1", "demo", "2", Api.PREDICT, 0.25)


def wanted(rows: int = 1, **shapes: tuple[int, ...]) -> Wanted:
    return Wanted(rows, shapes, 0)


@pytest.fixture
def package(tmp_path: Path) -> Any:
    rules = InputRules(
        bounds={
            FEATURES[0]: Bounds(minimum=0.1, maximum=0.3, policy="clip"),
            FEATURES[1]: Bounds(minimum=5.0, policy="clip"),
            FEATURES[2]: Bounds(maximum=-5.0, policy="clip"),
        }
    )
    return read_package(build_constant(tmp_path, 0.5, input_rules=rules))


def test_golden_rows_go_round_in_requests_of_the_size_that_is_wanted(package: Any) -> None:
    rows = package.golden.inputs["features"]
    assert [each["features"].tolist() for each in golden(package, FLOATS, wanted())] == [[row.tolist()] for row in rows]
    by_three = golden(package, FLOATS, wanted(3))
    assert len(by_three) == 2
    np.testing.assert_array_equal(by_three[1]["features"], rows[3:6])
    (around,) = golden(package, FLOATS, wanted(20))
    np.testing.assert_array_equal(around["features"], rows[np.arange(20) % 8])


def test_random_values_are_within_the_rules_of_the_package(package: Any) -> None:
    requests = random(FLOATS, wanted(50), package.manifest)
    values = np.concatenate([each["features"] for each in requests])
    assert values.dtype == np.float32
    assert ((values[:, 0].astype(np.float64) >= 0.1) & (values[:, 0].astype(np.float64) <= 0.3)).all()
    assert (values[:, 1] >= 5).all()
    assert (values[:, 2] <= -5).all()
    assert len(np.unique(values, axis=0)) == len(values)


def test_random_values_fit_every_datatype_and_open_shape() -> None:
    names = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP64", "BYTES")
    schema = Schema((*(Tensor(name, name, (-1, 2)) for name in names), Tensor("open", "FP32", (-1, -1))))
    (message, *_) = encode(INFER, schema, random(schema, wanted(4, open=(4, 7))))
    request = oip.ModelInferRequest.FromString(message)
    sizes = {"BOOL": 1, "BYTES": None, "FP16": 2, "FP64": 8}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.name == "open":
            assert list(tensor.shape) == [4, 7]
            continue
        assert (list(tensor.shape), tensor.datatype) == ([4, 2], tensor.name)
        size = sizes.get(tensor.name, int(tensor.name.lstrip("UINT") or 8) // 8 if "INT" in tensor.name else None)
        if size is not None:
            assert len(raw) == 8 * size
        else:
            length = int.from_bytes(raw[:4], "little")
            assert raw[4 : 4 + length].decode().isdigit()


def test_the_same_seed_draws_the_same_requests() -> None:
    messages = [encode(INFER, FLOATS, random(FLOATS, Wanted(2, {}, seed))) for seed in (1, 1, 2)]
    assert messages[0] == messages[1] != messages[2]


def test_a_predict_request_carries_digest_rows_and_deadline(package: Any) -> None:
    (message, *_) = encode(PREDICT, FLOATS, golden(package, FLOATS, wanted(2)))
    request = pb.PredictRequest.FromString(message)
    assert (request.model, request.version, request.rows, request.feature_digest) == ("demo", "2", 2, b"d" * 32)
    assert request.timeout_us == 250_000
    np.testing.assert_array_equal(
        np.array(request.features, np.float32).reshape(2, 3), package.golden.inputs["features"][:2]
    )
    assert request.event_time_unix_ns == 0
    timed = encode(PREDICT, Schema(FLOATS.inputs, takes_event_time=True), golden(package, FLOATS, wanted()))
    assert pb.PredictRequest.FromString(timed[0]).event_time_unix_ns > 0


def test_files_are_arrays_by_name_or_one_alone(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float64).reshape(4, 3)
    np.save(tmp_path / "one.npy", rows)
    np.savez(tmp_path / "named.npz", features=rows)
    for name in ("one.npy", "named.npz"):
        found = from_file(tmp_path / name, FLOATS, wanted(2))
        assert [each["features"].tolist() for each in found] == [rows[:2].tolist(), rows[2:].tolist()]
        assert found[0]["features"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"other": np.ones((2, 3))}, "holds other; the model takes features"),
        ({"features": np.ones((2, 4))}, r"has shape \[2, 4\]"),
        ({"features": np.array(["a", "b"])}, "the model takes FP32"),
        ({"features": np.ones((0, 3))}, "has no rows"),
        ({"features": np.array(1.0)}, "of shape"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ConfigurationError, match=text) as raised:
        from_file(tmp_path / "bad.npz", FLOATS, wanted())
    assert raised.value.field == "payload"


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("1,2,3")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object))
    for name in ("text.npy", "pickle.npy", "missing.npy"):
        with pytest.raises(ConfigurationError, match=r"neither \.npy nor \.npz"):
            from_file(tmp_path / name, FLOATS, wanted())


@pytest.mark.parametrize(
    ("schema", "rows", "text"),
    [
        (Schema((Tensor("x", "FP32", (-1, -1)),)), 1, r"give --shape x:"),
        (Schema((Tensor("x", "FP32", (8, 3)),)), 2, "takes 8, always"),
        (Schema((Tensor("x", "BF16", (-1, 3)),)), 1, "BF16"),
    ],
)
def test_a_schema_that_cannot_be_drawn_for_is_refused(schema: Schema, rows: int, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        random(schema, wanted(rows))


def test_a_shape_of_other_rank_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="3 dimensions"):
        random(FLOATS, wanted(1, features=(1, 2, 3)))


def test_a_package_of_another_model_is_refused(package: Any) -> None:
    for schema in (
        Schema((Tensor("other", "FP32", (-1, 3)),)),
        Schema((Tensor("features", "FP64", (-1, 3)),)),
        Schema(FLOATS.inputs, tuple(reversed(FEATURES))),
    ):
        with pytest.raises(ConfigurationError):
            golden(package, schema, wanted())
        with pytest.raises(ConfigurationError):
            random(schema, wanted(), package.manifest)


def test_predict_is_for_one_float_input() -> None:
    two = Schema((Tensor("a", "FP32", (-1, 1)), Tensor("b", "INT64", (-1, 1))))
    with pytest.raises(ConfigurationError, match="use --api infer"):
        encode(PREDICT, two, random(two, wanted()))


def test_rows_are_counted_where_the_model_or_the_caller_fixes_them() -> None:
    fixed = Schema((Tensor("x", "FP32", (8, 3)),))
    assert rows_of(random(fixed, wanted()), 1) == 8
    assert rows_of(random(FLOATS, wanted(features=(5, 3))), 1) == 5
    assert rows_of(random(FLOATS, wanted(4)), 4) == 4
    assert rows_of(random(Schema(()), wanted()), 1) == 1


def test_a_shape_of_an_input_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--shape is for featurs, the model takes features"):
        random(FLOATS, wanted(featurs=(5, 3)))
