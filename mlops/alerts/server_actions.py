"""Actions where there is no registry: what one server is meant to serve, by Control on its admin listener."""

from collections.abc import Callable
from typing import Protocol

from mlops.alerts.actions import ACTOR, FoundScale, Notice, Why
from tickserve.client.status import ModelStatus, ServerStatus
from tickserve.errors import Code, ControlError

#: Begins the reason of a write that pinned what a version policy said; giving back then gives the model back to it.
POLICY = "instead of the version policy; "
READ_WITHIN_S = 5.0


class Control(Protocol):
    """What is needed of `tickserve.client.ControlClient`."""

    def status(self) -> ServerStatus: ...
    def halt(self, model: str, *, reason: str, actor: str) -> object: ...
    def set_desired(self, model: str, version: str, *, actor: str, reason: str, expected_revision: int) -> int: ...
    def wait(self, until: Callable[[ServerStatus], bool], timeout_s: float) -> ServerStatus: ...
    def set_position_scale(
        self, model: str, scale: float, *, actor: str, reason: str, expected_revision: int
    ) -> int: ...


class ServerActions:
    """Writes the rows of one server that follows a directory.

    Desired state names versions there, so a model of the version policy is pinned to what it serves while its scale is
    reduced: higher versions that come into the folder wait.

    Parameters
    ----------
    control : Control
        A client of the server's admin listener.
    tell : callable
        Takes each notice.
    """

    def __init__(self, control: Control, tell: Callable[[Notice], None]) -> None:
        self._control = control
        self._tell = tell
        #: Revisions that were written here. A server shows what it read last, which may be older for a moment.
        self._written: dict[str, int] = {}

    def read_scale(self, model: str) -> FoundScale:
        """Raises ControlError where the server does not know the model, UnreachableError where it does not answer."""
        try:
            self._control.wait(lambda status: self._is_read(status, model), READ_WITHIN_S)
        except ControlError:
            # Next time what it shows counts: it may have begun anew, without its rows.
            self._written.pop(model, None)
            raise
        desired = self._model(model).desired
        if desired is None or not desired.split:
            raise ControlError(f"nothing is desired of model {model!r} here", code=Code.NOT_FOUND, field="model")
        scale = 1.0 if desired.position_scale is None else desired.position_scale
        return FoundScale(scale, desired.revision)

    def write_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        """Raises ControlError with ABORTED where the model's desired state moved since it was found."""
        desired = self._model(model).desired
        is_policy = desired is not None and (not desired.actor or _is_in_place_of_policy(desired.actor, desired.reason))
        reason = (POLICY if is_policy else "") + why.reason
        self._written[model] = self._control.set_position_scale(
            model, scale, actor=ACTOR, reason=reason, expected_revision=found.revision
        )

    def give_back_scale(self, model: str, scale: float, found: FoundScale, why: Why) -> None:
        """As `write_scale`; or gives the model back to the version policy, if that is whom it was taken from."""
        desired = self._model(model).desired
        if desired is not None and _is_in_place_of_policy(desired.actor, desired.reason) and scale == 1.0:
            self._written[model] = self._control.set_desired(
                model, "", actor=ACTOR, reason=why.reason, expected_revision=found.revision
            )
        else:
            self.write_scale(model, scale, found, why)

    def halt(self, model: str, why: Why) -> bool:
        """Halts the model at this server, until somebody resumes it there."""
        if self._model(model).halt is not None:
            return False
        self._control.halt(model, reason=why.reason, actor=ACTOR)
        return True

    def reduce_share(self, model: str, why: Why) -> bool:
        """Raises ControlError: shares are kept in a registry."""
        raise _needs_registry("reduce_share")

    def roll_back(self, model: str, version: str, why: Why) -> bool:
        """Raises ControlError: what was live before is kept in a registry."""
        raise _needs_registry("roll_back")

    def was_written(self, model: str, identity: str) -> bool:
        """Whether the latest write or halt is of this identity: a server keeps no more."""
        status = self._model(model)
        latest = [status.desired.reason if status.desired else "", status.halt.reason if status.halt else ""]
        return any(reason.endswith(f"[{identity}]") for reason in latest)

    def notify(self, notice: Notice) -> None:
        """Passes it on."""
        self._tell(notice)

    def _is_read(self, status: ServerStatus, model: str) -> bool:
        found = status.model(model)
        return found is None or found.desired is None or found.desired.revision >= self._written.get(model, 0)

    def _model(self, model: str) -> ModelStatus:
        found = self._control.status().model(model)
        if found is None:
            raise ControlError(f"the server has no model {model!r}", code=Code.NOT_FOUND, field="model")
        return found


def _needs_registry(action: str) -> ControlError:
    return ControlError(f"{action} needs a registry", code=Code.FAILED_PRECONDITION, field="alert_matrix")


def _is_in_place_of_policy(actor: str, reason: str) -> bool:
    return actor == ACTOR and reason.startswith(POLICY)
