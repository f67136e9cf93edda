"""Desired state where there is no registry: a local file that says which models are halted, by whom and why."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from server.plan import Halt
from tickserve.errors import ConfigurationError


class _HaltEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    actor: str
    since_unix_ns: int


_FILE = TypeAdapter(dict[str, _HaltEntry])


class DesiredFile:
    """Halts that survive a restart. Every write is whole: a temporary file, synced, then renamed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_halts(self) -> dict[str, Halt]:
        """The halted models by name; none where the file does not exist.

        Raises
        ------
        ConfigurationError
            Where the file is damaged: a halted model must not come back by accident.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigurationError(f"cannot read {self._path}: {error.strerror}", field="home") from None
        try:
            entries = _FILE.validate_json(data)
        except ValidationError:
            raise ConfigurationError(
                f"{self._path} is damaged; it says which models are halted. Delete it where none should be",
                field="home",
            ) from None
        return {name: Halt(entry.reason, entry.actor, entry.since_unix_ns) for name, entry in entries.items()}

    def write_halts(self, halts: Mapping[str, Halt]) -> None:
        """Replaces the file. Raises OSError where the disk refuses; the old file then stays, and nothing beside it."""
        entries = {
            name: {"reason": halt.reason, "actor": halt.actor, "since_unix_ns": halt.since_unix_ns}
            for name, halt in sorted(halts.items())
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # One name, because one server writes here: what a killed one left is overwritten.
        temporary = self._path.with_suffix(".tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(entries, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync(self._path.parent)


def _sync(folder: Path) -> None:
    """Makes a rename in this folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
