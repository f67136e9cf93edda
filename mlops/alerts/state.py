"""What one model's policy remembers: latches, claims, and actions that are not done yet. One file, written whole."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TextIO

from pydantic import TypeAdapter, ValidationError

from mlops.alerts.matrix import ActionName, LevelName
from mlops.alerts.policy import RowState
from mlops.alerts.scale import Ownership
from tickserve.errors import ConfigurationError

#: `record` writes into the history that a level changed.
Deed = ActionName | Literal["record"]
Change = Literal["raised", "cleared", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Intent:
    """Something to be done once. Its `id` is the same whenever it is tried, and no other one's.

    `is_tried` says that it may have been done already. `key` is the row, with its horizon where it has one.
    """

    id: str
    do: Deed
    key: str
    level: LevelName
    change: Change
    version: str
    window: str
    value: float | None
    evidence: str
    at: str
    is_tried: bool = False

    @property
    def claim(self) -> str:
        """The claim on the position scale that belongs to it."""
        return claim_of(self.key, self.level)

    @property
    def sequence(self) -> int:
        """Its number among all of this state; later ones are larger."""
        return int(self.id.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model. `identity` is drawn once, so that the ids of another state, or of one that was lost, are others.

    `claims` are position scales by row and level; `outbox` is in order.
    """

    model: str
    identity: str
    sequence: int = 0
    rows: Mapping[str, RowState] = field(default_factory=dict)
    claims: Mapping[str, float] = field(default_factory=dict)
    ownership: Ownership | None = None
    outbox: tuple[Intent, ...] = ()

    def without(self, intent: str) -> "ModelState":
        """This intent done."""
        return replace(self, outbox=tuple(each for each in self.outbox if each.id != intent))


def claim_of(key: str, level: LevelName) -> str:
    """The name of a level's claim."""
    return f"{key}/{level}"


_STATE = TypeAdapter(ModelState)


class StateFile:
    """The file of one model below `folder`, held by one process at a time.

    Raises
    ------
    ConfigurationError
        Where another process acts for this model, or the file is damaged: what this policy did to the model must not
        be forgotten by accident.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._path = folder / "state.json"
        self._lock = _lock(folder, model)
        try:
            self.state = self._read(model)
        except BaseException:
            self._lock.close()
            raise

    def write(self, state: ModelState) -> None:
        """Replaces the state, durably. Raises OSError where the disk refuses; the old file then stays."""
        temporary = self._path.with_suffix(".tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(asdict(state), file, indent=1, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self._path.parent)

    def close(self) -> None:
        """Lets another process act."""
        self._lock.close()

    def _read(self, model: str) -> ModelState:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ModelState(model, secrets.token_hex(4))
        except OSError as error:
            raise ConfigurationError(f"cannot read {self._path}: {error.strerror}", field="home") from None
        try:
            state = _STATE.validate_json(data)
        except ValidationError:
            state = None
        if state is None or state.model != model:
            raise ConfigurationError(
                f"{self._path} is damaged; it says which alerts hold for model {model!r} and what was done for them. "
                "Delete it to begin anew: a position scale that was reduced then stays until somebody restores it",
                field="home",
            )
        return state


def _lock(folder: Path, model: str) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "w", encoding="ascii")  # noqa: SIM115 - held open on purpose
    except OSError as error:
        raise ConfigurationError(f"cannot use {folder}: {error.strerror}", field="home") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigurationError(
            f"another sidecar acts on the alerts of model {model!r} (it holds {folder / 'lock'})", field="home"
        ) from None
    return file


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
