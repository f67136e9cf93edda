"""What operators and the breaker decided at this server: halts, holds and refused versions, kept over a restart.

These outrank desired state until they are released.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from server.models import files
from server.plan import Halt
from tickserve.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Mark:
    """Who decided something here, when and why, and the revision of desired state that makes it void; 0 for none."""

    actor: str
    reason: str
    since_unix_ns: int
    until_revision: int = 0


@dataclass(frozen=True, slots=True)
class Overrides:
    """`held` models stay at what they serve; `refused` versions, by model, are not served here."""

    held: Mapping[str, Mark] = field(default_factory=dict)
    refused: Mapping[str, Mapping[str, Mark]] = field(default_factory=dict)

    def with_held(self, models: Mapping[str, Mark]) -> "Overrides":
        """These models held too."""
        return replace(self, held={**self.held, **models})

    def refusing(self, model: str, version: str, mark: Mark) -> "Overrides":
        """This version refused too."""
        return replace(self, refused={**self.refused, model: {**self.refused.get(model, {}), version: mark}})

    def released(self, model: str) -> "Overrides":
        """Nothing held or refused of this model."""
        return Overrides(
            {name: mark for name, mark in self.held.items() if name != model},
            {name: marks for name, marks in self.refused.items() if name != model},
        )


class _HaltEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    actor: str
    since_unix_ns: int


class _MarkEntry(_HaltEntry):
    until_revision: int = 0


class _OverridesEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    held: dict[str, _MarkEntry]
    refused: dict[str, dict[str, _MarkEntry]]


_HALTS = TypeAdapter(dict[str, _HaltEntry])


class LocalState:
    """The files of one server's own decisions, below `folder`; every write is whole."""

    def __init__(self, folder: Path) -> None:
        self._halts = folder / "halts.json"
        self._overrides = folder / "overrides.json"

    def read_halts(self) -> dict[str, Halt]:
        """The halted models by name; none where the file does not exist.

        Raises
        ------
        ConfigurationError
            Where the file is damaged: a halted model must not come back by accident.
        """
        data = _read(self._halts)
        try:
            entries = _HALTS.validate_json(data or b"{}")
        except ValidationError:
            raise ConfigurationError(
                f"{self._halts} is damaged; it says which models are halted. Delete it where none should be",
                field="home",
            ) from None
        return {name: Halt(entry.reason, entry.actor, entry.since_unix_ns) for name, entry in entries.items()}

    def write_halts(self, halts: Mapping[str, Halt]) -> None:
        """Replaces the halts. Raises OSError where the disk refuses; the old file then stays."""
        body = {name: asdict(halt) for name, halt in sorted(halts.items())}
        files.write_text(self._halts, json.dumps(body, indent=1))

    def read_overrides(self) -> Overrides:
        """What is held and refused.

        Raises
        ------
        ConfigurationError
            Where the file is damaged: a version that was taken out must not come back by accident.
        """
        data = _read(self._overrides)
        try:
            entry = _OverridesEntry.model_validate_json(data or b'{"held": {}, "refused": {}}')
        except ValidationError:
            raise ConfigurationError(
                f"{self._overrides} is damaged; it says which models are held and which versions were taken out. "
                "Delete it where none are",
                field="home",
            ) from None
        return Overrides(
            {name: _mark(held) for name, held in entry.held.items()},
            {
                name: {version: _mark(mark) for version, mark in versions.items()}
                for name, versions in entry.refused.items()
            },
        )

    def write_overrides(self, overrides: Overrides) -> None:
        """Replaces what is held and refused. Raises OSError where the disk refuses; the old file then stays."""
        body = {
            "held": {name: asdict(mark) for name, mark in sorted(overrides.held.items())},
            "refused": {
                name: {version: asdict(mark) for version, mark in marks.items()}
                for name, marks in sorted(overrides.refused.items())
            },
        }
        files.write_text(self._overrides, json.dumps(body, indent=1))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", field="home") from None


def _mark(entry: _MarkEntry) -> Mark:
    return Mark(entry.actor, entry.reason, entry.since_unix_ns, entry.until_revision)
