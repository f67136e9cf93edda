"""A fleet for rollouts: a registry, servers that say what they serve, sidecars' windows by hand, and one clock."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, update

from mlops import histogram
from mlops.registry import Author, Registry
from mlops.registry.fleet import ServedModel, ServerReport, write_report
from mlops.registry.leases import Lease, Leases
from mlops.registry.rollouts import RolloutRow, latest_rollout
from mlops.registry.schema import reporters
from mlops.rollout import Order, SideCounts, parse_spec
from mlops.rollout.alarms import Alarm
from mlops.rollout.analysis import Analysis, Evidence
from mlops.rollout.controller import LEASE, Controller
from mlops.rollout.orders import Rollouts
from mlops.rollout.store import Decided, Progress, read_decisions, read_progress, spec_of
from mlops.rollout.sums import CountedOutputs, CountedWindow
from mlops.rollout.sums.write import Progress as Reported
from mlops.rollout.sums.write import outputs_row, write_outputs, write_progress, write_windows
from mlops.tap.layout import BUCKETS, COMPARED_ROLE, SHADOW_ROLE
from tickserve.errors import RegistryError

KIM = Author("kim", "try the new one")
_NS = 10**9
#: The first window of every world.
START_NS = 1_800_000_000 * _NS
RULE = {"tolerance": 0.5}
#: Analysis that decides after a few windows, without latency.
QUICK = {"alpha": 0.2, "errors": RULE, "violations": RULE, "latency": None}


def make_spec(**changes: Any) -> Any:
    """A rollout of two short steps, whose metrics pass after a few flawless windows."""
    step = {"min_time_s": 3.0, "max_time_s": 60.0, "min_requests": 100}
    plain: dict[str, Any] = {
        "keys": 500,
        "window_s": 1.0,
        "steps": [{"share": 10.0, **step}, {"share": 50.0, **step}],
        "analysis": QUICK,
    }
    return parse_spec(plain | changes)


def side(requests: int = 10, buckets: int = BUCKETS, **bad: int) -> SideCounts:
    """So many requests in each of the first buckets; `bad` of each in each of them."""
    asked = np.zeros(BUCKETS, np.int64)
    asked[:buckets] = requests
    found = {name: np.where(asked > 0, bad.get(name, 0), 0) for name in ("failures", "violations", "slow")}
    return SideCounts(requests=asked, answers=asked - found["failures"], **found)


@dataclass
class World:
    """Servers `s1` and on; each second is a window of every one that has a sidecar."""

    registry: Registry
    servers: list[str] = field(default_factory=lambda: ["s1"])
    counted: set[str] = field(default_factory=lambda: {"s1"})
    now_ns: int = START_NS
    alarms: list[Alarm] = field(default_factory=list)
    canary: SideCounts = field(default_factory=side)
    stable: SideCounts = field(default_factory=side)
    #: What stable's shadow makes of the canary's requests, where that is not what stable does at large.
    shadow: SideCounts | None = None
    leases_: dict[str, Lease] = field(default_factory=dict)
    baseline: Callable[[str, int], Any] = lambda model, version: None
    damaged: list[RegistryError] = field(default_factory=list)

    def now_ms(self, connection: Connection | None = None) -> int:
        return self.now_ns // 1_000_000

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_ns / 1e9, UTC)

    @property
    def leases(self) -> Leases:
        return Leases(self.registry.journal.database, ttl_s=10.0, now_ms=self.now_ms)

    @property
    def rollouts(self) -> Rollouts:
        return Rollouts(self.registry, now_ms=self.now_ms)

    def controller(self) -> Controller:
        return Controller(self.registry, self.leases, self.baseline, self.alarms.append, self.damaged.append)

    def look(self, holder: str = "one") -> None:
        """A controller of this name acquires or renews the lease, and makes a step of each rollout."""
        lease = self.leases_.get(holder)
        if lease is None or not self.leases.renew(lease):
            lease = self.leases.acquire(LEASE, holder)
            if lease is None:
                self.leases_.pop(holder, None)
                return
            self.leases_[holder] = lease
        self.controller().step_all(lease)

    def start(self, spec: Any = None, version: int = 2) -> RolloutRow:
        found, _ = self.rollouts.start("demo", version, spec or make_spec(), KIM)
        self.say()
        return found

    def order(self, order: Order, reason: str = "because") -> RolloutRow:
        return self.rollouts.order("demo", order, Author("ann", reason))

    def say(self) -> None:
        """Every server says what it serves: what is desired."""
        desired = self.registry.desired("demo")
        assert desired is not None
        split = {str(share.version): share.weight_bp for share in desired.state.split}
        models = {"demo": ServedModel("serving", split, desired.revision, False)}

        def change(connection: Connection) -> None:
            for server in self.servers:
                write_report(connection, ServerReport(server, self.now, "ready", "python", models=models))

        self.write(change)

    def second(self, looks: int = 1, **changes: Any) -> None:
        """One more second: the window that ends now is written by every sidecar, and a controller looks."""
        self.count(**changes)
        self.now_ns += _NS
        self.report()
        self.say()
        for _ in range(looks):
            self.look()

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.second()

    def count(self, share_bp: int | None = None) -> None:
        """Writes the window that begins now at every server that is counted, as the desired state splits it.

        `share_bp` is another share of the canary's, or -1 of one that changed.
        """
        desired = self.registry.desired("demo")
        assert desired is not None
        state, edge_ns = desired.state, desired.state.latency_edge_ns
        rows = []
        for server in sorted(self.counted):
            for share in state.split:
                role, counts = (1, self.stable) if share.role == "stable" else (2, self.canary)
                if share.role == "stable" and state.shadow is not None and state.shadow.of == share.version:
                    counts = self.canary
                given = share.weight_bp if share_bp is None else share_bp
                if share_bp is not None and share_bp >= 0 and share.role == "stable":
                    given = 10_000 - share_bp
                rows.append(self.row(server, share.version, role, edge_ns, given, counts))
            if state.shadow is not None and state.shadow.of is not None:
                rows.append(self.row(server, state.shadow.version, SHADOW_ROLE, edge_ns, 0, self.shadow or self.stable))
                rows.append(self.row(server, state.shadow.of, COMPARED_ROLE, edge_ns, 10_000, self.canary))
        self.write(lambda connection: write_windows(connection, "demo", rows))

    def row(
        self, server: str, version: int, role: int, edge_ns: int, share_bp: int, counts: SideCounts
    ) -> CountedWindow:
        return CountedWindow(
            f"of-{server}", f"boot-{server}", version, role, edge_ns, self.now_ns, _NS, share_bp, counts
        )

    def report(self, complete_to_ns: int | None = None) -> None:
        """Every sidecar says that it has written all that is over."""
        upto = self.now_ns if complete_to_ns is None else complete_to_ns

        def change(connection: Connection) -> None:
            for server in self.counted:
                reported = Reported(f"boot-{server}", "demo", server, upto, upto, _NS, 0, {})
                write_progress(connection, f"of-{server}", "writer", reported)
            theirs = update(reporters).where(reporters.c.server.in_(self.counted))
            connection.execute(theirs.values(at=self.now))

        self.write(change)

    def end(self, server: str) -> None:
        """The server's sidecar has seen the end of its process, and counted all of it."""
        self.counted.discard(server)
        ended = Reported(f"boot-{server}", "demo", server, self.now_ns, self.now_ns, _NS, 0, {}, has_ended=True)

        def change(connection: Connection) -> None:
            write_progress(connection, f"of-{server}", "writer", ended)
            connection.execute(update(reporters).where(reporters.c.server == server).values(at=self.now))

        self.write(change)

    def outputs(self, version: int, role: int, **arrays: Any) -> None:
        """Writes a window of outputs that ends now."""
        zeros = np.zeros(BUCKETS, np.int64)
        empty = CountedOutputs(
            reporter="of-s1",
            boot="boot-s1",
            version=version,
            role=role,
            start_ns=self.now_ns - _NS,
            window_ns=_NS,
            answers=0,
            bins=None,
            unbinned=0,
            total_ns=np.zeros(histogram.BUCKETS, np.int64),
            run_ns=np.zeros(histogram.BUCKETS, np.int64),
            pairs=zeros,
            flips=zeros,
            positions=(0, 1_000_000),
            missed=(0, 0),
        )
        window = replace(empty, **arrays)
        self.write(lambda connection: write_outputs(connection, [outputs_row("demo", window)]))

    def write(self, change: Callable[[Connection], Any]) -> None:
        self.registry.journal.database.write(change)

    @property
    def rollout(self) -> RolloutRow:
        with self.registry.journal.database.read() as connection:
            found = latest_rollout(connection, "demo")
        assert found is not None
        return found

    @property
    def progress(self) -> Progress:
        with self.registry.journal.database.read() as connection:
            return read_progress(connection, self.rollout.rollout)

    @property
    def evidence(self) -> Evidence:
        analysis = self.progress.analysis
        assert analysis is not None
        return Analysis.restored(spec_of(self.rollout), dict(analysis)).evidence()

    @property
    def decisions(self) -> tuple[Decided, ...]:
        with self.registry.journal.database.read() as connection:
            return read_decisions(connection, self.rollout.rollout)

    @property
    def events(self) -> list[str]:
        return [each.event for each in self.decisions]

    @property
    def split(self) -> dict[int, int]:
        desired = self.registry.desired("demo")
        assert desired is not None
        return {share.version: share.weight_bp for share in desired.state.split}


def begun(world: World) -> World:
    """A rollout whose version has its first share, 10%."""
    world.start()
    world.report()
    world.look()
    assert world.split == {2: 1_000, 1: 9_000}
    return world
