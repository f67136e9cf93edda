"""Non-inferiority to the live version: on the very same rows, how much worse may the candidate be."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from mlops.package import Manifest
from mlops.registry.gates.facts import VersionFacts
from mlops.registry.gates.policy import GatePolicy, NonInferiority
from mlops.registry.gates.report import Fact, GateResult, Verdict
from mlops.statistics.bootstrap import block_length, bootstrap_interval
from mlops.statistics.directions import HIGHER_IS_BETTER
from mlops.statistics.resampled import RowFigure
from mlops.statistics.row_figures import row_figure
from mlops.statistics.rows import Floats, Integers, Rows, read_rows


class _UndecidedError(Exception):
    """Why two versions cannot be compared."""


@dataclass(frozen=True)
class _Pair:
    """The rows that both versions predicted, after both trainings and the purge."""

    candidate: Rows
    live: Rows
    after: int


def non_inferiority_gates(candidate: VersionFacts, live: VersionFacts, policy: GatePolicy) -> Iterator[GateResult]:
    """One gate for each comparison; where there is none, one that says so."""
    if not policy.comparisons:
        yield GateResult(
            "non_inferiority",
            "inconclusive",
            "the policy compares nothing for this task: no figure says that it is not worse than the live version",
        )
    for wanted in policy.comparisons or ():
        yield _gate(wanted, candidate, live, policy)


def _gate(wanted: NonInferiority, candidate: VersionFacts, live: VersionFacts, policy: GatePolicy) -> GateResult:
    name = f"non_inferiority.{wanted.data_set}.{wanted.metric}"
    try:
        pair = _pair(wanted, candidate, live, policy)
        ours, theirs = (
            row_figure(wanted.metric, rows, facts.manifest.task, facts.manifest.outcomes)
            for rows, facts in ((pair.candidate, candidate), (pair.live, live))
        )
        if theirs is None or not math.isfinite(theirs.value):
            raise _UndecidedError(f"{wanted.metric} of the live version is undefined on these rows")
    except _UndecidedError as reason:
        return GateResult(name, "inconclusive", str(reason), threshold=-wanted.margin)
    if ours is None or not math.isfinite(ours.value):
        text = f"{wanted.metric} of the candidate is undefined on rows that the live version has it on"
        return GateResult(name, "fail", text, {"live": theirs.value}, -wanted.margin)
    return _judge(name, wanted, pair, ours, theirs, policy.seed)


def _judge(name: str, wanted: NonInferiority, pair: _Pair, ours: RowFigure, theirs: RowFigure, seed: int) -> GateResult:
    sign = 1.0 if HIGHER_IS_BETTER[wanted.metric] else -1.0

    def difference(places: Integers) -> Floats:
        return np.asarray(sign * (ours.resampled(places) - theirs.resampled(places)))

    periods = len(ours.series)
    interval = bootstrap_interval(
        difference,
        periods,
        length=block_length([ours.series, theirs.series, ours.series - theirs.series]),
        level=wanted.level,
        repetitions=wanted.repetitions,
        seed=seed,
    )
    value = sign * (ours.value - theirs.value)
    facts: dict[str, Fact] = {
        "candidate": ours.value,
        "live": theirs.value,
        "difference": value,
        "low": interval.low,
        "high": interval.high,
        "level": wanted.level,
        "n": len(pair.candidate),
        "periods": periods,
        "first": _text(int(pair.candidate.time[0])),
        "last": _text(int(pair.candidate.time[-1])),
        "after": _text(pair.after),
        "block_length": interval.block_length,
        "repetitions": interval.repetitions,
        "undefined_resamples": interval.undefined,
    }
    text = (
        f"{wanted.metric} {ours.value:.4g} against {theirs.value:.4g} live over {periods} periods: a difference of "
        f"{value:+.4g} (+ is better), from {interval.low:+.4g} to {interval.high:+.4g} at {wanted.level:.0%} a side; "
        f"above {-wanted.margin:g} is asked for"
    )
    verdict: Verdict = (
        "pass" if interval.low > -wanted.margin else "fail" if interval.high < -wanted.margin else "inconclusive"
    )
    return GateResult(name, verdict, text, facts, -wanted.margin)


def _pair(wanted: NonInferiority, candidate: VersionFacts, live: VersionFacts, policy: GatePolicy) -> _Pair:
    """The rows to compare on; `_UndecidedError` where there are none, too few, or not the same."""
    tables = []
    for who, facts in (("the candidate", candidate), ("the live version", live)):
        table = facts.evaluations.get(wanted.data_set)
        if table is None:
            raise _UndecidedError(f"{who} has no evaluation of {wanted.data_set}, row by row")
        tables.append(read_rows(table))
    ours, theirs = _common(*tables)
    after = max(_trained_until("candidate", candidate, policy), _trained_until("live", live, policy))
    chosen = _after_purge(ours.time, after, max(_horizon(facts.manifest) for facts in (candidate, live)))
    ours, theirs = ours.take(chosen), theirs.take(chosen)
    if ours.periods < wanted.periods:
        raise _UndecidedError(
            f"both versions have {ours.periods} times of {wanted.data_set} after both trainings ({_text(after)}) "
            f"and the purge; at least {wanted.periods} are needed"
        )
    return _Pair(ours, theirs, after)


def _common(ours: Rows, theirs: Rows) -> tuple[Rows, Rows]:
    """The rows whose time and place within it both have, and whose outcome is known by now."""
    keys = [list(zip(rows.time.tolist(), rows.ordinal.tolist(), strict=True)) for rows in (ours, theirs)]
    shared = set(keys[0]) & set(keys[1])
    ours, theirs = (
        rows.take(np.array([key in shared for key in found], np.bool_))
        for rows, found in zip((ours, theirs), keys, strict=True)
    )
    known = np.ones(len(ours), np.bool_)
    for what, mine, other in (
        ("outcomes", ours.outcome, theirs.outcome),
        ("returns", ours.returns, theirs.returns),
    ):
        if (mine is None) != (other is None):
            raise _UndecidedError(f"only one of the two evaluations has {what}")
        if mine is None or other is None:
            continue
        is_known = ~(np.isnan(mine) | np.isnan(other))
        if (mine != other)[is_known].any():
            raise _UndecidedError(
                f"the two evaluations are not of the same rows: {what} differ at "
                f"{int((mine != other)[is_known].sum())} of {len(ours)} shared times"
            )
        known &= is_known
    return ours.take(known), theirs.take(known)


def _after_purge(time: Integers, after: int, horizon: int) -> Integers:
    """Places of the rows that no training label reaches: the first `horizon` times after the end are left out too."""
    later = np.unique(time[time > after])[horizon:]
    return np.flatnonzero(np.isin(time, later))


def _trained_until(who: str, facts: VersionFacts, policy: GatePolicy) -> int:
    """When the last row that the version was fitted on or chosen by was known, in Unix nanoseconds."""
    manifest = facts.manifest
    names = {manifest.baseline_inputs, *policy.training_sets} & manifest.datasets.keys()
    ends = [manifest.datasets[name].last for name in names]
    if not ends:
        raise _UndecidedError(f"the {who} version names no data set that it was trained on")
    if None in ends:
        raise _UndecidedError(f"the {who} version does not say when the rows that it was trained on end")
    return max(_unix_ns(end) for end in ends if end is not None)


def _horizon(manifest: Manifest) -> int:
    """Periods that a label looks ahead; at least 1."""
    return max((horizon.periods for horizon in manifest.outcomes.horizons), default=1) if manifest.outcomes else 1


def _unix_ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _text(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).isoformat()
