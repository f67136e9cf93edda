"""One sidecar process, from settings to exit."""

import contextlib
import fcntl
import queue
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

import prometheus_client
import structlog
from prometheus_client.metrics_core import Metric

from mlops.prediction_log import keeping, parquet, splits
from mlops.prediction_log.batch import Batch
from mlops.prediction_log.index import LogIndex
from mlops.prediction_log.outcomes import OutcomeStore
from mlops.prediction_log.reading import PARQUET, SEGMENTS, read_all, read_segment
from mlops.prediction_log.segments import SegmentWriter, first_position, segment_paths
from mlops.sidecar.consumers import Closing, Consumer, Exporter, Feed, Holding
from mlops.sidecar.follower import Follower
from mlops.sidecar.metrics import Facts, SidecarCollector
from mlops.sidecar.packages import PackageFinder
from mlops.sidecar.service import OutcomesServer, OutcomesService
from mlops.sidecar.settings import SidecarSettings
from mlops.sidecar.wiring import Context, make_consumers
from mlops.sidecar.wiring.rollouts import make_rollouts
from tickserve.errors import ConfigurationError, UnreachableError
from tickserve.listening.http import HttpServer
from tickserve.listening.log import configure_log
from tickserve.listening.tls import Certificates

_log = structlog.get_logger()
#: While the log cannot be written it is tried this often.
_BLOCKED_S = 1.0
#: How often segments become Parquet and bounds are looked at.
_KEEP_S = 5.0
#: A look at the rings takes less than this, or something hangs.
_ALIVE_S = 30.0
#: Splits stay longer than the records they routed: a day is removed whole, and their age is known to the hour.
_SPLITS_S = 2 * 86_400.0


class Sidecar:
    """Owns every part of the process. `run` blocks until `stop`, which a signal handler may call.

    One thread follows the rings, writes the log and feeds the consumers; another one makes Parquet of closed
    segments and keeps the bounds; scrapes, outcomes and rollouts have threads of their own.
    """

    def __init__(
        self, settings: SidecarSettings, make: Callable[[Context], Sequence[Consumer]] = make_consumers
    ) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._is_told_to_stop = False
        # `put` may be called by a signal's handler while the main thread is in `get`; an Event would block for ever.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._fault: BaseException | None = None
        files = settings.tls_files()
        self._certificates = Certificates(files) if files is not None else None
        self._locks = [lock_folder(settings.log, "log"), lock_folder(settings.tap, "tap")]
        self._consumers: Sequence[Consumer] = ()
        self._writer = SegmentWriter(settings.log / SEGMENTS, settings.segment_mb << 20, _first_position(settings.log))
        self._follower = Follower(
            settings.tap,
            self._writer,
            chunk_bytes=settings.chunk_mb << 20,
            # Alert rows on counters look once a window.
            final_after_s=2 * settings.alert_window_s if settings.alerts == "on" else 0.0,
            may_finish=lambda boot: all(each.is_through(boot) for each in self._consumers if isinstance(each, Holding)),
        )
        packages = PackageFinder(
            settings.home, settings.models, settings.registry, settings.artifacts, settings.trusted_keys
        )
        tables = settings.log / "tables"
        tables.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.context = Context(
            settings,
            settings.log,
            tables,
            packages,
            lag_s=lambda: self._follower.lag_s,
            position=lambda: self._writer.position,
        )
        self._consumers = make(self.context)
        self._rollouts = make_rollouts(settings)
        self._outcomes = OutcomeStore(settings.log)
        self._feed = Feed(
            settings.log / "checkpoints",
            self._consumers,
            lambda after: read_all(settings.log, after_position=after, on_damaged=self.context.damaged.pass_over),
            self._writer.position,
            self._outcomes,
        )
        passed_over = self.context.damaged.pass_over
        fresh = (batch for path in segment_paths(settings.log / SEGMENTS) for batch in read_segment(path, passed_over))
        self._index = LogIndex(settings.log, fresh)
        self._service = OutcomesService(self._outcomes, self._index, settings.late_s)
        self._server = OutcomesServer(
            settings.listen, self._service, socket_mode=int(settings.socket_mode, 8), certificates=self._certificates
        )
        self._expired = {"age": 0, "size": 0}
        self._facts = self._look("")
        registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        registry.register(SidecarCollector(self._current, self._exports))
        self._http = HttpServer(settings.http, registry, self.is_ready)

    @property
    def http_address(self) -> str:
        """Where /metrics, /livez and /readyz are."""
        return self._http.address

    def run(self) -> None:
        """Follows until told to stop, then reads what is there, keeps every checkpoint and ends."""
        self._http.start()
        self._server.start()
        keeper = threading.Thread(target=self._guarded, args=(self._keep,), name="keeper", daemon=True)
        try:
            keeper.start()
            if self._rollouts is not None:
                self._rollouts.start()
            _log.info(
                "ready",
                tap=str(self._settings.tap),
                log=str(self._settings.log),
                listen=", ".join(self._server.addresses),
                http=self.http_address,
            )
            self._follow()
        finally:
            self._stopping.set()
            self._server.stop()
            self._http.stop()
            if keeper.is_alive():
                keeper.join()
            if self._rollouts is not None:
                self._rollouts.close()
            for consumer in self._consumers:
                if isinstance(consumer, Closing):
                    consumer.close()
            self._outcomes.close()
            self._follower.close()
            self._writer.close()
            for lock in self._locks:
                lock.close()
        if self._fault is not None:
            raise self._fault
        _log.info("stopped", **status_line(self._facts))

    def stop(self) -> None:
        """Has `run` end. Any thread may call it, and the handler of a signal."""
        self._is_told_to_stop = True
        self._wake.put(None)

    def is_ready(self) -> bool:
        """Whether the log can be written, and the rings were looked at just now."""
        facts = self._facts
        return not facts.blocked and time.time() - facts.heartbeat_unix < _ALIVE_S

    def _follow(self) -> None:
        saved_at = said_at = time.monotonic()
        begun_at, blocked = time.monotonic(), ""
        while not self._is_told_to_stop:
            if self._fault is not None:
                return
            if self._certificates is not None:
                self._certificates.refresh()
            now = time.monotonic()
            is_level = True
            try:
                self._take(self._follower.poll())
                is_level = self._feed.catch_up()
                self._feed.tick()
                if now - begun_at >= self._settings.segment_s:
                    self._writer.rotate()
                    begun_at = now
                if now - saved_at >= self._settings.checkpoint_s:
                    self._feed.save()
                    saved_at = now
                blocked = self._unblocked(blocked)
            except OSError as error:
                blocked = self._blocked(blocked, error)
            self._facts = self._look(blocked)
            if now - said_at >= 60:
                _log.info("status", **status_line(self._facts))
                said_at = now
            if blocked:
                self._rest(_BLOCKED_S)
            elif is_level and not self._follower.has_more:
                self._rest(self._settings.poll_s)
        self._finish()

    def _rest(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=seconds)

    def _finish(self) -> None:
        """Takes what is there once more, so that a sidecar that is replaced leaves little behind."""
        try:
            self._take(self._follower.poll())
            self._feed.save()
        except OSError as error:
            # The records stay in the rings, and the checkpoints where they were.
            _log.error("log_blocked", error=str(error))
        self._facts = self._look("")

    def _take(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self._index.add(batch)
        self._feed.add(batches)

    def _unblocked(self, before: str) -> str:
        if before:
            _log.info("log_unblocked")
        return ""

    def _blocked(self, before: str, error: OSError) -> str:
        if str(error) != before:
            _log.error("log_blocked", error=str(error))
        return str(error)

    def _keep(self) -> None:
        settings = self._settings
        while not self._stopping.wait(min(_KEEP_S, settings.segment_s)):
            # Each by itself: on a full disk nothing becomes Parquet until something has gone.
            for step in (lambda: keeping.compact(settings.log, self._index), self._trim, self._forget):
                try:
                    step()
                except (OSError, sqlite3.Error) as error:
                    _log.error("log_not_kept", error=str(error))

    def _trim(self) -> None:
        removed = keeping.trim(
            self._settings.log,
            now=datetime.now(UTC),
            days=self._settings.retention_days,
            max_bytes=self._settings.log_mb << 20,
            needed_from=self._feed.needed_from,
        )
        self._expired = {
            "age": self._expired["age"] + removed.by_age,
            "size": self._expired["size"] + removed.by_size,
        }

    def _forget(self) -> None:
        """Removes outcomes that are too old, and the index of what is gone."""
        days = self._settings.retention_days
        if days:
            before = datetime.now(UTC) - timedelta(days=days)
            self._outcomes.forget(int(before.timestamp() * 1e9), self._feed.needed_order)
            splits.remove_old(self._settings.log, before.timestamp() - _SPLITS_S)
        kept = [part.first for part in parquet.parts(self._settings.log / PARQUET)]
        kept += [first_position(path) for path in segment_paths(self._settings.log / SEGMENTS)]
        self._index.forget(min(kept, default=0))

    def _guarded(self, keep: Callable[[], None]) -> None:
        try:
            keep()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, which ends the process
            self._fault = error

    def _look(self, blocked: str) -> Facts:
        return Facts(
            totals=self._writer.totals,
            position=self._writer.position,
            lag_records=self._follower.lag_slots,
            lag_s=self._follower.lag_s,
            boots=self._follower.boots,
            heartbeat_unix=time.time(),
            log_bytes=0,
            blocked=blocked,
            outcomes=self._service.counts,
            failed=dict(self._feed.failed),
            lags=self._feed.lags,
            expired=self._expired,
            damaged_files=len(self.context.damaged),
        )

    def _current(self) -> Facts:
        return replace(
            self._facts,
            log_bytes=keeping.size_bytes(self._settings.log),
            lag_s=self._follower.lag_s,
            outcomes=self._service.counts,
        )

    def _exports(self) -> dict[str, Callable[[], Iterable[Metric]]]:
        found: dict[str, Callable[[], Iterable[Metric]]] = {
            each.name: each.collect for each in self._consumers if isinstance(each, Exporter)
        }
        return found if self._rollouts is None else found | {self._rollouts.name: self._rollouts.collect}


def serve(settings: SidecarSettings) -> None:
    """Runs a sidecar until SIGTERM or SIGINT.

    Raises ConfigurationError where it cannot start, UnreachableError where it cannot start now.
    """
    configure_log(settings.log_format)
    try:
        sidecar = Sidecar(settings)
    except OSError as error:
        raise UnreachableError(f"the log in {settings.log} cannot be opened now: {error}") from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sidecar.stop())
    sidecar.run()


def status_line(facts: Facts) -> dict[str, object]:
    """The figures that an operator looks at first."""
    return {
        "position": facts.position,
        "lag_records": facts.lag_records,
        "dropped": facts.totals.missed,
        "damaged": facts.totals.damaged,
        "boots": facts.boots,
    }


def lock_folder(folder: Path, setting: str) -> TextIO:
    """Holds a folder until the process ends: two sidecars would take each other's records.

    Raises ConfigurationError where another one holds it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(folder / "sidecar.lock", "w", encoding="ascii")  # noqa: SIM115 - held open on purpose
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            f"{setting}: another sidecar holds {folder}; stop it, or give this one another", field=setting
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{setting}: cannot use {folder}: {error.strerror}", field=setting) from None
    return file


def _first_position(log: Path) -> int:
    """Where a log goes on whose segments are gone: behind everything that is Parquet."""
    return max((part.last for part in parquet.parts(log / PARQUET)), default=-1) + 1
