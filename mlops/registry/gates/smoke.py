"""Smoke tests: the package is really loaded and run, on its golden rows and at the edges of what may come in."""

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mlops.package import Golden, Package
from mlops.package.datatypes import Array
from mlops.package.rules import OutputLimits, as_rows
from mlops.package.runtime import Run, open_model
from mlops.registry.gates.latency import Clock, latency_gate
from mlops.registry.gates.policy import LatencyLevels
from mlops.registry.gates.report import Fact, GateResult
from mlops.registry.gates.sample_rows import edge_rows, run_one_by_one, take, takes_any_rows
from tickserve.errors import PackageError

_MOST_BATCH_ROWS = 4096
_NUMBERS = "biuf"


def smoke_gates(
    package: Package | None, levels: LatencyLevels, clock: Clock = time.perf_counter_ns
) -> Iterator[GateResult]:
    """Loading, inference, outputs, batches and latency, in that order; what cannot be tried is inconclusive."""
    if package is None or package.golden is None:
        yield GateResult("smoke.load", "inconclusive", "there is no verified package with golden rows to load")
        yield from _untried("there is no such package")
        return
    started = clock()
    try:
        run = open_model(package.model)
    except PackageError as error:
        yield GateResult("smoke.load", "fail", error.message, {"size_bytes": len(package.model)})
        yield from _untried("the model does not load")
        return
    facts: dict[str, Fact] = {"size_bytes": len(package.model), "load_ms": (clock() - started) / 1e6}
    yield GateResult("smoke.load", "pass", f"{len(package.model)} bytes load", facts)
    golden, is_by_row = package.golden, takes_any_rows(package.manifest)
    budget_us = package.manifest.limits.latency_budget_us
    yield _tried("smoke.inference", lambda: inference_gate(golden, run, is_by_row=is_by_row))
    yield _tried("smoke.output", lambda: output_gate(package, golden, run))
    yield _tried("smoke.batch", lambda: batch_gate(golden, run, package.manifest.limits.max_rows, is_by_row=is_by_row))
    yield _tried("smoke.latency", lambda: latency_gate(golden, run, levels, budget_us, clock, is_by_row=is_by_row))


def inference_gate(golden: Golden, run: Run, *, is_by_row: bool) -> GateResult:
    """Golden rows asked for one by one, as a trading engine asks, give the golden outputs."""
    outputs = run_one_by_one(run, golden.inputs) if is_by_row else run(golden.inputs)
    facts: dict[str, Fact] = {"rows": _rows(golden), "max_error": golden.max_error(outputs), "rtol": golden.rtol}
    facts["atol"] = golden.atol
    if mismatch := golden.mismatch(outputs):
        return GateResult("smoke.inference", "fail", mismatch, facts)
    if all((array == array[:1]).all() for array in golden.inputs.values() if array.ndim):
        text = "all golden rows are one and the same: that they are repeated says nothing about other rows"
        return GateResult("smoke.inference", "inconclusive", text, facts)
    return GateResult("smoke.inference", "pass", f"{facts['rows']} golden rows, one by one, are repeated", facts)


def output_gate(package: Package, golden: Golden, run: Run) -> GateResult:
    """No answer on golden and edge rows is NaN, infinite, or withheld by the package's own output rules."""
    edges = edge_rows(package)
    answers = {"golden": run(golden.inputs)} | ({"edge": run_one_by_one(run, edges)} if edges is not None else {})
    facts: dict[str, Fact] = {f"{name}_rows": _height(outputs) for name, outputs in answers.items()}
    specs = {spec.name: spec.datatype for spec in package.manifest.outputs}
    broken, flagged, checked = [], 0, 0
    for name, outputs in answers.items():
        for output, values in outputs.items():
            if values.dtype.kind not in _NUMBERS:
                continue
            checked += values.size
            if wrong := int((~np.isfinite(as_rows(values))).sum()):
                broken.append(f"{wrong} values of {output!r} on {name} rows are no finite number")
            for rule in package.manifest.output_rules:
                if rule.output != output:
                    continue
                wrong = int(OutputLimits(rule, specs[output]).violations(as_rows(values)).sum())
                if wrong and rule.policy == "flag":
                    flagged += wrong
                elif wrong:
                    broken.append(f"rule {rule.name!r} withholds {wrong} values of {output!r} on {name} rows")
    facts |= {"values": checked, "broken": len(broken), "flagged": flagged}
    if broken:
        return GateResult("smoke.output", "fail", "; ".join(broken), facts, 0.0)
    if not checked:
        return GateResult("smoke.output", "inconclusive", "the model gives no numbers that could be checked", facts)
    if edges is None:
        text = "golden rows are answered well, but edge rows cannot be made: rows have no first axis of any size"
        return GateResult("smoke.output", "inconclusive", text, facts)
    text = f"{checked} values on {facts['golden_rows']} golden and {facts['edge_rows']} edge rows keep every rule"
    return GateResult("smoke.output", "pass", text, facts, 0.0)


def batch_gate(golden: Golden, run: Run, max_rows: int, *, is_by_row: bool) -> GateResult:
    """As many rows as the package allows in one request (4,096 at most are tried) give what they give one by one."""
    if not is_by_row:
        text = "the model takes batches of one size only: nothing to compare a batch with"
        return GateResult("smoke.batch", "inconclusive", text)
    alone, rows = run_one_by_one(run, golden.inputs), min(max_rows, _MOST_BATCH_ROWS)
    if rows < 2:
        return GateResult("smoke.batch", "inconclusive", "the package allows one row a request", {"rows": rows})
    places = np.arange(rows) % _rows(golden)
    wanted = Golden(golden.inputs, take(alone, places), golden.rtol, golden.atol)
    outputs = run(take(golden.inputs, places))
    facts: dict[str, Fact] = {"rows": rows, "max_error": wanted.max_error(outputs)}
    if mismatch := wanted.mismatch(outputs):
        # `mismatch` speaks of golden rows; here those are the answers one by one.
        text = f"{rows} rows together are answered otherwise than one by one: {mismatch}"
        return GateResult("smoke.batch", "fail", text, facts, golden.atol)
    return GateResult("smoke.batch", "pass", f"{rows} rows together are answered as one by one", facts, golden.atol)


def _tried(name: str, test: Callable[[], GateResult]) -> GateResult:
    """The result; a run that the runtime refuses is a failure of the package."""
    try:
        return test()
    except PackageError as error:
        return GateResult(name, "fail", error.message)


def _untried(why: str) -> Iterator[GateResult]:
    for test in ("inference", "output", "batch", "latency"):
        yield GateResult(f"smoke.{test}", "inconclusive", f"not tried: {why}")


def _rows(golden: Golden) -> int:
    return _height(golden.inputs)


def _height(tensors: Mapping[str, Array]) -> int:
    first = next(iter(tensors.values()))
    return int(first.shape[0]) if first.ndim else 1
