"""Gathering a day's facts from the prediction log, the tables and the outcomes, and from nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mlops.alerts.history import AlertRow, read_history
from mlops.drift import WindowResult
from mlops.drift.table import read_windows
from mlops.outcomes import Lengths
from mlops.outcomes.comparison import compare_with_package
from mlops.outcomes.features import feature_figures
from mlops.outcomes.figures import View, outcome_figures
from mlops.outcomes.monitor import OutcomeMonitor
from mlops.package import Horizon, Package
from mlops.prediction_log import Batch
from mlops.prediction_log.outcomes import read_outcomes
from mlops.prediction_log.reading import read_all
from mlops.report.counting import DayCounts
from mlops.report.facts import DailyReport, HorizonReport, Traffic, VersionReport
from mlops.report.lines import capital, rolling_ic, rolling_sharpe
from mlops.statistics.rows import Integers

_DAY_NS = 86_400_000_000_000
_SMOKE = 5
#: Windows that the lines over time go back.
_WINDOWS = 30


@dataclass(frozen=True)
class Sources:
    """Where a report reads from.

    Parameters
    ----------
    log, windows : Path
        The prediction log with its outcomes, and the table of drift windows.
    find : callable
        The package of a model and version by its digest, or None.
    alerts : Path, optional
        The folder of the histories of alerts, one by model.
    """

    log: Path
    windows: Path
    find: Callable[[str, str, str], Package | None]
    alerts: Path | None = None


@dataclass
class _Seen:
    """What is counted of one version while the log is read."""

    digest: str
    package: Package | None
    counts: DayCounts | None
    records: int = 0
    rows: int = 0
    refused: int = 0
    smoke: int = 0
    flagged: int = 0
    ages: list[Integers] = field(default_factory=list)


def daily_report(
    sources: Sources,
    day: date,
    *,
    model: str | None = None,
    known_at_ns: int | None = None,
    lengths: Lengths | None = None,
) -> DailyReport:
    """The report of one day, up to its end in event time.

    Parameters
    ----------
    model : str, optional
        This model alone.
    known_at_ns : int, optional
        Takes outcomes as they were known then; by default all that are known by now, and the report says until when.

    Raises
    ------
    DamagedLogError
        Where a file of the log is none.
    """
    end_ns = _ns(day + timedelta(days=1))
    monitor = OutcomeMonitor(sources.find, lengths=lengths, as_of_ns=known_at_ns, max_waiting=0)
    latest = 0
    # Outcomes first: then predictions find theirs as they are read, and none has to wait.
    for outcome in read_outcomes(sources.log, until_recorded_ns=known_at_ns):
        if outcome.event_time_ns < end_ns:
            monitor.add_outcomes([outcome])
            latest = max(latest, outcome.recorded_at_ns)
    seen: dict[tuple[str, str], _Seen] = {}
    numbers: dict[tuple[str, int], _Numbers] = {}
    for batch in read_all(sources.log, model=model):
        times = event_times(batch)
        _count_numbers(numbers, batch, times // _DAY_NS == end_ns // _DAY_NS - 1)
        before = batch.take(times < end_ns)
        if len(before):
            monitor.add(before)
            _count(seen, before, end_ns // _DAY_NS - 1, sources)
    windows = {key: _windows(sources.windows, *key, end_ns) for key in seen}
    return DailyReport(
        day=day.isoformat(),
        known_at_ns=latest if known_at_ns is None else known_at_ns,
        outcomes=monitor.outcomes,
        missed=0 if model is not None else sum(each.missed for each in numbers.values()),
        versions=tuple(
            _version(key, found, windows[key], monitor, end_ns) for key, found in sorted(seen.items(), key=_by_version)
        ),
        pnl=tuple(figure for name in sorted({name for name, _ in seen}) for figure in monitor.pnl(name)),
        alerts=_alerts(sources.alerts, day, model),
    )


def _alerts(folder: Path | None, day: date, model: str | None) -> tuple[AlertRow, ...]:
    """What was done on the day, oldest first: a history only grows, so that a past day stays as it is."""
    paths = [] if folder is None else sorted(folder.glob("*/history.jsonl"))
    rows = [row for path in paths if model in (None, path.parent.name) for row in read_history(path)]
    done = [row for row in rows if datetime.fromisoformat(row.done_at).astimezone(UTC).date() == day]
    return tuple(sorted(done, key=lambda row: row.done_at))


def event_times(batch: Batch) -> Integers:
    """Event time of each record, or when it was answered where the client gave none."""
    return np.where(batch.event_time_ns == 0, batch.time_ns, batch.event_time_ns).astype(np.int64)


@dataclass
class _Numbers:
    """The numbers that one ring gave on the day."""

    first: int
    last: int
    there: int

    @property
    def missed(self) -> int:
        return self.last - self.first + 1 - self.there


def _count_numbers(numbers: dict[tuple[str, int], _Numbers], batch: Batch, is_today: Any) -> None:
    today = batch.take(is_today)
    for boot, ring in {*zip(today.boot.tolist(), today.ring.tolist(), strict=True)}:
        sequence = today.sequence[(today.boot == boot) & (today.ring == ring)].astype(np.int64)
        first, last = int(sequence.min()), int(sequence.max())
        known = numbers.get((boot, ring))
        if known is None:
            numbers[boot, ring] = _Numbers(first, last, len(sequence))
        else:
            known.first, known.last = min(known.first, first), max(known.last, last)
            known.there += len(sequence)


def _count(seen: dict[tuple[str, str], _Seen], batch: Batch, day: int, sources: Sources) -> None:
    key = batch.model, batch.version
    found = seen.get(key)
    if found is None or found.digest != batch.digest:
        package = sources.find(batch.model, batch.version, batch.digest)
        baseline = None if package is None else package.baseline
        found = seen[key] = _Seen(batch.digest, package, None if baseline is None else DayCounts(baseline))
    days = event_times(batch) // _DAY_NS
    if found.counts is not None:
        found.counts.add(batch, days)
    today = batch.take(days == day)
    found.records += len(today)
    found.rows += int(today.rows.sum())
    found.refused += int((today.status != 0).sum())
    found.smoke += int((today.why == _SMOKE).sum())
    found.flagged += len(today.findings)
    said = today.event_time_ns != 0
    if said.any():
        found.ages.append((today.time_ns - today.event_time_ns)[said])


def _windows(folder: Path, model: str, version: str, end_ns: int) -> list[WindowResult]:
    return [each for each in read_windows(folder, model, version) if each.last_ns < end_ns]


def _version(
    key: tuple[str, str], found: _Seen, windows: list[WindowResult], monitor: OutcomeMonitor, end_ns: int
) -> VersionReport:
    model, version = key
    notes = []
    day = end_ns // _DAY_NS - 1
    if not found.records:
        notes.append("no record on this day; what is older is shown as it stood")
    first, distributions = (day, []) if found.counts is None else found.counts.up_to(day)
    if found.package is None:
        notes.append(f"package {found.digest[:12]} was not found: no baseline to compare with, and no outcomes")
    elif found.counts is None:
        notes.append("the package has no baseline")
    if not windows:
        notes.append("no drift window has closed by then, or the sidecar kept no table of them")
    ages = np.concatenate(found.ages) / 1e9 if found.ages else np.empty(0)
    p50, p99 = (float(np.quantile(ages, q)) if len(ages) else None for q in (0.5, 0.99))
    horizons: list[HorizonReport] = []
    if found.package is not None and found.package.manifest.outcomes is None:
        notes.append("the package declares no outcomes")
    elif found.package is not None and monitor.serves(model, version):
        declared = found.package.manifest.outcomes
        horizons = [_horizon(found.package, version, each, monitor) for each in (declared.horizons if declared else ())]
    if horizons and not any(each.joined for each in horizons):
        notes.append("no outcome of its predictions is known yet")
    return VersionReport(
        model=model,
        version=version,
        digest=found.digest,
        traffic=Traffic(found.records, found.rows, found.refused, found.smoke, found.flagged, p50, p99),
        notes=tuple(notes),
        distributed_from_ns=first * _DAY_NS,
        distributions=tuple(distributions),
        closed=tuple(each for each in windows if each.last_ns >= end_ns - _DAY_NS),
        windows=tuple(windows[-_WINDOWS:]),
        horizons=tuple(horizons),
    )


def _horizon(package: Package, version: str, horizon: Horizon, monitor: OutcomeMonitor) -> HorizonReport:
    manifest, lengths = package.manifest, monitor.lengths
    assert manifest.outcomes is not None  # noqa: S101 - told apart by the caller
    rows = monitor.rows(manifest.name, version, horizon.name)
    figures = outcome_figures(rows, manifest, version, horizon, lengths)
    view = View(rows, manifest.outcomes, horizon).last(lengths.window)
    returns = view.returns(view.rows.signal)
    length = lengths.rolling[-1] if lengths.rolling else lengths.window
    per_year = manifest.outcomes.periods_per_year / horizon.periods
    value = view.rows.value
    return HorizonReport(
        horizon=horizon.name,
        joined=len(rows),
        figures=figures,
        comparisons=compare_with_package(figures, manifest),
        features=feature_figures(view.rows, manifest, package.baseline, version, horizon),
        rolling_ic=tuple(rolling_ic(view, length)),
        rolling_sharpe=tuple(rolling_sharpe(returns.start_ns, returns.strategy, per_year, length)),
        capital=tuple(capital(returns.start_ns, returns.strategy)),
        labels={"down": int((value < 0).sum()), "flat": int((value == 0).sum()), "up": int((value > 0).sum())},
    )


def _by_version(item: tuple[tuple[str, str], Any]) -> tuple[str, int, str]:
    (model, version), _ = item
    return model, int(version) if version.isdigit() else 0, version


def _ns(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000_000
