"""What a policy can do, apart from how it is done."""

from dataclasses import dataclass
from typing import Protocol

#: Who writes desired state for a policy. Audit rows and refusals of a halted model show it.
ACTOR = "alert-policy"


@dataclass(frozen=True, slots=True)
class FoundScale:
    """The desired position scale, and the revision of the model's desired state that it was read from."""

    scale: float
    revision: int


@dataclass(frozen=True, slots=True)
class Why:
    """The evidence, in words, and the identity of the action, the same whenever it is tried."""

    id: str
    text: str

    @property
    def reason(self) -> str:
        """The reason to store: the evidence, and the identity by which it is found again."""
        # Control bounds a reason by 500 bytes.
        kept = self.text.encode()[:400].decode(errors="ignore")
        return f"{kept} [{self.id}]"


@dataclass(frozen=True, slots=True)
class Notice:
    """What somebody is told: which level of which row was raised or cleared, and on what evidence."""

    id: str
    model: str
    version: str
    row: str
    level: str
    change: str
    do: str
    evidence: str
    at: str


class Actions(Protocol):
    """Changes of desired state, and telling people. Each raises TickserveError or OSError where it could not be done.

    All can be tried again: what is so already is not done twice.
    """

    def read_scale(self, model: str) -> FoundScale:
        """The desired position scale."""
        ...

    def write_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        """Replaces it. Raises ConflictError, or ControlError with ABORTED, where the state moved since it was found."""
        ...

    def give_back_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        """Writes what was there before the first change, and undoes what the change needed beside it."""
        ...

    def halt(self, model: str, why: Why) -> bool:
        """Stops the model's answers; False where it was stopped already."""
        ...

    def reduce_share(self, model: str, why: Why) -> bool:
        """Takes every canary's share to 0, by the rollout's own decision where one is open; False without canaries."""
        ...

    def roll_back(self, model: str, version: str, why: Why) -> bool:
        """Makes the version before this one live again; False where it is not the live one (any more), or the first.

        An empty version is whichever is live.
        """
        ...

    def was_written(self, model: str, identity: str) -> bool:
        """Whether an action of this identity changed desired state, whatever became of that since."""
        ...

    def notify(self, notice: Notice) -> None:
        """Tells somebody. After a crash the same notice, with the same `id`, may come twice."""
        ...
