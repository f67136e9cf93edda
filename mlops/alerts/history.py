"""What became of every alert: a table that only grows, one JSON object a line, each line once."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mlops.alerts.state import Deed, Intent


@dataclass(frozen=True, slots=True)
class AlertRow:
    """A level that changed (`action` is `record`), or an action and its result.

    `at` (ISO 8601, UTC) is when the level changed, `done_at` when this was done. `result` is `done`, `unchanged` (it
    was so already), `overtaken` (somebody else has changed it since) or `given_up`; `detail` says more.
    """

    id: str
    model: str
    row: str
    level: str
    change: str
    action: Deed
    result: str
    detail: str
    version: str
    window: str
    value: float | None
    evidence: str
    at: str
    done_at: str


def row_of(model: str, intent: Intent, result: str, detail: str, done_at: str) -> AlertRow:
    """The line of an intent that was done, or given up."""
    return AlertRow(
        id=intent.id,
        model=model,
        row=intent.key,
        level=intent.level,
        change=intent.change,
        action=intent.do,
        result=result,
        detail=detail,
        version=intent.version,
        window=intent.window,
        value=intent.value,
        evidence=intent.evidence,
        at=intent.at,
        done_at=done_at,
    )


_ROW = TypeAdapter(AlertRow)


class History:
    """The table of one model. One process appends.

    A line that a crash cut short is ended at the next start and passed over by readers; what it said is said again,
    because it was not done.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {row.id for row in read_history(path)}
        self._is_cut = _is_cut(path)

    def append(self, row: AlertRow) -> bool:
        """Adds a line, durably; False where it is there. Raises OSError where the disk refuses."""
        if row.id in self._known:
            return False
        line = json.dumps(asdict(row), allow_nan=False) + "\n"
        # What is cut short here is ended by the next line, whoever writes it.
        data = ("\n" if self._is_cut else "") + line
        self._is_cut = True
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._is_cut = False
        self._known.add(row.id)
        return True


def read_history(path: Path) -> Iterator[AlertRow]:
    """The rows of a table, oldest first; none where there is no file. Lines that are not whole are passed over."""
    try:
        file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115 - closed below, once it is there
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                yield _ROW.validate_json(line)
            except ValidationError:
                continue


def _is_cut(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False
