"""Servers that count without a server, and a sidecar's counting over a real registry, step by step."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlops.registry import migrate
from mlops.registry.database import Database
from mlops.rollout.sums import CountedWindow, read_windows
from mlops.rollout.sums.values import MIXED_SHARE
from mlops.sidecar.counts import CountsConsumer
from mlops.sidecar.counts.outputs import OutputWindows
from mlops.sidecar.counts.pages import PageCounter
from mlops.sidecar.counts.windows import Moment
from mlops.sidecar.counts.writer import SumsWriter
from mlops.tap import COUNTERS, PageOwner, Split, Tallier
from mlops.tap.counters import Identity, Page
from tests.support.taps import TapLife, version
from tickserve.errors import UnknownError, UnreachableError

SECOND = 1_000_000_000
WINDOW_NS = 10 * SECOND
#: Well behind the ids of boots that tests make.
START_NS = 1_800_000_000 * SECOND
TOP = (1 << 64) - 1


def bound(share_bp: int) -> int:
    return share_bp * (1 << 64) // 10_000 - 1


class CountingLife(TapLife):
    """One life of a server with a stable version 1 and a canary 2, whose requests are counted one by one."""

    def __init__(self, folder: Path, *, began_ns: int, server: str = "alpha", share_bp: int = 1_000) -> None:
        super().__init__(folder, rings=1, boot=began_ns.to_bytes(8, "big") + os.urandom(8))
        self.catalog.server(server)
        self.now_s = 0.0
        self.owner = PageOwner(self.path / COUNTERS, clock=lambda: self.now_s)
        self.tally = Tallier(Page(self.path / COUNTERS), 0)
        self.generation, self.edge_ns, self.share_bp = 0, 0, -1
        self.blocks: dict[Identity, int] = {}
        self.split(share_bp)

    def split(self, share_bp: int) -> None:
        """Gives the canary another share."""
        self.generation += 1
        self.share_bp = share_bp
        segments = ((bound(share_bp), "2", 2), (TOP, "1", 1)) if share_bp else ((TOP, "1", 1),)
        self.catalog.split(Split("demo", self.generation, b"salt", segments))
        self.place()

    def place(self, *more: Identity) -> None:
        planned = {self.identity(1), self.identity(2, 2), *more}
        self.blocks |= self.owner.place(planned)
        self.owner.keep(planned)

    def identity(self, number: int, role: int = 1) -> Identity:
        return Identity(self.catalog.version(version(str(number))), role, 0, self.edge_ns)

    def count(self, number: int = 1, role: int = 1, bucket: int = 0, columns: Any = (), times: int = 1) -> None:
        for _ in range(times):
            self.tally.count(self.blocks[self.identity(number, role)], bucket, columns)


class Counting:
    """A sidecar's counting of one tap into one database of SQLite; its clocks are the test's."""

    def __init__(
        self,
        tap: Path,
        folder: Path,
        *,
        reporter: str = "here",
        writer: str = "me",
        url: str = "",
        now_ns: int = START_NS,
    ) -> None:
        self.tap, self.reporter, self.writer_id = tap, reporter, writer
        self.url = url or f"sqlite:///{folder / 'registry.db'}"
        self.unix_ns = now_ns
        self.steady_ns = 5 * SECOND
        self.is_away, self.has_registry = False, True
        self.lengths: Mapping[str, int] = {}
        self.before_write: Callable[[], None] = lambda: None
        self.after_write: Callable[[], None] = lambda: None
        self.database = Database(self.url)
        migrate.prepare(self.database)
        self.begin()

    def begin(self) -> None:
        """Another life of the sidecar."""
        self.writer = SumsWriter(
            self._open,
            self.reporter,
            self.writer_id,
            lengths=lambda connection: self.lengths,
            keep_ns=10**18,
            clock=lambda: self.unix_ns,
        )
        self.outputs = OutputWindows(self.reporter, WINDOW_NS, lambda *_: None, clock=lambda: self.unix_ns)

        def now() -> Moment:
            return Moment(self.unix_ns, self.steady_ns)

        self.pages = PageCounter(self.tap, self.reporter, self.writer, window_ns=WINDOW_NS, now=now)
        self.consumer = CountsConsumer(
            self.pages, self.writer, self.outputs, lag_s=lambda: 0.0, position=lambda: 0, now=now
        )
        self.writer.step()

    def step(self, seconds: float = 0.0) -> None:
        """Time goes on, then the sidecar looks and writes once each."""
        self.unix_ns += round(seconds * SECOND)
        self.steady_ns += round(seconds * SECOND)
        self.pages.look()
        self.consumer.tick()
        self.writer.step()

    def look(self, seconds: float = 0.0) -> None:
        """Time goes on, and the sidecar looks; what it found is not written yet."""
        self.unix_ns += round(seconds * SECOND)
        self.steady_ns += round(seconds * SECOND)
        self.pages.look()
        self.consumer.tick()

    def close(self) -> None:
        """Ends it, with every connection."""
        self.consumer.close()
        self.database.close()

    def rows(self) -> list[CountedWindow]:
        """Everything that is written."""
        with self.database.read() as connection:
            return list(read_windows(connection, "demo", 0))

    def whole(self) -> list[tuple[int, int, int, int, int]]:
        """Of windows that are no mix: start after the beginning of time in s, version, role, share, requests."""
        return sorted(
            (
                (row.start_ns - START_NS) // SECOND,
                row.version,
                row.role,
                row.share_bp,
                int(row.counts.requests.sum()),
            )
            for row in self.rows()
            if row.share_bp != MIXED_SHARE
        )

    def _open(self) -> Database:
        if not self.has_registry:
            raise UnknownError("there is no registry")
        return Flaky(self)


class Flaky(Database):
    """The registry's database, which is away when the test says so."""

    def __init__(self, counting: Counting) -> None:
        super().__init__(counting.url)
        self._counting = counting

    def read(self) -> Any:
        self._check()
        return super().read()

    def write(self, change: Callable[[Any], Any]) -> Any:
        self._check()
        self._counting.before_write()
        found = super().write(change)
        self._counting.after_write()
        return found

    def _check(self) -> None:
        if self._counting.is_away:
            raise UnreachableError("the registry is away")
