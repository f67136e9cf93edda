"""What a client sends for each kind of features, and what it makes of the answer. Both clients pass this."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.unit.client.blocking import Connect
from tests.unit.client.scripted import DIGEST, Refusal, Script, ScriptedServer, changed, describe
from tickserve import Client, Finding, Prediction
from tickserve.errors import FeaturesChangedError, InternalError, InvalidInputError, NotFoundError
from tickserve.prediction import FindingKind, Role
from tickserve.v1 import prediction_pb2 as pb

ROW = {"c": 3.0, "a": 1.0, "b": 2.0}
ROWS = [ROW, {"a": 4.0, "b": 5.0, "c": 6.0}]


@pytest.mark.parametrize(
    ("features", "steps", "sent"),
    [
        (np.array([1, 2, 3], np.float32), None, (1, 1)),
        (np.arange(6, dtype=np.float32).reshape(2, 3), None, (2, 1)),
        (np.arange(12, dtype=np.float32).reshape(2, 2, 3), None, (2, 2)),
        (np.arange(12, dtype=np.float32).reshape(4, 3), 2, (2, 2)),
        (np.arange(6, dtype=">f8").reshape(2, 3), None, (2, 1)),
        (np.arange(6).reshape(2, 3), None, (2, 1)),
        (np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2], None, (2, 1)),
        (np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), None, (2, 1)),
        ([[1, 2, 3], [4, 5, 6]], None, (2, 1)),
    ],
    ids=["1d", "2d", "3d", "2d with steps", "float64", "int", "strided", "column order", "lists"],
)
def test_arrays_arrive_in_row_order_with_rows_and_steps(
    client: Client, script: Script, features: np.ndarray, steps: int | None, sent: tuple[int, int]
) -> None:
    prediction = client.predict(features, steps=steps)
    (request,) = script.requests
    assert (request.rows, request.steps) == sent
    assert list(request.features) == np.asarray(features).ravel().tolist()
    assert request.feature_digest == script.models["m"].feature_digest
    assert prediction.rows == sent[0]


class ForeignTable:
    """A table of some other library."""

    columns = ("c", "b", "a")

    def to_numpy(self) -> np.ndarray:
        return np.array([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]])


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (ROW, [1, 2, 3]),
        (pd.Series(ROW), [1, 2, 3]),
        ([ROW], [1, 2, 3]),
        (ROWS, [1, 2, 3, 4, 5, 6]),
        (pd.DataFrame(ROWS), [1, 2, 3, 4, 5, 6]),
        (pd.DataFrame(ROWS)[["a", "b", "c"]], [1, 2, 3, 4, 5, 6]),
        (pd.DataFrame(ROWS, dtype="Float64"), [1, 2, 3, 4, 5, 6]),
        (ForeignTable(), [1, 2, 3, 4, 5, 6]),
    ],
    ids=["dict", "series", "one dict", "dicts", "frame", "ordered frame", "nullable frame", "table"],
)
def test_names_are_put_into_the_models_order(
    client: Client, script: Script, features: object, expected: list[float]
) -> None:
    client.predict(features)  # type: ignore[arg-type]
    (request,) = script.requests
    assert list(request.features) == expected
    assert request.rows == len(expected) // 3
    assert request.feature_digest == script.models["m"].feature_digest


def test_lines_by_name_make_rows_of_steps(client: Client, script: Script) -> None:
    client.predict(ROWS, steps=2)
    (request,) = script.requests
    assert (request.rows, request.steps, list(request.features)) == (1, 2, [1, 2, 3, 4, 5, 6])


def test_one_line_that_lacks_a_name_goes_by_name_and_without_a_digest(client: Client, script: Script) -> None:
    client.predict({"b": 2.0, "a": 1.0})
    (request,) = script.requests
    assert {value.name: value.value for value in request.named} == {"a": 1.0, "b": 2.0}
    assert (list(request.features), request.feature_digest) == ([], b"")


@pytest.mark.parametrize(
    ("features", "field", "words"),
    [
        ({**ROW, "rsi": 1.0}, "rsi", "unknown: 'rsi'"),
        ({"rsi": 1.0, "a": 1.0, "b": 2.0}, "rsi", "unknown: 'rsi'; missing: 'c'"),
        ([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}], "c", "missing: 'c'"),
        ({}, "a", "missing: 'a', 'b', 'c'"),
        (pd.DataFrame([[1.0, 2.0, 3.0, 4.0]], columns=["a", "b", "c", "a"]), "a", "'a' appears twice"),
        (pd.DataFrame([[1.0, 2.0, 3.0]]), "features", "names are strings"),
        ([ROW, {"a": 1.0, "b": 2.0}], "features", "row 1 and row 0 differ in the names 'c'"),
        ({**ROW, "b": "2"}, "features", "'b' is '2' of type str"),
        ({**ROW, "b": None}, "features", "'b' is None of type NoneType"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}, "features", "list of dicts"),
        ([ROW, 3.0], "features", "list of dicts"),
        (pd.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0]}), "features", "'b' is 'x' of type str"),
        (np.zeros((2, 4), np.float32), "features", "4 wide, model 'm' takes 3: a, b, c"),
        (np.zeros((1, 1, 1, 3), np.float32), "features", "rows x steps x features"),
        (np.float32(1.0), "features", "rows x steps x features"),
        (np.zeros((0, 3), np.float32), "features", "at least one row"),
        ([], "features", "at least one row"),
        ([[1.0, 2.0], [1.0]], "features", "differ in length"),
        (np.array([True, False, True]), "features", "datatype bool"),
        (np.array(["1", "2", "3"]), "features", "expected numbers"),
        (np.array([1j, 2, 3]), "features", "datatype complex128"),
        (np.array([1e39, 0, 0]), "features", "too large for float32"),
        ({**ROW, "b": 10**400}, "features", "too large for float32"),
        ({**ROW, "b": 10**39}, "features", "too large for float32"),
        ({**ROW, "b": pd.NA}, "features", "'b' is <NA> of type NAType"),
        (np.array([1.0, None, 2.0]), "features", "the value at (1,) is None of type NoneType"),
    ],
)
def test_features_that_cannot_be_right_are_refused_before_they_are_sent(
    client: Client, script: Script, features: object, field: str, words: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        client.predict(features)  # type: ignore[arg-type]
    assert words in caught.value.message
    assert caught.value.field == field
    assert caught.value.request_id
    assert not caught.value.executed
    assert script.requests == []


def test_a_model_without_names_takes_arrays_only(client: Client, script: Script) -> None:
    script.models["m"] = describe(())
    with pytest.raises(InvalidInputError, match="no feature names; give an array"):
        client.predict(ROW)
    client.predict(np.zeros(5, np.float32))
    assert [request.feature_digest for request in script.requests] == [b""]


def test_steps_that_do_not_fit_are_refused(client: Client, script: Script) -> None:
    for features, steps in ((np.zeros((3, 3)), 2), (np.zeros((3, 3)), 0), (np.zeros((1, 2, 3)), 3)):
        with pytest.raises(InvalidInputError) as caught:
            client.predict(features, steps=steps)
        assert caught.value.field == "steps"
    assert script.requests == []


def test_a_model_is_described_once(client: Client, script: Script) -> None:
    for _ in range(3):
        client.predict(np.zeros(3, np.float32))
        client.predict(ROW)
    assert [request.model for request in script.described] == ["m"]


def test_unchecked_arrays_ask_nothing_and_send_no_digest(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.address, model="m", check_features=False) as client:
        client.predict(np.zeros(3, np.float32))
    assert server.script.described == []
    assert server.script.requests[0].feature_digest == b""


def test_names_follow_a_model_that_changes_its_order(client: Client, script: Script) -> None:
    client.predict(ROW)
    script.models["m"] = describe(("c", "b", "a"), version="2", digest=DIGEST[::-1])
    prediction = client.predict(ROW)
    assert list(script.requests[-1].features) == [3, 2, 1]
    assert prediction.named_values["echo_c"].tolist() == [3.0]
    assert prediction.version == "2"


def test_names_follow_a_model_that_takes_another_feature(client: Client, script: Script) -> None:
    client.predict(ROW)
    script.models["m"] = describe(("a", "b", "c", "d"), version="2")
    client.predict({**ROW, "d": 4.0})
    assert list(script.requests[-1].features) == [1, 2, 3, 4]


def test_arrays_never_follow_a_model_that_changes_its_order(client: Client, script: Script) -> None:
    client.predict(np.zeros(3, np.float32))
    script.models["m"] = describe(("c", "b", "a"))
    # Someone reads the new description, and by-name requests have followed it: arrays still may not.
    client.get_model()
    client.predict(ROW)
    for _ in range(2):
        with pytest.raises(FeaturesChangedError, match="make a new one") as caught:
            client.predict(np.zeros(3, np.float32))
        assert not caught.value.executed
        assert "make a new one" in caught.value.message


def test_a_refused_order_is_not_tried_again_where_the_model_may_have_run(client: Client, script: Script) -> None:
    script.refusals.append(changed(executed="1"))
    with pytest.raises(FeaturesChangedError):
        client.predict(ROW)
    assert len(script.requests) == 1


def test_a_refused_order_is_tried_again_once(client: Client, script: Script) -> None:
    script.refusals.extend([changed(executed="0")] * 3)
    with pytest.raises(FeaturesChangedError):
        client.predict(ROW)
    assert len(script.requests) == 2


def test_the_answer_is_typed(client: Client, script: Script) -> None:
    def edit(answer: pb.PredictResponse) -> None:
        answer.confidence.extend([0.75, 0.5])
        answer.findings.add(kind="FINDING_KIND_CLIPPED", row=1, column=2, rule="bounds:c")

    script.edit = edit
    prediction = client.predict(ROWS, request_id="r-1", routing_key="k", entities=["X", "Y"], version="3")
    assert isinstance(prediction, Prediction)
    assert prediction.values.dtype == np.float32
    assert prediction.values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert prediction.rows == 2
    assert prediction.signal is not None
    assert prediction.signal.tolist() == [0.5, 0.5]
    assert prediction.confidence is not None
    assert prediction.confidence.tolist() == [0.75, 0.5]
    assert (prediction.model, prediction.version, prediction.digest) == ("m", "1", DIGEST.hex())
    assert prediction.role is Role.STABLE
    assert (prediction.plan_generation, prediction.server_duration_ns) == (7, 1234)
    assert prediction.position_scale == 0.25
    assert prediction.findings == (Finding(FindingKind.CLIPPED, 1, 2, "bounds:c"),)
    assert prediction.request_id == "r-1"
    assert {name: column.tolist() for name, column in prediction.named_values.items()} == {
        "echo_a": [1, 4],
        "echo_b": [2, 5],
        "echo_c": [3, 6],
    }
    (request,) = script.requests
    assert (request.request_id, request.routing_key, request.version) == ("r-1", "k", "3")
    assert list(request.entities) == ["X", "Y"]


def test_a_package_without_confidence_answers_none(client: Client) -> None:
    assert client.predict(ROW).confidence is None


def test_columns_are_unnamed_where_another_package_answered(client: Client, script: Script) -> None:
    def edit(answer: pb.PredictResponse) -> None:
        answer.version, answer.digest, answer.role = "9", bytes(32), pb.ROLE_CANARY

    client.predict(ROW)
    script.edit = edit
    prediction = client.predict(ROW)
    assert (prediction.role, prediction.value_names, prediction.named_values) == (Role.CANARY, (), {})
    client.predict(ROW)
    assert len(script.described) == 1


def test_a_new_stable_version_is_described_at_the_next_request_by_name(client: Client, script: Script) -> None:
    client.predict(ROW)
    script.models["m"] = describe(version="2", digest=DIGEST[::-1])
    assert client.predict(ROW).value_names == ()
    assert client.predict(ROW).value_names == ("echo_a", "echo_b", "echo_c")
    assert len(script.described) == 2


@pytest.mark.parametrize(
    "edit",
    [
        lambda answer: answer.values.append(1.0),
        lambda answer: answer.signal.append(1.0),
        lambda answer: answer.ClearField("rows"),
    ],
    ids=["values", "signal", "rows"],
)
def test_an_answer_that_contradicts_itself_is_an_error(
    client: Client, script: Script, edit: Callable[[pb.PredictResponse], None]
) -> None:
    script.edit = edit
    with pytest.raises(InternalError, match="contradicts itself") as caught:
        client.predict(ROWS)
    assert caught.value.executed


def test_a_request_id_is_drawn_where_none_is_given(client: Client, script: Script) -> None:
    ids = {client.predict(ROW).request_id for _ in range(3)}
    assert len(ids) == 3
    assert ids == {request.request_id for request in script.requests}


@pytest.mark.parametrize(
    ("event_time", "unix_ns"),
    [
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        (np.int64(5), 5),
        (datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), 1_704_164_645_678_901_000),
        (datetime(2024, 1, 2, 5, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))), 1_704_164_645_678_901_000),
        (pd.Timestamp("2024-01-02T03:04:05.678901234Z"), 1_704_164_645_678_901_234),
        (None, 0),
    ],
)
def test_the_event_time_is_sent_to_the_nanosecond(
    client: Client, script: Script, event_time: datetime | int | None, unix_ns: int
) -> None:
    client.predict(ROW, event_time=event_time)
    assert script.requests[0].event_time_unix_ns == unix_ns


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"event_time": datetime(2024, 1, 2)}, "event_time"),  # noqa: DTZ001
        ({"event_time": 1.5}, "event_time"),
        ({"event_time": pd.NaT}, "event_time"),
        ({"event_time": 0}, "event_time"),
        ({"event_time": 2**63}, "event_time"),
        ({"request_id": "x" * 65}, "request_id"),
        ({"routing_key": "é" * 33}, "routing_key"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"version": 3}, ""),
    ],
)
def test_arguments_that_cannot_be_sent_are_refused(
    client: Client, script: Script, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        client.predict(ROW, **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert script.requests == []


def test_a_lone_entity_is_one_entity(client: Client, script: Script) -> None:
    client.predict(ROW, entities="AAPL")
    assert list(script.requests[0].entities) == ["AAPL"]


def test_a_model_must_be_named_somewhere(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.address) as client:
        with pytest.raises(InvalidInputError, match="no model is named"):
            client.predict(ROW)
        assert client.predict(ROW, model="m").model == "m"


def test_get_model_describes_a_model(client: Client, script: Script) -> None:
    info = client.get_model(version="1")
    assert script.described[0].version == "1"
    assert (info.model, info.version, info.digest, info.role) == ("m", "1", DIGEST.hex(), Role.STABLE)
    assert info.feature_names == ("a", "b", "c")
    assert bytes.fromhex(info.feature_digest) == script.models["m"].feature_digest
    assert (info.inputs[0].name, info.inputs[0].datatype, info.inputs[0].shape) == ("features", "FP32", (-1, 3))
    assert info.outputs[0].name == "echo"
    assert info.limits.max_rows == 100
    assert (info.has_signal, info.has_confidence, info.requires_event_time) == (True, False, True)
    assert (info.max_age_ns, info.max_future_ns, info.plan_generation) == (5, 6, 7)


def test_a_bound_of_zero_on_the_event_time_is_not_the_lack_of_one(client: Client, script: Script) -> None:
    script.models["m"].ClearField("max_age_ns")
    script.models["m"].max_future_ns = 0
    info = client.get_model(version="1")
    assert (info.max_age_ns, info.max_future_ns) == (None, 0)


def test_a_refused_description_means_that_nothing_ran(client: Client, script: Script) -> None:
    from grpc import StatusCode

    trailers = (("tickserve-reason", "NOT_FOUND"), ("tickserve-executed", "1"))
    script.get_model_refusal = Refusal(StatusCode.NOT_FOUND, "no such model", trailers)
    with pytest.raises(NotFoundError) as caught:
        client.predict(ROW)
    assert not caught.value.executed


def test_threads_share_a_client_and_get_their_own_answers(client: Client) -> None:
    start = threading.Barrier(8)

    def ask(thread: int) -> list[float]:
        start.wait()
        answers = [client.predict({"a": thread, "b": call, "c": 0.0}) for call in range(25)]
        assert [answer.values[0].tolist() for answer in answers] == [[thread, call, 0.0] for call in range(25)]
        return [answer.rows for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        assert sum(map(sum, pool.map(ask, range(8)))) == 200


@pytest.mark.parametrize("timeout_s", [1e300, 10**400, 1e10, np.float32(20.0), np.int64(20)])
def test_a_deadline_may_be_as_late_as_anyone_likes(client: Client, script: Script, timeout_s: Any) -> None:
    """grpc, locks and clocks each have a time from which on they are wrong about it."""
    for _ in range(2):
        assert client.predict(np.array([1, 2, 3], np.float32), timeout_s=timeout_s).rows == 1
    with client.stream(timeout_s=timeout_s) as stream:
        assert stream.predict(ROW).rows == 1
    assert script.seconds_left[-1] > 10


def test_a_matrix_is_an_array(client: Client, script: Script) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix: Any = np.asmatrix(np.arange(6, dtype=np.float32).reshape(2, 3))
    for _ in range(2):
        assert client.predict(matrix).values.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_a_mask_hides_is_not_sent(client: Client, script: Script) -> None:
    masked = np.ma.MaskedArray(np.array([1, 2, 3], np.float32), mask=[False, True, False])
    client.predict(np.array([1, 2, 3], np.float32))
    with pytest.raises(InvalidInputError, match=r"masked.*features\.filled"):
        client.predict(masked)
    assert len(script.requests) == 1
    assert np.isnan(client.predict(masked.filled(np.nan)).values[0, 1])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"request_id": 5}, "request_id"),
        ({"routing_key": b"key"}, "routing_key"),
        ({"steps": "2"}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"default": 1e39}, "default"),
        ({"default": float("inf")}, "default"),
    ],
)
def test_an_option_of_another_type_is_named(client: Client, script: Script, options: Any, field: str) -> None:
    for features in (np.array([1, 2, 3], np.float32), {"a": 1.0, "b": 2.0, "c": 3.0}):
        with pytest.raises(InvalidInputError) as caught:
            client.predict(features, **options)
        assert caught.value.field == field
    assert script.requests == []
