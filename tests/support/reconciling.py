"""What tests of a reconciler look at, and how its disk refuses."""

import errno
from pathlib import Path
from typing import Any

from server.engine import Engine
from server.models import DesiredRows, DirectorySource, LocalState, Reconciler, Share
from server.models.values import WHOLE_BP
from server.plan import Plan, Role


def plan(reconciler: Reconciler) -> Plan:
    """What is installed."""
    return reconciler.snapshot().plan


def served(reconciler: Reconciler, name: str = "demo") -> list[str]:
    """The versions of a model's split, in order of its segments."""
    return [segment.version for segment in plan(reconciler).models[name].split.segments]


def stable(reconciler: Reconciler) -> str:
    """The stable version of the model `demo`."""
    return str(reconciler.snapshot().plan.models["demo"].split.segments[-1].version)


def shares(canary: str, weight_bp: int, stable_version: str) -> tuple[Share, ...]:
    """A canary with a part of everything, and a stable version with the rest."""
    return (
        Share(canary, Role.CANARY, weight_bp),
        Share(stable_version, Role.STABLE, WHOLE_BP - weight_bp),
    )


def segments(reconciler: Reconciler) -> list[tuple[str, int]]:
    """Of the model `demo`: version and upper bound of each, in order."""
    split = reconciler.snapshot().plan.models["demo"].split
    return [(segment.version, segment.upper_bound) for segment in split.segments]


def no_room(*_: object) -> None:
    """A call that a full disk refuses."""
    raise OSError(errno.ENOSPC, "No space left on device")


def with_rows(models: Path, engine: Engine, folder: Path, **parts: Any) -> Reconciler:
    """Over a models directory whose operators write what is desired; `parts` are further ones of the reconciler."""
    source = DirectorySource(models, rows=DesiredRows(folder / "desired.json"))
    return Reconciler(source, engine, LocalState(folder), **parts)
