"""Whose position scale it is: what to write for the levels that hold, and what may be restored. Pure.

Levels that set a scale hold a claim on it. The first claim remembers what was there before; the smallest claim counts,
and never more than what was there before. When the last one goes, what was there before comes back. Somebody else's
scale is somebody else's: once it differs from what this policy wrote, the policy leaves it alone, and its claims end.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

#: A server keeps the scale as a 32-bit float.
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Ownership:
    """What was there before the first claim, and what this policy set or is about to set.

    `found` and `revision` are what it found then; `writer` is the action whose write it is, and `sequence` that of the
    latest action whose claim it took into account.
    """

    before: float
    target: float
    found: float
    is_written: bool = False
    revision: int = 0
    writer: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about the scale.

    `write` is the value to write, or None; `ownership` what holds from then on; `is_overtaken` where somebody else
    changed it, and all earlier claims end.
    """

    write: float | None
    ownership: Ownership | None
    is_overtaken: bool = False


def decide(current: float, ownership: Ownership | None, claims: Collection[float]) -> Decision:
    """What the scale should be, given what it is.

    Parameters
    ----------
    current : float
        The desired scale as it was just read.
    ownership : Ownership, optional
        Absent where this policy set nothing.
    claims : collection of float
        The scales of the levels that hold.
    """
    if ownership is None:
        target = min(claims, default=current)
        if target >= current - TOLERANCE:
            return Decision(None, None)
        return Decision(target, Ownership(current, target, current))
    if not _is_ours(current, ownership):
        return Decision(None, None, is_overtaken=True)
    target = min([ownership.before, *claims])
    if not _is_same(current, target):
        return Decision(target, Ownership(ownership.before, target, current))
    return Decision(None, replace(ownership, target=target, is_written=True) if claims else None)


def written(ownership: Ownership, claims: Collection[float]) -> Ownership | None:
    """What holds once the target was written: nothing where it gave back what was there before."""
    return replace(ownership, is_written=True) if claims else None


def _is_ours(current: float, ownership: Ownership) -> bool:
    if _is_same(current, ownership.target):
        return True
    # Stored before it is tried: whether it was written is only known afterwards.
    return not ownership.is_written and _is_same(current, ownership.found)


def _is_same(left: float, right: float) -> bool:
    return abs(left - right) <= TOLERANCE
