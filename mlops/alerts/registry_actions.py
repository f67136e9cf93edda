"""Actions where there is a registry: desired state, based on the revision that was read, audited with the evidence."""

from collections.abc import Callable
from datetime import UTC, datetime

from mlops.alerts.actions import ACTOR, FoundScale, Notice, Why
from mlops.registry import Author, Desired, DesiredState, HaltEntry, Registry
from mlops.registry.desired import make_state
from mlops.registry.journal import Write
from mlops.registry.leases import seize
from mlops.rollout.controller import LEASE
from mlops.rollout.traffic import Traffic
from tickserve.errors import ConflictError, UnknownError

_TRIES = 5
_HISTORY = 200


class RegistryActions:
    """Writes the row that servers follow.

    Parameters
    ----------
    registry : callable
        The open registry; asked each time, so that one that was away can be opened again.
    tell : callable
        Takes each notice.
    """

    def __init__(self, registry: Callable[[], Registry], tell: Callable[[Notice], None]) -> None:
        self._registry = registry
        self._tell = tell

    def read_scale(self, model: str) -> FoundScale:
        """Raises UnknownError where nothing was ever desired of the model."""
        found = self._desired(model)
        return FoundScale(found.state.position_scale, found.revision)

    def write_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        """Raises ConflictError where the scale is another one than was found; other changes in between stay."""

        def change(desired: Desired) -> DesiredState | None:
            if desired.state.position_scale != found.scale:
                raise ConflictError(
                    f"the position scale of model {model!r} moved from {found.scale:g} to "
                    f"{desired.state.position_scale:g}",
                    field="position_scale",
                )
            return _with(desired.state, position_scale=scale)

        self._change(model, change, why)

    def give_back_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        """As `write_scale`: nothing else was changed."""
        self.write_scale(model, scale, found, why)

    def halt(self, model: str, why: Why) -> bool:
        """Halts the model at every server, until somebody ends that in desired state."""
        entry = HaltEntry(reason=why.reason, actor=ACTOR, since=datetime.now(UTC).isoformat())
        return self._change(model, lambda found: None if found.state.halt else _with(found.state, halt=entry), why)

    def reduce_share(self, model: str, why: Why) -> bool:
        """Aborts an open rollout, or takes back a split that was made by hand."""
        return self._write(model, "reduce-share", why, lambda write: self._traffic().reduce_share(write, model))

    def roll_back(self, model: str, version: str, why: Why) -> bool:
        """Ends an open rollout too; where that was what made the version live, it is all that is done."""
        return self._write(model, "rollback", why, lambda write: self._traffic().roll_back(write, model, version))

    def was_written(self, model: str, identity: str) -> bool:
        """Looks for it among the latest changes of the audit log."""
        changes = self._registry().history(model, limit=_HISTORY)
        return any(change.actor == ACTOR and change.reason.endswith(f"[{identity}]") for change in changes)

    def notify(self, notice: Notice) -> None:
        """Passes it on."""
        self._tell(notice)

    def _traffic(self) -> Traffic:
        return Traffic(self._registry())

    def _write(self, model: str, action: str, why: Why, change: Callable[[Write], bool]) -> bool:
        def moved(write: Write) -> bool:
            # Traffic moves under the lease of rollouts: what a controller has under way meanwhile is fenced off. It is
            # taken and not waited for, since a controller keeps it for as long as a rollout is open.
            did = change(write)
            if did:
                seize(write.connection, LEASE, ACTOR)
            return did

        return self._registry().journal.write(action, Author(ACTOR, why.reason), moved, model=model)

    def _change(self, model: str, change: Callable[[Desired], DesiredState | None], why: Why) -> bool:
        for left in reversed(range(_TRIES)):
            found = self._desired(model)
            state = change(found)
            if state is None:
                return False
            try:
                self._registry().set_desired(model, state, Author(ACTOR, why.reason), found.revision)
            except ConflictError:
                if not left:
                    raise
            else:
                return True
        raise AssertionError("unreachable")

    def _desired(self, model: str) -> Desired:
        found = self._registry().desired(model)
        if found is None:
            raise UnknownError(f"model {model!r} has no desired state yet; promote a version", field="model")
        return found


def _with(state: DesiredState, **entries: object) -> DesiredState:
    return make_state(**{name: getattr(state, name) for name in type(state).model_fields} | entries)
