"""One loaded version: its session, its compiled rules, and how a request's values become an answer."""

import hashlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np

from mlops.histogram import Histogram
from mlops.package import MODEL_FILE, ColumnMapping, TensorSpec
from mlops.package.datatypes import numpy_dtype
from mlops.package.runtime import golden_error, run_failure
from mlops.tap.layout import DATATYPE_NUMBER
from server.engine import texts
from server.engine.base import STAGES, Prepared, StageCounts, VersionCounters
from server.engine.python.call import Call
from server.engine.python.rules import Array, BoundsCheck, Finding, FiniteCheck, OutputCheck
from server.engine.python.session import Session, load
from server.engine.python.tensors import InputReader
from server.engine.yielding import run_yielding
from server.plan import Role, VersionPlan
from tickserve.errors import DamagedPackageError, InvalidInputError, PackageError, TickserveError

_WARM_UP_RUNS = 20
_TIMED_RUNS = 50
_TIMING_BUDGET_S = 0.5
#: What reading, checking and writing one value costs at most, by measurement; text is decoded one by one.
_VALUE_NS = 50
_TEXT_NS = 250


class Tally:
    """What one version has done in one role. Written by the engine's thread alone; in the role of a shadow, by that of
    shadows, but for `dropped`.
    """

    __slots__ = (
        "answered",
        "dropped",
        "errors",
        "expired",
        "last_answer_unix_ns",
        "rows",
        "rule_violations",
        "slow",
        "stages",
    )

    def __init__(self) -> None:
        self.stages = {stage: Histogram() for stage in STAGES}
        self.answered = 0
        self.rows = 0
        self.slow = 0
        self.errors: dict[str, int] = {}
        self.rule_violations: dict[tuple[str, str], int] = {}
        self.last_answer_unix_ns = 0
        #: Copies that found no room for a shadow, and those that waited too long in it.
        self.dropped = 0
        self.expired = 0

    def count_error(self, reason: str) -> None:
        """Counts one refusal after routing."""
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def count_violations(self, violations: Mapping[tuple[str, str], int]) -> None:
        """Adds what one request broke."""
        for key, times in violations.items():
            self.rule_violations[key] = self.rule_violations.get(key, 0) + times

    def copy(self, model: str, version: str, role: Role) -> VersionCounters:
        """The counts as they stand."""
        return VersionCounters(
            model=model,
            version=version,
            role=role,
            stages={
                name: StageCounts(histogram.counts.copy(), histogram.sum_ns) for name, histogram in self.stages.items()
            },
            answered=self.answered,
            rows=self.rows,
            slow=self.slow,
            errors=self.errors.copy(),
            rule_violations=self.rule_violations.copy(),
            last_answer_unix_ns=self.last_answer_unix_ns,
        )


class Runtime:
    """A version that is loaded and may answer."""

    def __init__(self, version: VersionPlan, session: Session) -> None:
        self.version = version
        self.session = session
        #: As the tap numbers datatypes.
        self.input_datatypes = [DATATYPE_NUMBER[spec.datatype] for spec in version.inputs]
        self.output_datatypes = [DATATYPE_NUMBER[spec.datatype] for spec in version.outputs]
        self.output_names = [spec.name for spec in version.outputs]
        self.readers = [InputReader(spec) for spec in version.inputs]
        #: Estimated cost of a request, by each value that goes in; infinite until measured.
        self.ns_per_value = math.inf
        #: Median for one row, once measured.
        self.run_time_ns = 0
        self._taken = 0
        self._released = 0
        rules = version.input_rules
        self._finite = [
            FiniteCheck(spec.name, version.feature_names) if rules.finite and spec.datatype.startswith("FP") else None
            for spec in version.inputs
        ]
        self._bounds = BoundsCheck(version.feature_names, rules, version.inputs[0].datatype) if rules.bounds else None
        self._outputs = [
            (index, OutputCheck(checks, spec))
            for index, spec in enumerate(version.outputs)
            if (checks := [rule for rule in version.output_rules if rule.output == spec.name])
        ]

    @property
    def in_flight(self) -> int:
        """Uses by other threads, and for shadows, that have not ended."""
        return self._taken - self._released

    def take(self) -> None:
        """Begins one use. On the engine's thread."""
        self._taken += 1

    def give_back(self) -> None:
        """Undoes `take`, where nothing came of the use. On the engine's thread."""
        self._taken -= 1

    def release(self) -> None:
        """Ends one use. On one thread: that of shadows for what `apart` gave, else the engine's."""
        self._released += 1

    def apart(self) -> "Runtime":
        """The same loaded version for the thread of shadows, with buffers of its own."""
        other = Runtime(self.version, self.session.apart())
        other.ns_per_value, other.run_time_ns = self.ns_per_value, self.run_time_ns
        return other

    def check_inputs(self, call: Call, now_unix_ns: int) -> None:
        """Applies the input rules; may replace the call's arrays by clipped ones."""
        rule = self.version.input_rules.event_time
        if call.event_time_unix_ns or rule.required:
            self._check_event_time(call, now_unix_ns)
        for index, check in enumerate(self._finite):
            if check is not None:
                try:
                    check(call.arrays[index])
                except InvalidInputError:
                    call.findings.count(f"finite:{self.version.inputs[index].name}", "reject")
                    raise
        if self._bounds is not None:
            received = call.arrays[0]
            call.arrays[0] = self._bounds(received, call.findings)
            if call.arrays[0] is not received:
                call.received = received

    def check_outputs(self, call: Call, outputs: Sequence[Array]) -> None:
        """Holds the outputs against the schema and the rules; raises where one of policy reject is broken."""
        for spec, array in zip(self.version.outputs, outputs, strict=True):
            if not _fits(spec, array.shape, call.rows):
                raise self.withheld(call, f"shape:{spec.name}", "reject", at=spec.name)
        for index, check in self._outputs:
            for rule, rows, columns in check.broken(outputs[index]):
                if rule.policy == "fallback":
                    call.fallback = Finding("FALLBACK", int(rows[0]), int(columns[0]), rule.name)
                if rule.policy != "flag":
                    raise self.withheld(call, rule.name, rule.policy, at=rule.output)
                call.findings.count(rule.name, rule.policy, len(rows))
                call.findings.add_all(rows, columns, lambda _, name=rule.name: ("FLAGGED", name))  # type: ignore[misc]

    def withheld(self, call: Call, rule: str, policy: str, *, at: str) -> TickserveError:
        """Counts an output rule that keeps the answer from leaving; returns the refusal to raise."""
        call.findings.count(rule, policy)
        return texts.OUTPUT_RULE.error(at=at, rule=rule, version=self.version.version, model=self.version.model)

    def _check_event_time(self, call: Call, now_unix_ns: int) -> None:
        rule = self.version.input_rules.event_time
        age_s = (now_unix_ns - call.event_time_unix_ns) / 1e9
        if not call.event_time_unix_ns:
            name, error = "event_time", texts.EVENT_TIME_ABSENT.error(at="event_time_unix_ns", model=self.version.model)
        elif rule.max_age_s is not None and age_s > rule.max_age_s:
            name, error = (
                "max_age",
                texts.EVENT_TIME_OLD.error(at="event_time_unix_ns", age_s=round(age_s, 3), bound_s=rule.max_age_s),
            )
        elif rule.max_future_s is not None and -age_s > rule.max_future_s:
            name, error = (
                "max_future",
                texts.EVENT_TIME_FUTURE.error(
                    at="event_time_unix_ns", ahead_s=round(-age_s, 3), bound_s=rule.max_future_s
                ),
            )
        else:
            return
        call.findings.count(name, rule.policy)
        if rule.policy == "reject":
            raise error
        call.findings.add("STALE", 0, 0, name)


def prepare(version: VersionPlan) -> tuple[Runtime, Prepared]:
    """Reads, verifies, loads, warms and checks one version on the calling thread.

    Raises
    ------
    DamagedPackageError
        Where the file is not the one that the plan names.
    PackageError
        Where the runtime cannot load it, or its answers are not the golden ones.
    """
    started = time.perf_counter()
    resident_before = _resident_bytes()
    try:
        model = (version.path / MODEL_FILE).read_bytes()
    except OSError as error:
        raise DamagedPackageError(
            f"cannot read {version.path / MODEL_FILE}: {error.strerror}", field=MODEL_FILE
        ) from None
    if hashlib.sha256(model).hexdigest() != version.model_sha256:
        raise DamagedPackageError(f"{MODEL_FILE} changed after it was verified: its SHA-256 differs", field=MODEL_FILE)
    # Not the measurement: it is to take as long as a request's run does.
    runtime = Runtime(version, run_yielding(lambda: load(model, version.inputs, version.outputs)))
    one_row = _one_row(version)
    try:
        outputs = runtime.session.run(one_row)
        _require_declared(version, one_row, outputs)
        _median_run_time_ns(runtime, one_row, _WARM_UP_RUNS)
        run_time_ns = _median_run_time_ns(runtime, one_row, _TIMED_RUNS)
        runtime.run_time_ns = run_time_ns
        runtime.ns_per_value = _ns_per_value(run_time_ns, one_row, outputs)
        golden_max_error = _check_golden(runtime)
    except PackageError:
        raise
    except Exception as error:  # noqa: BLE001 - the runtime raises its own types, none of them documented
        raise run_failure(error) from None
    return runtime, Prepared(
        version=version,
        run_time_ns=run_time_ns,
        resident_bytes=max(0, _resident_bytes() - resident_before),
        golden_max_error=golden_max_error,
        load_seconds=time.perf_counter() - started,
    )


def row_value(mapping: ColumnMapping, output: Array) -> float:
    """The figure of an output of one row by `mapping`; the arithmetic of `row_values`."""
    values: list[float] = output.ravel().tolist()
    if mapping.column is not None:
        value = values[mapping.column]
    else:
        value = max(values) if all(value == value for value in values) else math.nan
    return mapping.scale * value + mapping.offset


def row_values(mapping: ColumnMapping, output: Array, rows: int) -> Array:
    """One figure a row by `mapping`, in float64; where any value of a row is NaN, so is its maximum."""
    wide = output.reshape(rows, -1)
    picked = (wide.max(axis=1) if mapping.column is None else wide[:, mapping.column]).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(mapping.scale * picked + mapping.offset)


def _one_row(version: VersionPlan) -> list[Array]:
    arrays: list[Array] = []
    for spec in version.inputs:
        if version.golden is not None:
            # Sliced, so that a fixed first dimension stays whole.
            array = version.golden.inputs[spec.name]
            arrays.append(np.ascontiguousarray(array[:1] if spec.shape and spec.shape[0] == -1 else array))
        else:
            shape = [1 if size == -1 else size for size in spec.shape]
            is_text = spec.datatype == "BYTES"
            arrays.append(np.full(shape, "" if is_text else 0, dtype=object if is_text else numpy_dtype(spec.datatype)))
    return arrays


def _fits(spec: TensorSpec, shape: tuple[int, ...], rows: int) -> bool:
    """Whether an output has the declared shape, and a row for each row asked for where its rows are open."""
    declared = spec.shape
    if declared and shape == (rows, *declared[1:]):
        return declared[0] in (-1, rows)
    if len(shape) != len(declared) or (declared[:1] == (-1,) and shape[0] != rows):
        return False
    return all(size == expected or expected == -1 for size, expected in zip(shape, declared, strict=True))


def _require_declared(version: VersionPlan, one_row: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Refuses a model whose answer to one row already has another shape than declared: how many values it gives depends
    on what they are, and no request could be told which of them are its rows.
    """
    for spec, array in zip(version.outputs, outputs, strict=True):
        if not _fits(spec, array.shape, 1):
            raise PackageError(
                f"output {spec.name!r} has shape {list(array.shape)} for one row, declared is {list(spec.shape)}; "
                "an output gives one row for each row asked for, whatever the values are",
                field=MODEL_FILE,
            )


def _ns_per_value(run_time_ns: int, inputs: Sequence[Array], outputs: Sequence[Array]) -> float:
    """What a request costs by each value that goes in: the measured run, and handling what goes in and comes out."""
    handling_ns = sum(array.size * (_TEXT_NS if array.dtype == object else _VALUE_NS) for array in (*inputs, *outputs))
    return (run_time_ns + handling_ns) / max(1, sum(array.size for array in inputs))


def _median_run_time_ns(runtime: Runtime, one_row: list[Array], runs: int) -> int:
    times = []
    deadline = time.perf_counter() + _TIMING_BUDGET_S
    for _ in range(runs):
        start = time.perf_counter_ns()
        runtime.session.run_one(one_row)
        times.append(time.perf_counter_ns() - start)
        if time.perf_counter() > deadline:
            break
    return int(statistics.median(times))


def _check_golden(runtime: Runtime) -> float | None:
    golden = runtime.version.golden
    if golden is None:
        return None
    outputs = runtime.session.run([golden.inputs[spec.name] for spec in runtime.version.inputs])
    return golden_error(
        golden, {spec.name: array for spec, array in zip(runtime.version.outputs, outputs, strict=True)}
    )


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0
