"""Which predictions are in the log: a fingerprint of 64 bits for each, by request and by entity and event time.

Two different predictions share one with a chance of about the number of predictions over 2^64: an unknown outcome
would then count as known. Nothing is joined by it.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.prediction_log.batch import Batch
from mlops.prediction_log.outcomes import ReportedOutcome

INDEX = "index"
#: Keys in order, and how many rows a request had; 0 for the key of one row.
_ENTRY = np.dtype([("key", "<u8"), ("rows", "<u4")])
_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

Words = NDArray[np.uint64]


def fingerprints(texts: Sequence[str]) -> Words:
    """One for each text; the same on every machine."""
    if not texts:
        return np.empty(0, np.uint64)
    array = np.array(texts, np.str_)
    width = max(1, array.dtype.itemsize // 4)
    letters = array.view(np.uint32).reshape(len(texts), width) if array.dtype.itemsize else np.zeros((len(texts), 1))
    found = np.zeros(len(texts), np.uint64)
    for place in range(width):
        letter = letters[:, place].astype(np.uint64)
        # NumPy fills up with zeros, which say nothing.
        mixed = _mix(letter + np.uint64((place + 1) * int(_A) % (1 << 64)))
        found += np.where(letter == 0, np.uint64(0), mixed)
    return _mix(found)


def entries(batch: Batch) -> NDArray[Any]:
    """What a batch adds, in the order of the keys."""
    requests = fingerprints(batch.request_id.tolist())
    owners = np.repeat(np.arange(len(batch)), [len(names) for names in batch.entities])
    named = [name for names in batch.entities for name in names]
    order: dict[str, int] = {}
    numbers = np.array([order.setdefault(name, len(order)) for name in named], np.int64)
    entity = fingerprints(list(order))[numbers] if named else np.empty(0, np.uint64)
    model = fingerprints([batch.model])[0]
    about = _combine(model, entity, batch.event_time_ns[owners])
    found = np.empty(len(requests) + len(about), _ENTRY)
    found["key"] = np.concatenate((requests, about))
    found["rows"] = np.concatenate((batch.rows, np.zeros(len(about), np.uint32)))
    return found[np.argsort(found["key"], kind="stable")]


class LogIndex:
    """The index of one log: files for what is Parquet, memory for what is in segments. Any thread.

    Parameters
    ----------
    folder : Path
        Of the log.
    fresh : iterable of Batch
        What the segments hold.
    """

    def __init__(self, folder: Path, fresh: Iterable[Batch] = ()) -> None:
        self._folder = folder / INDEX
        self._lock = threading.Lock()
        #: Entries in the order of their keys, and the last position among them; sizes fall.
        self._fresh: list[tuple[NDArray[Any], int]] = []
        for batch in fresh:
            self.add(batch)

    def add(self, batch: Batch) -> None:
        """Takes records that have come into the log."""
        if not len(batch):
            return
        new, last = entries(batch), int(batch.position[-1])
        with self._lock:
            # Few pieces, of falling size: a look goes through all of them.
            while self._fresh and len(self._fresh[-1][0]) <= 2 * len(new):
                before, other = self._fresh.pop()
                new, last = np.concatenate((before, new)), max(last, other)
                new = new[np.argsort(new["key"], kind="stable")]
            self._fresh.append((new, last))

    def keep(self, first: int, batches: Iterable[Batch]) -> None:
        """Writes the index of a segment whose records are Parquet now. Raises OSError."""
        found, last = [], first
        for batch in batches:
            found.append(entries(batch))
            last = max(last, int(batch.position[-1]))
        if not found:
            return
        all_of_it = np.concatenate(found)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{first:020d}-{last:020d}.npy"
        staged = path.with_suffix(".new")
        with open(staged, "wb") as file:
            np.save(file, all_of_it[np.argsort(all_of_it["key"], kind="stable")], allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        staged.rename(path)
        with self._lock:
            self._fresh = [(piece, end) for piece, end in self._fresh if end > last]

    def forget(self, before: int) -> None:
        """Removes the index of records before a position."""
        for path in self._files():
            if int(path.stem.split("-")[1]) < before:
                path.unlink(missing_ok=True)

    def known(self, outcomes: Sequence[ReportedOutcome]) -> NDArray[np.bool_]:
        """Whether the row that each is about is in the log."""
        by_request = np.array([bool(outcome.request_id) for outcome in outcomes], np.bool_)
        keys = np.where(
            by_request,
            fingerprints([outcome.request_id for outcome in outcomes]),
            _combine(
                fingerprints([outcome.model for outcome in outcomes]),
                fingerprints([outcome.entity for outcome in outcomes]),
                np.array([outcome.event_time_ns for outcome in outcomes], np.int64),
            ),
        )
        rows = np.array([outcome.row if outcome.request_id else -1 for outcome in outcomes], np.int64)
        with self._lock:
            fresh = [piece for piece, _ in reversed(self._fresh)]
        is_known = np.zeros(len(outcomes), np.bool_)
        for piece in fresh:
            _look(piece, keys, rows, is_known)
        for path in reversed(self._files()):
            if is_known.all():
                break
            try:
                piece = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError):
                # Its time was over, or it is damaged; nothing but a count depends on it.
                continue
            if piece.dtype == _ENTRY and piece.ndim == 1:
                _look(piece, keys, rows, is_known)
        return is_known

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.npy"))


def _look(piece: NDArray[Any], keys: Words, rows: NDArray[np.int64], is_known: NDArray[np.bool_]) -> None:
    wanted = np.flatnonzero(~is_known)
    at = np.searchsorted(piece["key"], keys[wanted])
    inside = at < len(piece)
    wanted, at = wanted[inside], at[inside]
    found = (piece["key"][at] == keys[wanted]) & (piece["rows"][at].astype(np.int64) > rows[wanted])
    is_known[wanted[found]] = True


def _combine(model: Any, entity: Words, event_time_ns: NDArray[np.int64]) -> Words:
    with np.errstate(over="ignore"):
        mixed = _mix(model + _A) + entity * _C + _mix(event_time_ns.astype(np.int64).view(np.uint64) + _B)
    return _mix(mixed)


def _mix(words: Any) -> Words:
    """The finaliser of splitmix64."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * _B
        words = (words ^ (words >> np.uint64(27))) * _C
        mixed: Words = words ^ (words >> np.uint64(31))
    return mixed
