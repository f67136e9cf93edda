"""What changed, in order: kept for those who ask on the admin listener, and on disk for those who ask later."""

import json
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import structlog

_log = structlog.get_logger()
#: What a server does by itself when a version does badly. Counted from 0, so that the first one shows as a rise.
ALARMING = ("breaker_tripped", "breaker_halted", "breaker_without_way_back")
_KEPT = 1024
_AUDIT_BYTES = 16 << 20
#: How long the end waits for whoever writes.
_LAST_S = 1.0
#: Where the newest sequence is looked for, from the end of the file.
_TAIL_BYTES = 1 << 18
#: How each line begins, also one that was torn later on; what is longer is no sequence.
_SEQUENCE = re.compile(rb'^\{"sequence": (\d{1,18})\b', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed; `actor` is empty where the server did it by itself."""

    sequence: int
    at_unix_ns: int
    kind: str
    model: str
    version: str
    actor: str
    message: str


class EventLog:
    """The newest events of this process, and an append-only file of all of them.

    Sequences go on from those in the file, past as many as are kept: an earlier process may have told that many that it
    could not write any more, and whoever asks for what came after them must miss nothing.

    What a person did is in the file once `add` returns; what the server did by itself with the next `flush`, because it
    is told where nobody may wait for a disk.

    Parameters
    ----------
    audit : Path, optional
        One JSON object a line, synced for what a person did. Past its bound it is renamed to `<name>.1`, over the one
        before. A disk that refuses loses the line, which is counted and said in the log, and nothing else.
    """

    def __init__(self, audit: Path | None = None) -> None:
        self._audit = audit
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._sequence = 0 if audit is None else _first_sequence(audit)
        self._changed = threading.Condition()
        #: Events that are not in the file yet. `_disk` is taken before `_changed`: one writes at a time, in order.
        self._unwritten: deque[Event] = deque()
        self._disk = threading.Lock()
        self._is_closed = False
        self.lost = 0
        self._counts = Counter(dict.fromkeys(ALARMING, 0))

    def counts(self) -> dict[str, int]:
        """Events since the start by kind; those that alarm are there from the beginning."""
        with self._changed:
            return dict(self._counts)

    @property
    def newest(self) -> int:
        """The sequence of the newest event, or that from which sequences go on."""
        with self._changed:
            return self._sequence

    def add(self, kind: str, *, model: str = "", version: str = "", actor: str = "", message: str = "") -> None:
        """Keeps one event and wakes those who wait."""
        with self._changed:
            self._sequence += 1
            event = Event(self._sequence, time.time_ns(), kind, model, version, actor, message)
            self._events.append(event)
            self._counts[kind] += 1
            if self._audit is not None:
                self._unwritten.append(event)
            self._changed.notify_all()
        if actor:
            self.flush()

    def after(self, sequence: int, wait_s: float = 0.0) -> Sequence[Event]:
        """The events that are kept and came after `sequence`; waits for one for up to `wait_s` seconds."""
        with self._changed:
            if self._sequence <= sequence and not self._is_closed and wait_s:
                self._changed.wait(wait_s)
            return [event for event in self._events if event.sequence > sequence]

    def flush(self) -> None:
        """Writes what is not in the file yet. Not to be called with a lock that others wait for."""
        with self._disk:
            with self._changed:
                events = list(self._unwritten)
                self._unwritten.clear()
            if events and self._audit is not None:
                self._write(self._audit, events)

    def close(self) -> None:
        """Lets nobody wait any more, and writes what is not in the file yet unless the disk hangs."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._disk.acquire(timeout=_LAST_S):
            self._disk.release()
            self.flush()

    @property
    def is_closed(self) -> bool:
        """Whether no event comes any more."""
        return self._is_closed

    def _write(self, audit: Path, events: Sequence[Event]) -> None:
        try:
            audit.parent.mkdir(parents=True, exist_ok=True)
            with open(audit, "ab+") as file:
                if file.tell() and not _ends_a_line(file):
                    # A full disk, or a process that was killed: that line is lost, and not the next one with it.
                    file.write(b"\n")
                file.writelines(json.dumps(asdict(event)).encode() + b"\n" for event in events)
                file.flush()
                if any(event.actor for event in events):
                    os.fsync(file.fileno())
                is_full = file.tell() > _AUDIT_BYTES
            if is_full:
                audit.replace(_rotated(audit))
        except OSError as error:
            self.lost += len(events)
            _log.error("event_not_written", kinds=[event.kind for event in events], error=error.strerror)


def _first_sequence(audit: Path) -> int:
    """From where a process goes on; 0 where there was none before it."""
    newest = max(_newest_sequence(path) for path in (audit, _rotated(audit)))
    return newest + _KEPT if newest else 0


def _rotated(audit: Path) -> Path:
    return audit.with_name(audit.name + ".1")


def _newest_sequence(path: Path) -> int:
    """The largest sequence at the end of a file, whatever else is there; 0 where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            found = _SEQUENCE.findall(file.read())
    except FileNotFoundError:
        return 0
    except OSError as error:
        _log.error("events_not_read", file=str(path), error=error.strerror)
        return 0
    return max(map(int, found), default=0)


def _ends_a_line(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
