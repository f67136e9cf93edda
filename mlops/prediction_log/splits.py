"""The splits behind the log: for each life of a server those of its catalog, so that routing can be proven later."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from mlops.routing.proof import SplitTable
from mlops.tap import Split, read_catalog
from mlops.tap.catalog import split_entry
from tickserve.errors import DamagedTapError

#: Folder of a log.
SPLITS = "splits"
#: By boot, then by model and generation.
Splits = Mapping[str, Mapping[tuple[str, int], SplitTable]]
_SUFFIX = ".jsonl"


class SplitKeeper:
    """The one writer of a log's splits. Not for several threads.

    Invariant: a file is there whole, on disk, or as it was before.
    """

    def __init__(self, log: Path) -> None:
        self._folder = log / SPLITS
        self._kept: dict[str, Mapping[tuple[str, int], Split]] = {}

    def keep(self, boot: str, splits: Mapping[tuple[str, int], Split]) -> None:
        """Keeps all splits that a boot has had. Raises OSError where there is no room; it may be called again."""
        if splits == self._kept.get(boot, {}):
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{boot}{_SUFFIX}"
        staged = path.with_suffix(".new")
        with open(staged, "w", encoding="utf-8") as file:
            for split in splits.values():
                file.write(json.dumps(split_entry(split), ensure_ascii=False, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._kept[boot] = dict(splits)

    def touch(self, boot: str) -> None:
        """Says that there may be records of a boot from now: the time of its file is that of its last ones."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._folder / f"{boot}{_SUFFIX}")

    def forget(self, boot: str) -> None:
        """Needs nothing more of a boot that ended; its file stays."""
        self._kept.pop(boot, None)


def remove_old(log: Path, before_unix: float) -> None:
    """Removes the splits of boots whose last records are from before a time."""
    for path in (log / SPLITS).glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before_unix:
                path.unlink()


def read_splits(log: Path) -> Splits:
    """All splits of a log. Raises DamagedTapError naming a file that holds none."""
    found: dict[str, dict[tuple[str, int], SplitTable]] = {}
    for path in sorted((log / SPLITS).glob(f"*{_SUFFIX}")):
        try:
            found[path.stem] = {key: _table(split) for key, split in read_catalog(path).splits.items()}
        except ValueError as error:
            raise DamagedTapError(f"{path} holds a split that is none: {error}", field=str(path)) from None
    return found


def _table(split: Split) -> SplitTable:
    return SplitTable(
        split.salt,
        tuple(bound for bound, _, _ in split.segments),
        tuple(version for _, version, _ in split.segments),
    )
