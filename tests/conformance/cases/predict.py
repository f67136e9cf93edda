"""Predict: features in order and by name, rows and steps, what else an answer says, and every way to be wrong."""

import math
from typing import Any

import numpy as np

from mlops.package import ColumnMapping, InputRules, feature_digest
from server.engine import texts
from tests.conformance.answers import Found, predicted
from tests.conformance.case import Case, Expected, refused
from tests.conformance.cases.echo import ECHO, ON_ECHO
from tests.conformance.cases.schemas import DENSE, MIXED
from tests.conformance.graphs import sequence_graph, two_outputs_graph
from tests.conformance.requests import BROKEN, PREDICT, named, nested, predict, unpacked_floats
from tests.conformance.served import Served, one, tensor, version
from tests.support.models import FEATURES, echo_model, square_model

DEFAULTED = version(echo_model(), "defaulted", input_rules=InputRules(defaults={"rsi": 50.0}))
MAPPED = version(
    echo_model(),
    "mapped",
    signal=ColumnMapping(output="values", column=1, scale=2.0, offset=-1.0),
    confidence=ColumnMapping(output="values"),
)
STEEP = version(echo_model(), "steep", signal=ColumnMapping(output="values", column=0, scale=1e30))
SQUARE = version(square_model(), "square", outputs=(tensor("values", "FP64", -1, 3),))
TWO_OUTPUTS = version(
    two_outputs_graph(), "two-outputs", outputs=(tensor("edges", "FP32", -1, 2), tensor("total", "INT64", -1, 1))
)
ANY_STEPS = version(sequence_graph(), "any-steps", inputs=(tensor("features", "FP32", -1, -1, 3),))
TWO_STEPS = version(sequence_graph(), "two-steps", inputs=(tensor("features", "FP32", -1, 2, 3),))
#: So many names that a refusal cannot list them.
WIDE_NAMES = tuple(f"feature_{number:04}_of_a_wide_model" for number in range(1000))
WIDE = version(echo_model(), "wide", feature_names=WIDE_NAMES)
NAMELESS = version(echo_model(), "nameless", feature_names=(), feature_digest=b"")
ON_OTHERS = one(
    DEFAULTED,
    MAPPED,
    STEEP,
    SQUARE,
    TWO_OUTPUTS,
    ANY_STEPS,
    TWO_STEPS,
    NAMELESS,
    WIDE,
    MIXED,
    DENSE,
    name="other models",
)
MANY = np.random.default_rng(5).normal(size=(1000, 3)).astype(np.float32)


def _case(name: str, request: bytes, expected: Expected, served: Served = ON_ECHO) -> Case:
    return Case(name, served, PREDICT, (request,), expected)


def _other(name: str, request: bytes, expected: Expected) -> Case:
    return _case(name, request, expected, ON_OTHERS)


def _not_finite(value: float, **facts: Any) -> Expected:
    also = ["finite:features reject"]
    return refused(texts.FEATURE_NOT_FINITE, also=also, tensor="features", value=value, **facts)


def _withheld(rule: str, model: str, at: str) -> Expected:
    by, also = f"{model}/1 stable", [f"{rule} reject"]
    return refused(texts.OUTPUT_RULE, by=by, at=at, also=also, rule=rule, version="1", model=model)


ANSWERS = (
    _case("one row", predict([1, 2, 3]), predicted(ECHO, [1, 2, 3])),
    _case(
        "request id is echoed", predict([1, 2, 3], request_id="r" * 64), predicted(ECHO, [1, 2, 3], request_id="r" * 64)
    ),
    _case(
        "most rows that are allowed",
        predict(range(12), rows=4, entities=["A", "B", "C", "D"]),
        predicted(ECHO, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]),
    ),
    _case("rows and steps of one", predict([1, 2, 3], rows=1, steps=1), predicted(ECHO, [1, 2, 3])),
    _case("unpacked features", nested(1, b"echo") + unpacked_floats(5, 7, 8, 9), predicted(ECHO, [7, 8, 9])),
    _case(
        "features in two parts, packed and unpacked",
        predict([7]) + unpacked_floats(5, 8, 9),
        predicted(ECHO, [7, 8, 9]),
    ),
    _case(
        "negative zero and the smallest figures", predict([-0.0, 1e-45, -1e-45]), predicted(ECHO, [-0.0, 1e-45, -1e-45])
    ),
    _case("unknown field", predict([1, 2, 3]) + nested(15, b"later"), predicted(ECHO, [1, 2, 3])),
    _case("version that is pinned", predict([1, 2, 3], version="1"), predicted(ECHO, [1, 2, 3])),
    _case("names in another order", predict(named=named(volume=3, momentum=1, rsi=2)), predicted(ECHO, [1, 2, 3])),
    _case(
        "digest of the features",
        predict([1, 2, 3], feature_digest=feature_digest(FEATURES)),
        predicted(ECHO, [1, 2, 3]),
    ),
    _case("timeout that has not passed", predict([1, 2, 3], timeout_us=10_000_000), predicted(ECHO, [1, 2, 3])),
    _case("event time that no rule asks for", predict([1, 2, 3], event_time_unix_ns=1), predicted(ECHO, [1, 2, 3])),
)

OTHER_MODELS = (
    _other(
        "missing name that has a default",
        predict(model="defaulted", named=named(volume=1, momentum=2)),
        predicted(DEFAULTED, [2, 50, 1], findings=[Found("DEFAULTED", 0, 1, "default:rsi")]),
    ),
    _other(
        "signal and confidence",
        predict([0.25, 0.75, 0.5, 0.5, 0.25, 0.125], model="mapped", rows=2),
        predicted(MAPPED, [[0.25, 0.75, 0.5], [0.5, 0.25, 0.125]], signal=[0.5, -0.5], confidence=[0.75, 0.5]),
    ),
    _other("signal that float32 holds", predict([1, 2, 3], model="steep"), predicted(STEEP, [1, 2, 3], signal=[1e30])),
    _other(
        "signal that float32 cannot hold",
        predict([1e20, 2, 3], model="steep"),
        _withheld("float32:signal", "steep", "signal"),
    ),
    _other("FP64 that float32 holds", predict([3, 0, 0], model="square"), predicted(SQUARE, [3, 0, 0])),
    _other(
        "FP64 that float32 cannot hold",
        predict([1e30, 0, 0], model="square"),
        _withheld("float32:values", "square", "values"),
    ),
    _other(
        "two outputs, row by row",
        predict([1, 2, 3, 4, 5, 6], model="two-outputs", rows=2),
        predicted(TWO_OUTPUTS, [[1, 2, 3], [4, 5, 6]]),
    ),
    _other(
        "steps, as many as there are",
        predict(range(12), model="any-steps", rows=2, steps=2),
        predicted(ANY_STEPS, [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]),
    ),
    _other("one step of any number", predict([1, 2, 3], model="any-steps"), predicted(ANY_STEPS, [1, 2, 3])),
    _other(
        "steps as the model has them",
        predict(range(6), model="two-steps", steps=2),
        predicted(TWO_STEPS, [[[0, 1, 2], [3, 4, 5]]]),
    ),
    _other(
        "steps as the model does not have them",
        predict(range(9), model="two-steps", steps=3),
        refused(texts.STEPS, by="two-steps/1 stable", at="steps", got=3, model="two-steps", expected=2),
    ),
    _other("features without names", predict([1, 2, 3], model="nameless"), predicted(NAMELESS, [1, 2, 3])),
    _other(
        "names for a model without names",
        predict(model="nameless", named=named(rsi=1)),
        refused(texts.NAMES_NOT_KNOWN, by="nameless/1 stable", at="named", model="nameless"),
    ),
    _other("model with two inputs", predict([1, 2, 3]), refused(texts.NOT_ONE_FLOAT_INPUT, at="model", model="echo")),
    _other(
        "figures of a thousand rows, to the last bit",
        predict(MANY.ravel(), model="dense", rows=1000),
        predicted(DENSE, MANY),
    ),
)

REFUSALS = (
    _case("bytes that are no message", BROKEN, refused(texts.MALFORMED, by="", message="PredictRequest")),
    _case("text that is not UTF-8", nested(1, b"\xff"), refused(texts.MALFORMED, by="", message="PredictRequest")),
    _case(
        "unknown model",
        predict([1, 2, 3], model="nope"),
        refused(texts.UNKNOWN_MODEL, by="", at="model", model="nope", known="echo"),
    ),
    _case(
        "unknown version",
        predict([1, 2, 3], version="2"),
        refused(texts.UNKNOWN_VERSION, by="echo", at="version", version="2", model="echo", known="1"),
    ),
    _case(
        "too few features",
        predict([1, 2]),
        refused(texts.FEATURE_COUNT, at="features", got=2, expected=3, rows=1, steps=1, width=3),
    ),
    _case(
        "no features",
        predict([]),
        refused(texts.FEATURE_COUNT, at="features", got=0, expected=3, rows=1, steps=1, width=3),
    ),
    _case(
        "fewer features than rows want",
        predict([1, 2, 3], rows=2),
        refused(texts.FEATURE_COUNT, at="features", got=3, expected=6, rows=2, steps=1, width=3),
    ),
    _case(
        "one row too many",
        predict([1, 2, 3], rows=5),
        refused(texts.TOO_MANY_ROWS, at="rows", got=5, model="echo", bound=4),
    ),
    _case(
        "most rows that the field holds",
        predict([1, 2, 3], rows=2**32 - 1),
        refused(texts.TOO_MANY_ROWS, at="rows", got=2**32 - 1, model="echo", bound=4),
    ),
    _case(
        "steps for a model without steps",
        predict([1, 2, 3], steps=2),
        refused(texts.STEPS, at="steps", got=2, model="echo", expected=1),
    ),
    _case("NaN", predict([1, math.nan, 3]), _not_finite(math.nan, at="rsi", feature="rsi", row=0, column=1)),
    _case(
        "infinity in the second row",
        predict([1, 2, 3, 4, 5, math.inf], rows=2),
        _not_finite(math.inf, at="volume", feature="volume", row=1, column=2),
    ),
    _case("features and names", predict([1, 2, 3], named=named(rsi=1)), refused(texts.FEATURES_AND_NAMED, at="named")),
    _case(
        "missing name that has no default",
        predict(named=named(momentum=1, rsi=2)),
        refused(texts.FEATURE_MISSING, at="volume", feature="volume"),
    ),
    _case(
        "unknown name",
        predict(named=named(beta=1)),
        refused(texts.FEATURE_UNKNOWN, at="beta", feature="beta", expected="momentum, rsi, volume"),
    ),
    _case(
        "unknown name that is too long for a status",
        predict(named=named(**{"€" * 2000: 1})),
        refused(texts.FEATURE_UNKNOWN, at="€" * 2000, feature="€" * 64, expected="momentum, rsi, volume"),
    ),
    _case(
        "name twice",
        predict(named=[*named(rsi=1), *named(rsi=1)]),
        refused(texts.FEATURE_TWICE, at="rsi", feature="rsi"),
    ),
    _case(
        "names for two rows",
        predict(named=named(rsi=1), rows=2),
        refused(texts.NAMED_ROWS, at="named", rows=2, steps=1),
    ),
    _case(
        "digest of the features in another order",
        predict([1, 2, 3], feature_digest=feature_digest(FEATURES[::-1])),
        refused(texts.FEATURES_CHANGED, at="feature_digest", version="1", model="echo"),
    ),
    _case(
        "digest of another length",
        predict([1, 2, 3], feature_digest=b"123"),
        refused(texts.DIGEST_LENGTH, at="feature_digest", got=3),
    ),
    _case(
        "more entities than rows",
        predict([1, 2, 3], entities=["A", "B"]),
        refused(texts.ENTITIES, at="entities", got=2, rows=1),
    ),
    _case(
        "request id that is too long",
        predict([1, 2, 3], request_id="x" * 65),
        refused(texts.TOO_LONG, by="echo", at="request_id", name="request_id", size=65, bound=64),
    ),
    _case(
        "routing key that is too long in bytes",
        predict([1, 2, 3], routing_key="€" * 22),
        refused(texts.TOO_LONG, by="echo", at="routing_key", name="routing_key", size=66, bound=64),
    ),
    _case("timeout that has passed", predict([1, 2, 3], timeout_us=1), refused(texts.DEADLINE)),
)

MESSAGES = (*ANSWERS, *REFUSALS, *OTHER_MODELS)
CASES = MESSAGES
