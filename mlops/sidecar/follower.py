"""All rings of all servers of one tap: into the log first, then their tails go on, then whoever wants them."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from mlops.prediction_log.batch import Batch
from mlops.prediction_log.decode import batches
from mlops.prediction_log.scan import scan
from mlops.prediction_log.segments import RingRead, SegmentWriter
from mlops.prediction_log.splits import SplitKeeper
from mlops.sidecar.ring_follower import Look, RingFollower, unopened
from mlops.tap import (
    CATALOG,
    COUNTERS,
    Catalog,
    PageReader,
    Version,
    announce_reader,
    boots,
    is_alive,
    read_catalog,
    rings,
)
from tickserve.errors import DamagedTapError, TickserveError

_log = structlog.get_logger()
CHUNK_BYTES = 8 << 20
#: How exact the age of a boot's splits is.
_TOUCH_S = 3600.0


class _NotKeptError(Exception):
    """The log has no room, which is another matter than a catalog that cannot be read."""

    def __init__(self, why: OSError) -> None:
        super().__init__(str(why))
        self.why = why


class _Boot:
    """One life of a server: its rings, and what its version numbers stand for."""

    def __init__(self, path: Path, writer: SegmentWriter, splits: SplitKeeper, chunk_bytes: int) -> None:
        self.path = path
        self.name = path.name
        self.versions: Mapping[int, Version] = {}
        self.newest_split = -1
        self._splits = splits
        self._catalog_bytes = -1
        self.rings: list[RingFollower] = []
        #: What is to be counted for rings that cannot be opened.
        self.unopened: list[RingRead] = []
        self.read_catalog()
        for ring in rings(path):
            number = int(ring.name.removeprefix("ring-"))
            progress = writer.progress(self.name, number)
            try:
                self.rings.append(RingFollower(ring, self.name, progress, chunk_bytes))
            except (TickserveError, OSError) as error:
                self.unopened.append(unopened(self.name, number, progress))
                _log.error("ring_unreadable", ring=str(ring), error=str(error))

    def read_catalog(self) -> None:
        """Reads what versions are called, where there is anything new."""
        try:
            size = (self.path / CATALOG).stat().st_size
            if size != self._catalog_bytes:
                catalog = read_catalog(self.path / CATALOG)
                self._keep(catalog)
                self.versions = catalog.versions
                self._catalog_bytes = size
        except _NotKeptError as error:
            raise error.why from None
        except (TickserveError, OSError) as error:
            if self._catalog_bytes != 0:
                _log.error("catalog_unreadable", boot=self.name, error=str(error))
            self._catalog_bytes = 0

    def _keep(self, catalog: Catalog) -> None:
        """Keeps the splits before any record that names them."""
        try:
            self._splits.keep(self.name, catalog.splits)
        except OSError as error:
            raise _NotKeptError(error) from None
        self.newest_split = max((generation for _, generation in catalog.splits), default=-1)

    def close(self) -> None:
        """Unmaps everything."""
        for ring in self.rings:
            ring.close()


class Follower:
    """Follows a folder of the tap. Not for several threads, but for what it says of itself.

    Parameters
    ----------
    final_after_s : float
        How long the counters of a server that has ended stay for others to read, once its rings were read.
    may_finish : callable
        Whether nobody needs the counters of a boot any more; asked again until it is so.
    clock : callable
        Monotonic, in seconds; lag is measured by it, so a clock that steps says nothing wrong.
    """

    def __init__(
        self,
        folder: Path,
        writer: SegmentWriter,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        final_after_s: float = 0.0,
        may_finish: Callable[[Path], bool] = lambda boot: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._writer = writer
        self._splits = SplitKeeper(writer.folder.parent)
        self._touched_at = -math.inf
        self._chunk_bytes = chunk_bytes
        self._final_after_s = final_after_s
        self._may_finish = may_finish
        #: Boots that were read to their end, and when to say so.
        self._finals: dict[Path, float] = {}
        self._clock = clock
        self._boots: dict[str, _Boot] = {}
        self._broken: set[tuple[str, int]] = set()
        #: Boots that ended with rings that could not be opened: nobody may say that they were read.
        self._unread: set[str] = set()
        self._level_at = clock()
        #: What is in the log and was not returned yet.
        self._ready: list[Batch] = []
        self.lag_slots = 0
        #: Whether the last poll left something behind because it was bounded.
        self.has_more = False
        announce_reader(folder)

    @property
    def lag_s(self) -> float:
        """Seconds since the log last had everything that was published."""
        return self._clock() - self._level_at

    @property
    def boots(self) -> int:
        """Lives of servers that are being followed."""
        return len(self._boots)

    def poll(self) -> list[Batch]:
        """Everything that is new, within the bound, once it is durably in the log; in position order by version.

        Raises OSError where the log cannot be written; what could not be written was not consumed, and what was
        written is returned next time.
        """
        started = self._clock()
        self._open_boots()
        looks: list[tuple[_Boot, RingFollower, Look]] = []
        ending = [boot for boot in self._boots.values() if not is_alive(boot.path)]
        for boot in self._boots.values():
            for ring in boot.rings:
                look = self._look(boot, ring)
                if look is not None:
                    looks.append((boot, ring, look))
        if looks:
            missed = self._writer.totals.missed
            positions = self._writer.append([look.read for _, _, look in looks])
            for (boot, ring, look), position in zip(looks, positions, strict=True):
                ring.consume(look.read)
                missed += look.read.counted.missed
                self._ready += _batches(boot, look, position, missed)
        for boot in ending:
            self._finish(boot)
        self._settle()
        self._touch()
        self.lag_slots = sum(self._lag(boot, ring) for boot in self._boots.values() for ring in boot.rings)
        self.has_more = not all(look.is_all for _, _, look in looks)
        if not self.has_more:
            self._level_at = started
        found, self._ready = self._ready, []
        return found

    def close(self) -> None:
        """Lets go of every ring."""
        for boot in self._boots.values():
            boot.close()
        self._boots.clear()

    def _open_boots(self) -> None:
        there = boots(self._folder)
        names = {path.name for path in there}
        for path in there:
            if path.name in self._boots or path.name in self._unread:
                continue
            if self._writer.has_ended(path.name):
                self._finals.setdefault(path, self._clock() + self._final_after_s)
            # The counters page is made last: before it is there, not all rings need be.
            elif (path / COUNTERS).exists() or not is_alive(path):
                self._open(path)
        self._finals = {path: due for path, due in self._finals.items() if path.name in names}
        self._unread &= names
        gone = self._writer.boots - names - self._boots.keys()
        if gone:
            self._writer.forget(gone)

    def _open(self, path: Path) -> None:
        boot = _Boot(path, self._writer, self._splits, self._chunk_bytes)
        try:
            if boot.unopened:
                self._writer.append(boot.unopened)
        except OSError:
            # Once there is room again it is opened, and counted, anew.
            boot.close()
            raise
        self._boots[boot.name] = boot
        _log.info("boot_found", boot=boot.name, rings=len(boot.rings))

    def _look(self, boot: _Boot, ring: RingFollower) -> Look | None:
        if (boot.name, ring.ring) in self._broken:
            return None
        try:
            return ring.look(boot)
        except DamagedTapError as error:
            # Counted as damage at once; what it lost is known when its server has ended.
            self._writer.append([ring.damage()])
            self._broken.add((boot.name, ring.ring))
            _log.error("ring_damaged", boot=boot.name, ring=ring.ring, error=str(error))
            return None

    def _lag(self, boot: _Boot, ring: RingFollower) -> int:
        return 0 if (boot.name, ring.ring) in self._broken else max(0, ring.lag_slots)

    def _finish(self, boot: _Boot) -> None:
        """Ends a boot whose server has ended, once everything was read: its last drops, and that it may go."""
        if any(self._lag(boot, ring) for ring in boot.rings):
            return
        for ring in boot.rings:
            rest = ring.rest()
            if rest is not None:
                self._writer.append([rest])
                if (boot.name, ring.ring) not in self._broken:
                    ring.consume(rest)
        if boot.unopened:
            self._unread.add(boot.name)
            _log.error("boot_not_read", boot=boot.name, rings=[read.ring for read in boot.unopened])
        else:
            self._writer.end(boot.name)
            self._finals[boot.path] = self._clock() + self._final_after_s
            _log.info("boot_read", boot=boot.name)
        boot.close()
        self._splits.touch(boot.name)
        self._splits.forget(boot.name)
        del self._boots[boot.name]

    def _touch(self) -> None:
        """Says now and then of whom there are records."""
        if self._clock() - self._touched_at >= _TOUCH_S:
            self._touched_at = self._clock()
            for name in self._boots:
                self._splits.touch(name)

    def _settle(self) -> None:
        """Tells the server's side which boots were read to their end."""
        now = self._clock()
        for path in [path for path, due in self._finals.items() if due <= now and self._may_finish(path)]:
            try:
                page = PageReader(path / COUNTERS)
            except (TickserveError, OSError):
                # It is gone, or nobody can read it.
                page = None
            if page is not None:
                page.finish()
                page.close()
            # Once is enough; it is forgotten when its folder is gone.
            self._finals[path] = math.inf


def _batches(boot: _Boot, look: Look, position: int, missed: int) -> list[Batch]:
    found = look.scan
    if found.damaged or found.length < len(found.slots):
        # What the log holds, and what is read back from it: the whole records alone.
        found = scan(
            look.read.slots,
            max_parts=look.read.max_parts,
            expected=0,
            next_sequence=1 << 63,
            versions=boot.versions.keys(),
            is_end=True,
        )
    return batches(found, boot.versions, boot.name, look.read.ring, position, missed) if len(found) else []
