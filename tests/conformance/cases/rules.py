"""Rules on inputs and outputs: reject, clip, flag and fallback, by feature, row and event time."""

import math
from typing import Any

import numpy as np

from mlops.package import Bounds, EventTimeRule, InputRules, OutputRule
from server.engine import texts
from tests.conformance.answers import MOST_FINDINGS, Found, inferred, predicted
from tests.conformance.case import VARIES, Case, Expected, refused
from tests.conformance.requests import INFER, PREDICT, infer, predict, raw
from tests.conformance.served import Version, one, version
from tests.support.models import echo_model

_YEAR_S = 31_557_600.0
#: In 2024: not too old for thirty years yet, as 1970 is, and not too far ahead, as 2262 is.
IN_TIME = 1_704_067_200 * 10**9
TOO_OLD, TOO_FAR_AHEAD = 1, 2**63 - 1


def _echo(name: str, *output_rules: OutputRule, **input_rules: Any) -> Version:
    return version(echo_model(), name, input_rules=InputRules(**input_rules), output_rules=output_rules)


BOUNDED = _echo(
    "bounded",
    bounds={
        "momentum": Bounds(minimum=-1, maximum=1, policy="clip"),
        "rsi": Bounds(minimum=0, maximum=100),
        "volume": Bounds(maximum=10.1, policy="flag"),
    },
)
RANGE = _echo(
    "range",
    OutputRule(name="range:values", output="values", kind="range", minimum=0, maximum=5),
    OutputRule(name="finite:values", output="values", kind="finite"),
    finite=False,
)
FINITE = _echo("finite", OutputRule(name="finite:values", output="values", kind="finite"), finite=False)
ANYTHING = _echo("anything", finite=False)
SUMS = _echo("sums", OutputRule(name="sum", output="values", kind="row_sum", minimum=0.999, maximum=1.001))
FLAGGED = _echo("flagged", OutputRule(name="positive", output="values", kind="range", minimum=0, policy="flag"))
FALLBACK = _echo("fallback", OutputRule(name="positive", output="values", kind="range", minimum=0, policy="fallback"))
TIMED = _echo("timed", event_time=EventTimeRule(required=True, max_age_s=30 * _YEAR_S, max_future_s=30 * _YEAR_S))
STALE = _echo("stale", event_time=EventTimeRule(max_age_s=30 * _YEAR_S, policy="flag"))
SERVED = one(BOUNDED, RANGE, FINITE, ANYTHING, SUMS, FLAGGED, FALLBACK, TIMED, STALE, name="rules")


def _predict(name: str, asked: Version, features: Any, expected: Expected, **fields: Any) -> Case:
    array = np.atleast_2d(np.asarray(features, np.float32))
    request = predict(array.ravel(), model=asked.plan.model, rows=len(array), **fields)
    return Case(f"{asked.plan.model}, {name}", SERVED, PREDICT, (request,), expected)


def _withheld(broken: Version, rule: str, policy: str = "reject") -> Expected:
    facts = {"rule": rule, "version": "1", "model": broken.plan.model}
    by = f"{broken.plan.model}/1 stable"
    return refused(texts.OUTPUT_RULE, by=by, at="values", also=[f"{rule} {policy}"], **facts)


def _out_of_bounds(row: int, value: float) -> Expected:
    facts = {"feature": "rsi", "row": row, "value": value, "minimum": 0.0, "maximum": 100.0}
    return refused(texts.OUT_OF_BOUNDS, by="bounded/1 stable", at="rsi", also=["bounds:rsi reject"], **facts)


def _stale(text: texts.Text, rule: str, **facts: Any) -> Expected:
    return refused(text, by="timed/1 stable", at="event_time_unix_ns", also=[f"{rule} reject"], **facts)


def _many(value: float) -> np.ndarray:
    """A thousand rows, the last of which ends in this value."""
    rows = np.full((1000, 3), 0.5, np.float32)
    rows[999, 2] = value
    return rows


INPUTS = (
    # float32 cannot hold 10.1 exactly; what looks equal to the bound is inside.
    _predict("values on their bounds", BOUNDED, [1, 100, 10.1], predicted(BOUNDED, [1, 100, 10.1])),
    _predict(
        "clip and flag",
        BOUNDED,
        [[-3, 50, 11], [0, 50, 0]],
        predicted(
            BOUNDED,
            [[-1, 50, 11], [0, 50, 0]],
            findings=[Found("CLIPPED", 0, 0, "bounds:momentum"), Found("FLAGGED", 0, 2, "bounds:volume")],
        ),
    ),
    _predict("reject in the second row", BOUNDED, [[0, 50, 0], [0, 100.5, 0]], _out_of_bounds(1, 100.5)),
    _predict("reject where another is clipped", BOUNDED, [-3, -1, 11], _out_of_bounds(0, -1.0)),
    _predict(
        "more findings than an answer names",
        BOUNDED,
        [[2, 50, 0]] * (MOST_FINDINGS + 20),
        predicted(
            BOUNDED,
            [[1, 50, 0]] * (MOST_FINDINGS + 20),
            findings=[Found("CLIPPED", row, 0, "bounds:momentum") for row in range(MOST_FINDINGS + 20)],
        ),
    ),
    _predict(
        "NaN",
        BOUNDED,
        [0, math.nan, 0],
        refused(
            texts.FEATURE_NOT_FINITE,
            by="bounded/1 stable",
            at="rsi",
            also=["finite:features reject"],
            tensor="features",
            feature="rsi",
            row=0,
            column=1,
            value=math.nan,
        ),
    ),
    _predict(
        "NaN in the last of a thousand rows",
        SUMS,
        _many(math.nan),
        refused(
            texts.FEATURE_NOT_FINITE,
            by="sums/1 stable",
            at="volume",
            also=["finite:features reject"],
            tensor="features",
            feature="volume",
            row=999,
            column=2,
            value=math.nan,
        ),
    ),
    _predict(
        "NaN, where the model takes it",
        ANYTHING,
        [0, math.nan, -math.inf],
        predicted(ANYTHING, [0, math.nan, -math.inf]),
    ),
    Case(
        "bounded, findings as JSON",
        SERVED,
        INFER,
        (infer(raw([[-3, 50, 11]]), model="bounded"),),
        inferred(
            BOUNDED,
            features=[[-1, 50, 11]],
            findings=[Found("CLIPPED", 0, 0, "bounds:momentum"), Found("FLAGGED", 0, 2, "bounds:volume")],
        ),
    ),
    Case(
        "bounded, more findings than an answer names",
        SERVED,
        INFER,
        (infer(raw([[2, 50, 0]] * (MOST_FINDINGS + 20)), model="bounded"),),
        inferred(
            BOUNDED,
            features=[[1, 50, 0]] * (MOST_FINDINGS + 20),
            findings=[Found("CLIPPED", row, 0, "bounds:momentum") for row in range(MOST_FINDINGS + 20)],
        ),
    ),
)

OUTPUTS = (
    _predict("values on its ends", RANGE, [0, 5, 1], predicted(RANGE, [0, 5, 1])),
    *(_predict(f"{value}", RANGE, [1, value, 1], _withheld(RANGE, "range:values")) for value in (-0.5, 5.5, math.nan)),
    _predict("infinity", RANGE, [1, math.inf, 1], _withheld(RANGE, "range:values")),
    *(
        _predict(f"{value}", FINITE, [1, value, 1], _withheld(FINITE, "finite:values"))
        for value in (math.nan, math.inf)
    ),
    _predict("a thousand rows", RANGE, _many(0.5), predicted(RANGE, _many(0.5))),
    _predict("the last of a thousand rows", RANGE, _many(5.5), _withheld(RANGE, "range:values")),
    _predict("every row", SUMS, [[0.25, 0.25, 0.5], [1, 0, 0]], predicted(SUMS, [[0.25, 0.25, 0.5], [1, 0, 0]])),
    _predict("the second row", SUMS, [[0.25, 0.25, 0.5], [1, 0.5, 0]], _withheld(SUMS, "sum")),
    _predict(
        "every broken row is named",
        FLAGGED,
        [[1, 1, 1], [1, -1, -1], [1, 1, 1], [-1, 1, 1]],
        predicted(
            FLAGGED,
            [[1, 1, 1], [1, -1, -1], [1, 1, 1], [-1, 1, 1]],
            findings=[Found("FLAGGED", 1, 1, "positive"), Found("FLAGGED", 3, 0, "positive")],
        ),
    ),
    Case(
        "flagged, findings as JSON",
        SERVED,
        INFER,
        (infer(raw([[1, 1, 1], [1, -1, 1]]), model="flagged"),),
        inferred(FLAGGED, features=[[1, 1, 1], [1, -1, 1]], findings=[Found("FLAGGED", 1, 1, "positive")]),
    ),
    _predict("nothing is broken", FALLBACK, [1, 1, 1], predicted(FALLBACK, [1, 1, 1])),
    _predict("no version to fall back to", FALLBACK, [1, -1, 1], _withheld(FALLBACK, "positive", "fallback")),
    Case(
        "range, value that is withheld",
        SERVED,
        INFER,
        (infer(raw([[1, 5.5, 1]]), model="range"),),
        _withheld(RANGE, "range:values"),
    ),
)

EVENT_TIMES = (
    _predict("in time", TIMED, [1, 2, 3], predicted(TIMED, [1, 2, 3]), event_time_unix_ns=IN_TIME),
    _predict("absent", TIMED, [1, 2, 3], _stale(texts.EVENT_TIME_ABSENT, "event_time", model="timed")),
    _predict(
        "too old",
        TIMED,
        [1, 2, 3],
        _stale(texts.EVENT_TIME_OLD, "max_age", age_s=VARIES, bound_s=30 * _YEAR_S),
        event_time_unix_ns=TOO_OLD,
    ),
    _predict(
        "too far ahead",
        TIMED,
        [1, 2, 3],
        _stale(texts.EVENT_TIME_FUTURE, "max_future", ahead_s=VARIES, bound_s=30 * _YEAR_S),
        event_time_unix_ns=TOO_FAR_AHEAD,
    ),
    _predict("absent", STALE, [1, 2, 3], predicted(STALE, [1, 2, 3])),
    _predict(
        "too old",
        STALE,
        [1, 2, 3],
        predicted(STALE, [1, 2, 3], findings=[Found("STALE", 0, 0, "max_age")]),
        event_time_unix_ns=TOO_OLD,
    ),
    Case(
        "timed, too old",
        SERVED,
        INFER,
        (infer(raw([[1, 2, 3]]), model="timed", parameters={"tickserve_event_time_unix_ns": TOO_OLD}),),
        _stale(texts.EVENT_TIME_OLD, "max_age", age_s=VARIES, bound_s=30 * _YEAR_S),
    ),
    Case(
        "timed, in time",
        SERVED,
        INFER,
        (infer(raw([[1, 2, 3]]), model="timed", parameters={"tickserve_event_time_unix_ns": IN_TIME}),),
        inferred(TIMED, features=[[1, 2, 3]]),
    ),
)

CASES = (*INPUTS, *OUTPUTS, *EVENT_TIMES)
