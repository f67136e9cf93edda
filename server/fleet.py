"""What this server tells the registry: what it installed and drained, in order, and now and then how it is doing."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import structlog

from mlops.registry import Author, Registry, ServerEvent
from mlops.registry.fleet import ServedModel, ServerReport
from server.models import ModelRecord, Reconciler, Snapshot
from server.models.records import decided_here
from server.plan import Role
from tickserve.errors import RegistryError, TickserveError

_log = structlog.get_logger()
_TICK_S = 0.5
_SAY_EVERY = 6
_MOST_PENDING = 10_000
#: By model and version: role, digest in hex, since when.
_Installed = Mapping[tuple[str, str], tuple[str, str, int]]


class FleetReporter:
    """Reports on a thread of its own; while the registry is away it keeps what happened, and tells it later.

    Parameters
    ----------
    name : str
        Under which the server reports: the same after a restart.
    facts : callable
        State of the process and its addresses.
    """

    def __init__(
        self,
        name: str,
        engine_name: str,
        reconciler: Reconciler,
        registry: Callable[[], Registry],
        facts: Callable[[], tuple[str, Sequence[str]]],
    ) -> None:
        self._name = name
        self._engine_name = engine_name
        self._reconciler = reconciler
        self._registry = registry
        self._facts = facts
        self._author = Author(name, "reported by the server")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._told: _Installed | None = None
        self._pending: list[ServerEvent] = []
        self._said: ServerReport | None = None
        self._ticks = 0
        self._error = ""

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """Says that the server stopped, if the registry takes it within so many seconds."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def tick(self) -> None:
        """Tells what happened since the last time, and from time to time how the server is doing."""
        snapshot = self._reconciler.snapshot()
        now = _installed(snapshot)
        try:
            registry = self._registry()
            if self._told is None:
                # An earlier process may have ended without a word.
                self._told = {
                    (served.model, str(served.version)): (served.role, served.digest, 0)
                    for served in registry.served()
                    if served.server == self._name
                }
            self._note(now)
            self._send(registry)
            self._say(registry, snapshot)
        except TickserveError as error:
            self._note(now)
            self._complain(error)
        else:
            self._error = ""

    def _run(self) -> None:
        while not self._ending.wait(_TICK_S):
            self._guarded(self.tick)
        self._guarded(self._last_words)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - reporting must never end a server
            _log.exception("report_fault", error=str(error))
            self._ending.wait(_TICK_S)

    def _last_words(self) -> None:
        try:
            registry = self._registry()
            self._send(registry)
            registry.report(self._name, [ServerEvent("stopped", datetime.now(UTC))], self._author)
            registry.say(ServerReport(self._name, datetime.now(UTC), "stopped", self._engine_name))
        except TickserveError as error:
            self._complain(error)

    def _note(self, now: _Installed) -> None:
        """Turns what changed into events."""
        if self._told is None:
            return
        at = datetime.now(UTC)
        for (model, version), (role, digest, since) in now.items():
            if self._told.get((model, version), ("",))[0] != role:
                when = datetime.fromtimestamp(since / 1e9, UTC) if (model, version) not in self._told else at
                self._pending.append(ServerEvent("installed", when, model, int(version), role, digest))
        for (model, version), (role, digest, _) in self._told.items():
            if (model, version) not in now:
                self._pending.append(ServerEvent("drained", at, model, int(version), role, digest))
        self._told = now
        del self._pending[:-_MOST_PENDING]

    def _send(self, registry: Registry) -> None:
        if not self._pending:
            return
        pending = list(self._pending)
        try:
            registry.report(self._name, pending, self._author)
        except RegistryError as error:
            # It will never be taken, so it must not hold up what comes after it.
            _log.error("report_refused", events=len(pending), error=error.message)
        del self._pending[: len(pending)]

    def _say(self, registry: Registry, snapshot: Snapshot) -> None:
        state, listen = self._facts()
        report = ServerReport(
            server=self._name,
            at=datetime.fromtimestamp(0, UTC),
            state=state,
            engine=self._engine_name,
            listen=tuple(listen),
            revision=snapshot.source_revision,
            models={record.name: _served(record, snapshot) for record in snapshot.models},
        )
        self._ticks += 1
        if report != self._said or self._ticks % _SAY_EVERY == 0:
            registry.say(report)
            self._said = report

    def _complain(self, error: TickserveError) -> None:
        if error.message != self._error:
            _log.warning("report_waits", error=error.message)
        self._error = error.message


def _installed(snapshot: Snapshot) -> _Installed:
    found = {}
    for record in snapshot.models:
        if record.plan is None or record.target is None:
            continue
        roles = {share.version: share.role for share in record.target.shares}
        for version, plan in record.plan.versions.items():
            role = roles.get(version, Role.PREVIOUS).label
            found[record.name, version] = (role, plan.digest.hex(), record.since_unix_ns[version])
    return found


def _served(record: ModelRecord, snapshot: Snapshot) -> ServedModel:
    halt = record.plan.halt if record.plan is not None else None
    state = "failed" if record.failed else "loading"
    if record.plan is not None:
        state = "halted" if halt is not None else "serving"
    split = {share.version: share.weight_bp for share in record.target.shares} if record.target else {}
    is_behind = snapshot.is_behind(record)
    return ServedModel(state, split, record.desired.revision, is_behind, _why(record, snapshot) if is_behind else "")


def _why(record: ModelRecord, snapshot: Snapshot) -> str:
    why = decided_here(record, snapshot.overrides) or record.why
    if why:
        return why
    return "loading" if any(name == record.name for name, _ in snapshot.loading) else ""
