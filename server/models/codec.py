"""Values of this package as JSON has them, for the files of state."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from server.models.values import Target, VersionRef
from server.plan import Halt
from tickserve.errors import ConfigurationError

_TARGET = TypeAdapter(Target)
_HALT = TypeAdapter(Halt)


def plain_target(target: Target) -> dict[str, Any]:
    """A target as JSON."""
    plain: dict[str, Any] = _TARGET.dump_python(target, mode="json")
    return plain | {"pins": sorted(target.pins, key=int)}


def read_target(plain: Any) -> Target:
    """What `plain_target` gave. Raises ConfigurationError where it is none."""
    try:
        return _TARGET.validate_python(plain)
    except ValidationError as error:
        raise ConfigurationError(f"no target: {error.errors()[0]['msg']}", field="home") from None


def plain_halt(halt: Halt) -> dict[str, Any]:
    """A halt as JSON; the time as text, because JSON's numbers end at 2^53."""
    return {"reason": halt.reason, "actor": halt.actor, "since_unix_ns": str(halt.since_unix_ns)}


def read_halt(plain: Any) -> Halt:
    """What `plain_halt` gave. Raises ConfigurationError where it is none."""
    try:
        return _HALT.validate_python(plain)
    except ValidationError as error:
        raise ConfigurationError(f"no halt: {error.errors()[0]['msg']}", field="home") from None


def plain_ref(ref: VersionRef) -> dict[str, Any]:
    """A reference to a version as JSON, without what only this process knows."""
    return {"version": ref.version, "digest": ref.digest, "place": ref.place}
