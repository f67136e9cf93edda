"""Drift as a consumer of the log: a monitor for each version, results kept in a table, the newest for Prometheus."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mlops.drift import DriftMonitor, DriftSpec, Figure, WindowResult, default_spec, parse_window, restore, save
from mlops.drift.table import WindowTable
from mlops.package.npz import read_arrays, write_arrays
from mlops.prediction_log.batch import Batch
from mlops.sidecar.packages import PackageFinder
from tickserve.errors import ConfigurationError, DamagedLogError, DataError, TickserveError

_log = structlog.get_logger()
_Key = tuple[str, str, str]
#: Versions that are remembered, those with the newest records first.
MAX_VERSIONS = 64
#: Versions of one model that Prometheus sees.
_EXPORTED = 4
#: A package that was not to be had is looked for again after this.
_RETRY_S = 60.0
#: What was left out meanwhile is read again in pieces of about this.
_BUDGET_S = 0.05
_STATES = ("ok", "warning", "critical", "insufficient")
_VALUES: dict[str, tuple[str, Callable[[Figure], float | None]]] = {
    "value": ("A drift statistic of the last window.", lambda figure: figure.value),
    "null_mean": ("Its mean without drift.", lambda figure: figure.null_mean),
    "null_q99": ("Its 99% quantile without drift.", lambda figure: figure.null_q99),
    "p": ("How probable a value at least as large is without drift.", lambda figure: figure.p),
    "n": ("Rows of the window.", lambda figure: float(figure.n)),
    "effective_n": ("Independent rows that would stray as much.", lambda figure: figure.effective_n),
}


class DriftConsumer:
    """Watches every version that has a package with a baseline.

    Parameters
    ----------
    folder : Path
        Of the table of results.
    specs : mapping of str to mapping
        By model, entries that differ from `default_spec`; `read_specs` reads them from a file.
    on_windows : callable
        Is given the windows that closed, after they are in the table, in the order in which they closed. Before the
        first record it is given the last window of each version again: a life before may have ended between the two.
    read : callable
        The records of a model and version behind a position, as `read_log` gives them: of those that came before their
        package could be had.
    """

    name = "drift"

    def __init__(
        self,
        packages: PackageFinder,
        folder: Path,
        specs: Mapping[str, Mapping[str, Any]] | None = None,
        on_windows: Callable[[Sequence[WindowResult]], None] = lambda results: None,
        read: Callable[[str, str, int], Iterator[Batch]] = lambda model, version, after: iter(()),
    ) -> None:
        self._packages, self._specs, self._on_windows, self._read = packages, specs or {}, on_windows, read
        self._table = WindowTable(folder)
        self._monitors: dict[_Key, DriftMonitor | None] = {}
        self._waiting: dict[_Key, bytes] = {}
        self._missing: dict[_Key, float] = {}
        #: The first record of a version that was left out because its package could not be had.
        self._skipped: dict[_Key, int] = {}
        #: Of versions whose package came later, what is being read of the log, and where they were when that began.
        self._behind: dict[_Key, tuple[int, Iterator[Batch]]] = {}
        self._has_begun = False
        self._lock = threading.Lock()
        self._latest: dict[tuple[str, str], WindowResult] = {}
        for result in self._table.latest():
            self._latest[result.model, result.version] = result

    @property
    def latest(self) -> list[WindowResult]:
        """The last window of each version, of this life or one before."""
        with self._lock:
            return list(self._latest.values())

    def add(self, batch: Batch) -> None:
        """Counts the records of one version.

        One whose package cannot be had is left out, and looked for again; once it is there, `tick` reads its records
        from the log, so that its figures are those of a replay.
        """
        if not self._has_begun:
            self._has_begun = True
            if self._latest:
                self._on_windows(self.latest)
        key = batch.model, batch.version, batch.digest
        monitor = self._monitor(key)
        if monitor is None:
            if key in self._missing:
                self._skipped.setdefault(key, int(batch.position[0]))
                while len(self._skipped) > MAX_VERSIONS:
                    self._skipped.pop(next(iter(self._skipped)))
            return
        if key in self._skipped:
            return
        self._count(key, monitor, batch)

    def tick(self) -> None:
        """Counts some of what was left out while a package could not be had."""
        until = time.monotonic() + _BUDGET_S
        for key in [key for key in self._skipped if key in self._monitors]:
            if self._has_made_up(key, until):
                del self._skipped[key]
                self._behind.pop(key, None)

    def _has_made_up(self, key: _Key, until: float) -> bool:
        while time.monotonic() < until:
            monitor = self._monitors.get(key)
            if monitor is None:
                return True
            reached = monitor.progress.last_position
            if key not in self._behind:
                self._behind[key] = reached, self._read(key[0], key[1], max(reached, self._skipped[key] - 1))
            begun, source = self._behind[key]
            try:
                batch = next(source, None)
            except DamagedLogError as error:
                _log.error("drift_not_made_up", model=key[0], version=key[1], reason=error.message)
                return True
            if batch is None:
                del self._behind[key]
                # The log has grown meanwhile: once more, until there is nothing new.
                if reached == begun:
                    return True
            elif batch.digest == key[2]:
                self._count(key, monitor, batch)
        return False

    def _count(self, key: _Key, monitor: DriftMonitor, batch: Batch) -> None:
        try:
            closed = monitor.add(batch)
        except DataError as error:
            # One version with tensors that are not its package's must not end the watching of all others.
            _log.error("drift_not_watched", model=batch.model, version=batch.version, reason=error.message)
            self._monitors[key] = None
            return
        results = self._table.append(closed)
        if results:
            with self._lock:
                self._latest |= {(result.model, result.version): result for result in results}
            for result in results:
                _log.info("drift_window", model=result.model, version=result.version, state=result.state)
            self._on_windows(results)

    def checkpoint(self) -> bytes:
        """The states of all monitors."""
        states = self._waiting | {key: save(each) for key, each in self._monitors.items() if each is not None}
        arrays: dict[str, np.ndarray[Any, Any]] = {
            str(number): np.frombuffer(state, np.uint8) for number, state in enumerate(states.values())
        }
        arrays["keys"] = np.array([json.dumps(list(states))])
        arrays["skipped"] = np.array([json.dumps([[*key, first] for key, first in self._skipped.items()])])
        return write_arrays(arrays)

    def restore(self, data: bytes) -> None:
        """Takes up the states of `checkpoint`; each is used once its version's package is needed."""
        try:
            arrays = read_arrays(data, "checkpoint of drift")
            keys = json.loads(str(arrays["keys"][0]))
            self._waiting = {
                (str(model), str(version), str(digest)): arrays[str(number)].tobytes()
                for number, (model, version, digest) in enumerate(keys)
            }
            self._skipped = {
                (str(model), str(version), str(digest)): int(first)
                for model, version, digest, first in json.loads(str(arrays["skipped"][0]))
            }
        except (TickserveError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"not a checkpoint of drift: {error}") from None

    def collect(self) -> Iterator[Metric]:
        """Figures and states of the last window of each version. What is undefined is absent."""
        results = _newest(self.latest)
        labels = ("model", "version", "side", "column", "statistic")
        for name, (text, read) in _VALUES.items():
            family = GaugeMetricFamily(f"tickserve_drift_{name}", text, labels=labels)
            for result in results:
                for figure in result.figures:
                    value = read(figure)
                    if value is not None:
                        where = [result.model, result.version, figure.side, figure.column, figure.statistic]
                        family.add_metric(where, value)
            yield family
        states = GaugeMetricFamily(
            "tickserve_drift_state", "1 for the state that a column is in.", labels=(*labels[:4], "state")
        )
        ends = GaugeMetricFamily(
            "tickserve_drift_window_end_timestamp_seconds",
            "Event time at which the last window ended.",
            labels=labels[:2],
        )
        for result in results:
            for decision in result.decisions:
                where = [result.model, result.version, decision.side, decision.column]
                for state in _STATES:
                    states.add_metric([*where, state], float(state == decision.state))
            ends.add_metric([result.model, result.version], result.end_ns / 1e9)
        yield from (states, ends)

    def _monitor(self, key: _Key) -> DriftMonitor | None:
        if key in self._monitors:
            # The newest last, so that the first is the one to forget.
            self._monitors[key] = self._monitors.pop(key)
            return self._monitors[key]
        if time.monotonic() - self._missing.get(key, -_RETRY_S) < _RETRY_S:
            return None
        package = self._packages.find(*key)
        if package is None:
            self._missing[key] = time.monotonic()
            return None
        self._missing.pop(key, None)
        monitor = None
        if package.baseline is None:
            _log.info("drift_not_watched", model=key[0], version=key[1], reason="the package has no baseline")
        else:
            changes = _changes(self._specs.get(key[0], {}))
            monitor = DriftMonitor(
                package.manifest, package.baseline, default_spec(package.manifest, package.baseline, **changes)
            )
            self._take_up(monitor, key)
        self._monitors[key] = monitor
        while len(self._monitors) > MAX_VERSIONS:
            self._monitors.pop(next(iter(self._monitors)))
        return monitor

    def _take_up(self, monitor: DriftMonitor, key: _Key) -> None:
        state = self._waiting.pop(key, None)
        if state is None:
            return
        try:
            restore(monitor, state)
        except TickserveError as error:
            # Such as another specification: counts of both would be of neither.
            _log.warning("drift_begins_anew", model=key[0], version=key[1], reason=error.message)


def read_specs(path: Path) -> dict[str, dict[str, Any]]:
    """What an operator set, by model: a JSON object of objects, none where there is no file.

    An entry is one of DriftSpec's, or `window` as `tickserve drift check --window` takes it.

    Raises
    ------
    ConfigurationError
        Where the file is none such.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", field=str(path)) from None
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ConfigurationError(f"{path}: an object of settings for each model is expected", field=str(path))
    for entries in found.values():
        DriftSpec.from_dict(_changes(entries))
    return found


def _changes(entries: Mapping[str, Any]) -> dict[str, Any]:
    changes = dict(entries)
    if "window" in changes:
        changes |= parse_window(str(changes.pop("window")))
    given = {name: value for name, value in changes.items() if name in ("thresholds", "column_thresholds")}
    parsed = DriftSpec.from_dict(given)
    return changes | {name: getattr(parsed, name) for name in given}


def _newest(results: Sequence[WindowResult]) -> list[WindowResult]:
    kept: list[WindowResult] = []
    for model in sorted({result.model for result in results}):
        of_model = [result for result in results if result.model == model]
        kept += sorted(of_model, key=lambda result: result.closed_position, reverse=True)[:_EXPORTED]
    return kept
