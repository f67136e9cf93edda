"""Results of windows on disk: one line of JSON each, a file for each version, each window once."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import structlog

from mlops.drift.result import WindowResult
from tickserve.errors import DamagedLogError

_log = structlog.get_logger()

_SUFFIX = ".jsonl"
#: A file that is larger loses its older half.
MAX_BYTES = 64 << 20

_Key = tuple[object, ...]


class WindowTable:
    """Writes results, one process at a time.

    After a crash the same windows close again, with equal results: they are known by the records that they hold, and
    are neither written nor given back a second time. Lines that hold no result (a damaged disk, another version of this
    program) stay where they are, are said in the log and passed over: who watches must not stand still for them.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._known: dict[Path, set[_Key]] = {}

    def append(self, results: Sequence[WindowResult]) -> list[WindowResult]:
        """Adds the results that are not there yet, on disk when this returns; those that were new. Raises OSError."""
        new = []
        for result in results:
            path = _path(self._folder, result.model, result.version)
            if path not in self._known:
                self._known[path] = {_key(each) for each in _known(_lines(path), path)}
            if _key(result) not in self._known[path]:
                _write(path, json.dumps(result.as_dict(), allow_nan=False) + "\n", self._max_bytes)
                self._known[path].add(_key(result))
                new.append(result)
        return new

    def latest(self) -> list[WindowResult]:
        """The last result of each version."""
        found = (next(_known(reversed(_lines(path)), path), None) for path in _files(self._folder))
        return [result for result in found if result is not None]


def read_windows(folder: Path, model: str = "", version: str = "") -> Iterator[WindowResult]:
    """The results of a model, or of all, each version's windows in the order in which they closed.

    Raises DamagedLogError where a line holds no result: a window that is not there would be taken for none.
    """
    for path in _files(folder):
        if model in ("", path.parent.name) and version in ("", path.stem):
            for line in _lines(path):
                yield _result(line, path)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/*{_SUFFIX}"))


def _path(folder: Path, model: str, version: str) -> Path:
    return folder / model / f"{version}{_SUFFIX}"


def _key(result: WindowResult) -> _Key:
    return (result.digest, result.kind, result.start_ns, result.first_position, result.last_position)


def _lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    # A line without its end was being written when the power went; it is written again.
    return [line for line in lines if line.endswith(b"\n")]


def _result(line: bytes, path: Path) -> WindowResult:
    try:
        return WindowResult.from_dict(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedLogError(
            f"{path} holds a line that is no result of a drift window ({type(error).__name__}: {error}); take the line "
            "out, or move the file away",
            field=str(path),
        ) from None


def _known(lines: Iterable[bytes], path: Path) -> Iterator[WindowResult]:
    for line in lines:
        try:
            yield _result(line, path)
        except DamagedLogError as error:
            _log.error("drift_table_damaged", reason=error.message)


def _write(path: Path, line: str, max_bytes: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        _cut_torn_line(file.fileno())
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if size > max_bytes:
        _halve(path)


def _halve(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    staged = path.with_suffix(".new")
    with open(staged, "wb") as file:
        file.writelines(lines[len(lines) // 2 :])
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        end -= 1
    if end != size:
        os.ftruncate(descriptor, end)
