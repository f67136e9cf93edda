"""One loaded version: its session, its compiled rules, and how a request's values become an answer."""

import hashlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mlops.histogram import Histogram
from mlops.package import MODEL_FILE, ColumnMapping, TensorSpec
from mlops.package.datatypes import numpy_dtype
from server.engine import texts
from server.engine.base import STAGES, Prepared, StageCounts, VersionCounters
from server.engine.python.rules import Array, BoundsCheck, Finding, FiniteCheck, OutputCheck
from server.engine.python.session import Session
from server.engine.python.tensors import InputReader
from server.plan import Role, VersionPlan
from tickserve.errors import DamagedPackageError, InvalidInputError, PackageError

_WARM_UP_RUNS = 20
_TIMED_RUNS = 50
_TIMING_BUDGET_S = 0.5
#: The policy behind each kind of finding.
_POLICY = {"CLIPPED": "clip", "FLAGGED": "flag"}


@dataclass(slots=True)
class Call:
    """One decoded request on its way through the checks; `arrays` are in the order of the model's inputs."""

    arrays: list[Array]
    rows: int
    request_id: str
    event_time_unix_ns: int
    timeout_us: int
    outputs: Sequence[int] | None = None
    findings: list[Finding] = field(default_factory=list)


class Tally:
    """What one version has done in one role. Written by the engine's thread alone."""

    __slots__ = ("answered", "errors", "last_answer_unix_ns", "rows", "rule_violations", "slow", "stages")

    def __init__(self) -> None:
        self.stages = {stage: Histogram() for stage in STAGES}
        self.answered = 0
        self.rows = 0
        self.slow = 0
        self.errors: dict[str, int] = {}
        self.rule_violations: dict[tuple[str, str], int] = {}
        self.last_answer_unix_ns = 0

    def count_error(self, reason: str) -> None:
        """Counts one refusal after routing."""
        self.errors[reason] = self.errors.get(reason, 0) + 1

    def count_violation(self, rule: str, policy: str) -> None:
        """Counts one broken rule."""
        self.rule_violations[rule, policy] = self.rule_violations.get((rule, policy), 0) + 1

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

    def __init__(self, version: VersionPlan, model: bytes) -> None:
        self.version = version
        self.session = Session(model, version.inputs, version.outputs)
        self.readers = [InputReader(spec) for spec in version.inputs]
        self.run_time_ns = 0
        self.in_flight = 0
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

    def release(self) -> None:
        """Ends one use by a thread of the pool. On the engine's thread."""
        self.in_flight -= 1

    def check_inputs(self, call: Call, tally: Tally, now_unix_ns: int) -> None:
        """Applies the input rules; may replace the call's arrays by clipped ones."""
        rule = self.version.input_rules.event_time
        if call.event_time_unix_ns or rule.required:
            self._check_event_time(call, tally, now_unix_ns)
        for index, check in enumerate(self._finite):
            if check is not None:
                try:
                    check(call.arrays[index])
                except InvalidInputError:
                    tally.count_violation(f"finite:{self.version.inputs[index].name}", "reject")
                    raise
        if self._bounds is not None:
            before = len(call.findings)
            try:
                call.arrays[0] = self._bounds(call.arrays[0], call.findings)
            except InvalidInputError as error:
                tally.count_violation(f"bounds:{error.field}", "reject")
                raise
            for finding in call.findings[before:]:
                tally.count_violation(finding.rule, _POLICY[finding.kind])

    def check_outputs(self, call: Call, outputs: Sequence[Array], tally: Tally) -> None:
        """Holds the outputs against the schema and the rules; raises where one of policy reject is broken."""
        for spec, array in zip(self.version.outputs, outputs, strict=True):
            if not _fits(spec, array.shape, call.rows):
                tally.count_violation(f"shape:{spec.name}", "reject")
                raise texts.OUTPUT_RULE.error(
                    at=spec.name, rule=f"shape:{spec.name}", version=self.version.version, model=self.version.model
                )
        for index, check in self._outputs:
            for rule, row, column in check.broken(outputs[index]):
                tally.count_violation(rule.name, rule.policy)
                if rule.policy != "flag":
                    raise texts.OUTPUT_RULE.error(
                        at=rule.output, rule=rule.name, version=self.version.version, model=self.version.model
                    )
                call.findings.append(Finding("FLAGGED", row, column, rule.name))

    def _check_event_time(self, call: Call, tally: Tally, now_unix_ns: int) -> None:
        rule = self.version.input_rules.event_time
        age_s = (now_unix_ns - call.event_time_unix_ns) / 1e9
        if not call.event_time_unix_ns:
            name, error = "event_time", texts.EVENT_TIME_ABSENT.error(at="event_time_unix_ns", model=self.version.model)
        elif rule.max_age_s is not None and age_s > rule.max_age_s:
            name, error = (
                "max_age",
                texts.EVENT_TIME_OLD.error(at="event_time_unix_ns", age_s=age_s, bound_s=rule.max_age_s),
            )
        elif rule.max_future_s is not None and -age_s > rule.max_future_s:
            name, error = (
                "max_future",
                texts.EVENT_TIME_FUTURE.error(at="event_time_unix_ns", ahead_s=-age_s, bound_s=rule.max_future_s),
            )
        else:
            return
        tally.count_violation(name, rule.policy)
        if rule.policy == "reject":
            raise error
        call.findings.append(Finding("STALE", 0, 0, name))


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
    runtime = Runtime(version, model)
    one_row = _one_row(version)
    try:
        _median_run_time_ns(runtime, one_row, _WARM_UP_RUNS)
        runtime.run_time_ns = _median_run_time_ns(runtime, one_row, _TIMED_RUNS)
        golden_max_error = _check_golden(runtime)
    except PackageError:
        raise
    except Exception as error:  # noqa: BLE001 - the runtime raises its own types, none of them documented
        raise PackageError(f"the model loads but does not run: {error}") from None
    return runtime, Prepared(
        version=version,
        run_time_ns=runtime.run_time_ns,
        resident_bytes=max(0, _resident_bytes() - resident_before),
        golden_max_error=golden_max_error,
        load_seconds=time.perf_counter() - started,
    )


def row_values(mapping: ColumnMapping, values: Sequence[float], rows: int) -> list[float]:
    """One figure a row by `mapping`, from an output's flat values; float64."""
    width = len(values) // rows
    if mapping.column is None:
        picked: Sequence[float] = [max(values[start : start + width]) for start in range(0, len(values), width)]
    else:
        picked = values[mapping.column :: width]
    return [mapping.scale * value + mapping.offset for value in picked]


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
    if shape == (rows, *declared[1:]):
        return declared[0] in (-1, rows)
    if len(shape) != len(declared) or (declared[:1] == (-1,) and shape[0] != rows):
        return False
    return all(size == expected or expected == -1 for size, expected in zip(shape, declared, strict=True))


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
    named = {spec.name: array for spec, array in zip(runtime.version.outputs, outputs, strict=True)}
    mismatch = golden.mismatch(named)
    if mismatch is not None:
        raise PackageError(f"the model does not give its golden outputs on this machine: {mismatch}")
    return golden.max_error(named)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0
