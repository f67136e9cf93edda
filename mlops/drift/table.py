"""Results of windows on disk: one line of JSON each, a file for each version, each window once."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlops.drift.result import WindowResult

_SUFFIX = ".jsonl"


def append(folder: Path, results: Sequence[WindowResult]) -> list[WindowResult]:
    """Adds the results that are not there yet, on disk when this returns; the ones that were new. Raises OSError.

    After a crash the same windows close again, with equal results: they are found by the records that they hold.
    """
    new: list[WindowResult] = []
    for path in {_path(folder, result.model, result.version) for result in results}:
        known = {_key(result) for result in _read(path)}
        added = [
            result
            for result in results
            if _path(folder, result.model, result.version) == path and _key(result) not in known
        ]
        if added:
            _write(path, "".join(json.dumps(result.as_dict(), allow_nan=False) + "\n" for result in added))
        new += added
    return sorted(new, key=lambda result: (result.closed_position, result.start_ns))


def read_windows(folder: Path, model: str = "", version: str = "") -> Iterator[WindowResult]:
    """The results of a model, or of all, each version's windows in the order in which they closed."""
    for path in sorted(folder.glob(f"*/*{_SUFFIX}")):
        if model in ("", path.parent.name) and version in ("", path.stem):
            yield from _read(path)


def _path(folder: Path, model: str, version: str) -> Path:
    return folder / model / f"{version}{_SUFFIX}"


def _key(result: WindowResult) -> tuple[object, ...]:
    return (result.digest, result.kind, result.start_ns, result.first_position, result.last_position)


def _read(path: Path) -> Iterator[WindowResult]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for line in lines:
        # A line without its end was being written when the power went; it is written again.
        if line.endswith(b"\n"):
            yield WindowResult.from_dict(json.loads(line))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        _cut_torn_line(file.fileno())
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        end -= 1
    if end != size:
        os.ftruncate(descriptor, end)
