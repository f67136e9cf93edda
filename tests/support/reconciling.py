"""What tests of a reconciler look at, and how its disk refuses."""

import errno

from server.models import Reconciler, Share
from server.models.values import WHOLE_BP
from server.plan import Role


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
