"""The client of the Control service: what a server serves, and to stop and start it."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from google.protobuf.message import Message

from tickserve.client.answer import decode
from tickserve.client.counters import Counters, to_counters
from tickserve.client.failure import control_error
from tickserve.client.grpc_sync import GrpcTransport
from tickserve.client.status import Change, Event, RolledBack, ServerStatus, to_event, to_server_status
from tickserve.client.transport import CallError, Connect, Tls, check_address
from tickserve.errors import Code, ControlError, InvalidInputError, TickserveError, UnreachableError
from tickserve.v1 import control_pb2 as pb

_SERVICE = "/tickserve.v1.Control/"
_POLL_S = 0.05


class ControlClient:
    """Operates one server over its admin listener.

    Every call raises UnreachableError where no server answers, and ControlError, with the status of its cause, where
    the server refuses.

    Parameters
    ----------
    address : str
        The server's admin listener: by default a Unix socket, `unix:<TICKSERVE_HOME>/admin.sock`.
    timeout_s : float
        Deadline of each call, in seconds.
    tls : Tls, optional
        Absent means plain text.
    connect : callable
        Makes the transport.
    """

    def __init__(
        self, address: str, *, timeout_s: float = 5.0, tls: Tls | None = None, connect: Connect = GrpcTransport
    ) -> None:
        self._address = check_address(address)
        self._timeout_s = timeout_s
        self._transport = connect(self._address, tls)

    def status(self) -> ServerStatus:
        """What is meant to be served, what is served, since when, and why not."""
        return self._status(self._timeout_s)

    def counters(self) -> Counters:
        """Latency histograms and counters as they stand, since the server started."""
        request = pb.CountersRequest()
        return to_counters(decode(pb.CountersResponse, self._call("Counters", request, self._timeout_s)))

    def halt(self, model: str, *, reason: str, actor: str) -> Change:
        """Stops the answers of one model until `resume`; both texts are shown to whoever is refused."""
        return self._halt(pb.HaltRequest(model=_named(model), reason=reason, actor=actor))

    def halt_all(self, *, reason: str, actor: str) -> Change:
        """Stops the answers of every model."""
        return self._halt(pb.HaltRequest(reason=reason, actor=actor))

    def resume(self, model: str, *, actor: str, reason: str = "") -> Change:
        """Ends the halt of one model."""
        return self._resume(pb.ResumeRequest(model=_named(model), reason=reason, actor=actor))

    def resume_all(self, *, actor: str, reason: str = "") -> Change:
        """Ends the halts of every model."""
        return self._resume(pb.ResumeRequest(reason=reason, actor=actor))

    def rollback(self, model: str, *, actor: str, reason: str = "") -> RolledBack:
        """Makes the version that is kept warm answer everything; returns once it does."""
        request = pb.RollbackRequest(model=_named(model), actor=actor, reason=reason)
        found = decode(pb.RollbackResponse, self._call("Rollback", request, self._timeout_s))
        return RolledBack(found.version, found.not_desired)

    def hold(self, model: str = "", *, actor: str, reason: str = "") -> tuple[str, ...]:
        """Holds one model, or every one, at what it serves; returns those that this changed."""
        return self._follow(pb.FollowRequest(model=model, is_following=False, actor=actor, reason=reason))

    def follow(self, model: str = "", *, actor: str, reason: str = "") -> tuple[str, ...]:
        """Lets one model, or every one, follow desired state again, versions that were taken out too."""
        return self._follow(pb.FollowRequest(model=model, is_following=True, actor=actor, reason=reason))

    def set_desired(
        self,
        model: str,
        version: str,
        *,
        actor: str,
        reason: str,
        expected_revision: int,
        position_scale: float = 1.0,
        schema_override: bool = False,
    ) -> int:
        """Writes that one version should answer everything, and returns the revision; the server gets there afterwards.

        An empty version gives the model back to the version policy of a models directory.
        """
        desired = pb.DesiredState(model=_named(model), position_scale=position_scale)
        if version:
            desired.split.add(version=version, role="ROLE_STABLE", weight_bp=10_000)
            desired.allowed_pins.add(version=version)
        request = pb.SetDesiredRequest(
            desired=desired,
            expected_revision=expected_revision,
            actor=actor,
            reason=reason,
            schema_override=version if schema_override else "",
        )
        return decode(pb.SetDesiredResponse, self._call("SetDesired", request, self._timeout_s)).revision

    def set_position_scale(self, model: str, scale: float, *, actor: str, reason: str, expected_revision: int) -> int:
        """Writes another factor for positions, and nothing else; returns the revision.

        Where a version policy says what is served, this pins what it says now, until the model is given back to it.
        """
        status = decode(pb.StatusResponse, self._call("Status", pb.StatusRequest(), self._timeout_s))
        desired = next((found.desired for found in status.models if found.name == _named(model)), None)
        if desired is None or not desired.split:
            raise ControlError(f"nothing is desired of model {model!r} here", code=Code.NOT_FOUND, field="model")
        desired.position_scale = scale
        request = pb.SetDesiredRequest(desired=desired, expected_revision=expected_revision, actor=actor, reason=reason)
        return decode(pb.SetDesiredResponse, self._call("SetDesired", request, self._timeout_s)).revision

    def events(self, after: int = 0) -> Iterator[Event]:
        """Changes as they happen, oldest first, for ever; begins with those that are kept and came after `after`."""
        return self._events(pb.EventsRequest(after_sequence=after))

    def past_events(self, after: int = 0) -> Iterator[Event]:
        """The changes that are kept and came after `after`, oldest first, and then the end."""
        return self._events(pb.EventsRequest(after_sequence=after, until_now=True))

    def drain(self, *, actor: str, reason: str = "") -> None:
        """Makes the server refuse new requests, answer those in flight, and exit; returns when it has begun."""
        self._call("Drain", pb.DrainRequest(reason=reason, actor=actor), self._timeout_s)

    def wait(self, until: Callable[[ServerStatus], bool], timeout_s: float) -> ServerStatus:
        """Returns the first status for which `until` is true, such as `lambda status: status.is_serving`.

        Raises
        ------
        UnreachableError
            Where no server has answered within `timeout_s`.
        ControlError
            Where one has, but `until` stayed false (DEADLINE_EXCEEDED).
        """
        end = time.monotonic() + timeout_s
        while True:
            left_s = end - time.monotonic()
            try:
                status = self._status(min(self._timeout_s, max(left_s, _POLL_S)))
                if until(status):
                    return status
                late: TickserveError = ControlError(
                    f"the server did not get there within {timeout_s} s; it is {status.state}: "
                    + (", ".join(f"{model.name} {model.state}" for model in status.models) or "no models"),
                    code=Code.DEADLINE_EXCEEDED,
                )
            except UnreachableError as error:
                late = error
            if left_s <= 0:
                raise late
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _events(self, request: pb.EventsRequest) -> Iterator[Event]:
        try:
            stream = self._transport.stream(_SERVICE + "Events")
            stream.send(request.SerializeToString())
            stream.finish()
            try:
                for data in stream:
                    yield to_event(decode(pb.Event, data))
            finally:
                stream.cancel()
        except CallError as failed:
            raise control_error(failed, address=self._address) from None

    def _status(self, timeout_s: float) -> ServerStatus:
        return to_server_status(decode(pb.StatusResponse, self._call("Status", pb.StatusRequest(), timeout_s)))

    def _halt(self, request: pb.HaltRequest) -> Change:
        answer = decode(pb.HaltResponse, self._call("Halt", request, self._timeout_s))
        return Change(tuple(answer.models), answer.plan_generation)

    def _resume(self, request: pb.ResumeRequest) -> Change:
        answer = decode(pb.ResumeResponse, self._call("Resume", request, self._timeout_s))
        return Change(tuple(answer.models), answer.plan_generation)

    def _follow(self, request: pb.FollowRequest) -> tuple[str, ...]:
        return tuple(decode(pb.FollowResponse, self._call("Follow", request, self._timeout_s)).models)

    def _call(self, rpc: str, request: Message, timeout_s: float) -> bytes:
        try:
            return self._transport.call(_SERVICE + rpc, request.SerializeToString(), timeout_s)
        except CallError as failed:
            raise control_error(failed, address=self._address) from None


def _named(model: str) -> str:
    # An empty name means every model on the wire.
    if not model:
        raise InvalidInputError("no model is named; for every model there is a call of its own", field="model")
    return model
