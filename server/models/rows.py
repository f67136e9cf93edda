"""Desired state where there is no registry: a local file with one revisioned row a model that an operator wrote."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.models.codec import plain_halt, plain_target, read_halt, read_target
from server.models.files import read_checked, write_checked
from server.models.values import Target
from server.plan import Halt
from tickserve.errors import Code, ConfigurationError, ControlError


@dataclass(frozen=True, slots=True)
class DesiredRow:
    """What an operator wants of one model. A target without shares leaves it to the version policy."""

    revision: int
    target: Target
    halt: Halt | None
    actor: str
    reason: str
    at_unix_ns: int


class DesiredRows:
    """The rows, kept in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, DesiredRow] = {}
        body = read_checked(path) or {}
        try:
            self._rows = {name: _row(entry) for name, entry in body.items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ConfigurationError(f"{path} is damaged: it holds no desired state", field="home") from None

    def read(self) -> Mapping[str, DesiredRow]:
        """The rows that say what to serve."""
        return {name: row for name, row in self._rows.items() if row.target.shares}

    def revision(self, model: str) -> int:
        """The model's revision, 0 where nobody ever wrote one."""
        row = self._rows.get(model)
        return 0 if row is None else row.revision

    def write(
        self, model: str, target: Target, halt: Halt | None, expected_revision: int | None, *, actor: str, reason: str
    ) -> int:
        """Replaces the row of a model and returns its revision. Raises ControlError; nothing changes then."""
        found = self.revision(model)
        if expected_revision is not None and expected_revision != found:
            raise ControlError(
                f"the desired state of model {model!r} moved from revision {expected_revision} to {found}; read it "
                "again",
                code=Code.ABORTED,
                field="expected_revision",
            )
        before = self._rows.get(model)
        try:
            target = target.following(before.target if before else None)
        except ValueError as error:
            raise ControlError(str(error), code=Code.INVALID_ARGUMENT, field="desired.split") from None
        rows = {**self._rows, model: DesiredRow(found + 1, target, halt, actor, reason, time.time_ns())}
        try:
            write_checked(self._path, {name: _plain(row) for name, row in rows.items()})
        except OSError as error:
            raise ControlError(
                f"the desired state cannot be written: {error.strerror}", code=Code.INTERNAL, field="home"
            ) from None
        self._rows = rows
        return found + 1


def _plain(row: DesiredRow) -> dict[str, Any]:
    return {
        "revision": row.revision,
        "target": plain_target(row.target),
        "halt": None if row.halt is None else plain_halt(row.halt),
        "actor": row.actor,
        "reason": row.reason,
        # As text: JSON's numbers end at 2^53.
        "at_unix_ns": str(row.at_unix_ns),
    }


def _row(entry: Any) -> DesiredRow:
    return DesiredRow(
        entry["revision"],
        read_target(entry["target"]),
        None if entry["halt"] is None else read_halt(entry["halt"]),
        entry["actor"],
        entry["reason"],
        int(entry["at_unix_ns"]),
    )
