"""What a source of desired state and of versions is."""

from typing import Protocol

from server.models.values import Desired, Target, VersionRef
from server.plan import Halt, VersionPlan


class Source(Protocol):
    """Says what should be served and gives the verified versions.

    `read` is called on one thread, `open` and `accepts_schema` on those that load, `write` on those
    that answer operators.
    """

    @property
    def name(self) -> str:
        """What it is called in status, logs and errors, such as `directory`."""

    def read(self) -> Desired:
        """What should be served now. Raises TickserveError where that cannot be told: what was read last stands."""

    def last_good(self) -> Desired | None:
        """What was read by an earlier process, verified; None where nothing is kept."""

    def open(self, model: str, ref: VersionRef) -> VersionPlan:
        """Fetches where needed and verifies one version: digest, files, signature where one is required.

        Raises
        ------
        PackageError
            Where it is damaged, cannot be fetched, or may not be served.
        """

    def accepts_schema(self, target: Target, old: VersionPlan, new: VersionPlan) -> bool:
        """Whether somebody named the version whose schema is another one than that of `old`."""

    def write(
        self, model: str, target: Target, halt: Halt | None, expected_revision: int | None, *, actor: str, reason: str
    ) -> int:
        """Makes `target` what the model should serve, halted or not, and returns the revision of that.

        Without an expected revision whatever is there is replaced.

        Raises
        ------
        TickserveError
            ABORTED where the revision is another one by now; NOT_FOUND where there is no such model or version.
        """
