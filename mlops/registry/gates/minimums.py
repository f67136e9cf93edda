"""Hard minimums: bounds on single figures that no version may break, whatever serves now."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from mlops.registry.gates.deflated import deflated_sharpe, expected_best
from mlops.registry.gates.facts import VersionFacts
from mlops.registry.gates.policy import DOMAINS, GatePolicy, Minimum
from mlops.registry.gates.report import Fact, GateResult, Verdict
from mlops.statistics.bootstrap import block_length, bootstrap_interval
from mlops.statistics.resampled import RowFigure
from mlops.statistics.row_figures import period_returns, row_figure
from mlops.statistics.rows import Rows, read_rows

#: Of each side of the interval that is shown; the verdict is on the value.
_LEVEL = 0.025
_REPETITIONS = 1000
#: Of fewer there is nothing to make blocks of, and no interval.
_LEAST_PERIODS = 20
#: How far a registered figure may lie from what its own rows give: rounding, not another definition.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Figure:
    """What a minimum is held against."""

    value: float
    n: int
    facts: dict[str, Fact]
    doubt: str = ""


def minimum_gates(candidate: VersionFacts, policy: GatePolicy) -> Iterator[GateResult]:
    """One gate for each minimum; where there is none, one that says so."""
    if not policy.minimums:
        yield GateResult(
            "minimum", "inconclusive", "the policy sets no minimum for this task: no figure says that it is any good"
        )
    for minimum in policy.minimums or ():
        yield _judge(minimum, _figure(minimum, candidate, policy.seed))


def _judge(minimum: Minimum, figure: _Figure | None) -> GateResult:
    name = f"minimum.{minimum.data_set}.{minimum.metric}"
    side = "at least" if minimum.at_least is not None else "at most"
    asked = f"{side} {minimum.bound:g} is asked for"
    if figure is None:
        text = f"{minimum.metric} on {minimum.data_set} is missing or undefined; {asked}"
        return GateResult(name, "fail", text, {"value": None, "n": 0}, minimum.bound)
    facts: dict[str, Fact] = {"value": figure.value, "n": figure.n, **figure.facts}

    def found(verdict: Verdict, why: str = "") -> GateResult:
        text = f"{minimum.metric} on {minimum.data_set} is {figure.value:.4g} over {figure.n} rows, {asked}"
        return GateResult(name, verdict, f"{text}{why}", facts, minimum.bound)

    low, high = DOMAINS.get(minimum.metric, (-math.inf, math.inf))
    if not low <= figure.value <= high:
        return found("fail", f"; it lies from {low:g} to {high:g}, so this figure follows another convention")
    if not minimum.is_kept(figure.value):
        return found("fail")
    if figure.doubt:
        return found("inconclusive", f"; {figure.doubt}")
    if figure.n < minimum.rows:
        return found("inconclusive", f", but on at least {minimum.rows} rows")
    return found("pass")


def _figure(minimum: Minimum, candidate: VersionFacts, seed: int) -> _Figure | None:
    """Computed from rows where there are any, else as registered; None where it is missing or undefined."""
    registered = candidate.metrics.get(minimum.data_set, {}).get(minimum.metric)
    table = candidate.evaluations.get(minimum.data_set)
    if table is not None:
        rows = read_rows(table).realised()
        figure = row_figure(minimum.metric, rows, candidate.manifest.task, candidate.manifest.outcomes)
        if figure is not None:
            if not math.isfinite(figure.value):
                return None
            facts: dict[str, Fact] = {"from": "rows", "low": None, "high": None}
            if len(figure.series) >= _LEAST_PERIODS:
                facts |= _interval(figure, seed)
            if minimum.metric == "sharpe":
                facts |= _deflated(rows, candidate, minimum.data_set)
            doubt = ""
            if registered is not None and not math.isclose(
                registered.value, figure.value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE
            ):
                facts["registered"] = registered.value
                doubt = f"registered is {registered.value:.4g}, which its own rows do not give"
            return _Figure(figure.value, len(rows), facts, doubt)
    if registered is None or not math.isfinite(registered.value):
        return None
    facts = {"from": "registered", "low": None, "high": None}
    if registered.standard_error is not None:
        reach = 1.96 * registered.standard_error
        facts |= {"low": registered.value - reach, "high": registered.value + reach}
    return _Figure(registered.value, registered.n, facts)


def _interval(figure: RowFigure, seed: int) -> dict[str, Fact]:
    length = block_length([figure.series])
    interval = bootstrap_interval(
        figure.resampled, len(figure.series), length=length, level=_LEVEL, repetitions=_REPETITIONS, seed=seed
    )
    return {"low": interval.low, "high": interval.high}


def _deflated(rows: Rows, candidate: VersionFacts, data_set: str) -> dict[str, Fact]:
    """Shown, not judged: how much of the ratio the number of tries explains."""
    manifest, tried = candidate.manifest, candidate.tried.get(data_set, ())
    returns = period_returns(rows, manifest.task, manifest.outcomes)
    if returns is None or manifest.outcomes is None or len(returns) < 3:
        return {}
    z = (returns - returns.mean()) / returns.std()
    bar = expected_best(len(tried), statistics.variance(tried) if len(tried) > 1 else 0.0)
    yearly = math.sqrt(manifest.outcomes.periods_per_year)
    probability = deflated_sharpe(
        float(returns.mean() / returns.std(ddof=1)),
        bar / yearly,
        periods=len(returns),
        skewness=float((z**3).mean()),
        kurtosis=float((z**4).mean()),
    )
    return {"tried": len(tried), "expected_best_of_tried": bar, "deflated_sharpe": probability}
