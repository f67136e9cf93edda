"""The Control service, apart from how it is carried: requests in, responses out, TickserveError raised."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from server.api import wire
from server.engine import Engine, texts
from server.engine.base import ModelCounters, VersionCounters
from server.models import Memory, Operations, Reconciler
from tickserve import __version__
from tickserve.errors import Code, ControlError
from tickserve.v1 import control_pb2 as pb
from tickserve.v1 import prediction_pb2

#: A caller that went away is noticed after this long at the latest.
_EVENT_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the server process knows of itself: starting, serving or draining, where it listens, and its name."""

    state: str
    listen: Sequence[str]
    http: str
    name: str = ""


class ControlService:
    """Answers Control calls from the reconciler's state and changes it."""

    def __init__(
        self,
        reconciler: Reconciler,
        operations: Operations,
        engine: Engine,
        memory: Memory,
        *,
        process: Callable[[], ProcessFacts],
        drain: Callable[[], None],
    ) -> None:
        self._reconciler = reconciler
        self._operations = operations
        self._engine = engine
        self._memory = memory
        self._process = process
        self._drain = drain
        self._started_at = time.time_ns()
        self._server_id = uuid.uuid4().hex

    def status(self, _request: pb.StatusRequest) -> pb.StatusResponse:
        """What is meant to be served, what is served, since when, and why not."""
        snapshot = self._reconciler.snapshot()
        process = self._process()
        return pb.StatusResponse(
            server_version=__version__,
            engine=self._engine.name,
            state=f"SERVER_STATE_{process.state.upper()}",
            listen=process.listen,
            http=process.http,
            started_at_unix_ns=self._started_at,
            plan_generation=snapshot.plan.generation,
            models=[wire.model_status(record, snapshot) for record in snapshot.models],
            source=snapshot.source_name,
            source_age_ns=round(snapshot.source_age_s * 1e9),
            source_error=snapshot.source_error,
            server_id=self._server_id,
            server_name=process.name,
            source_revision=snapshot.source_revision,
            memory_bytes=self._memory.taken_bytes,
            memory_budget_bytes=self._memory.budget_bytes,
        )

    def set_desired(self, request: pb.SetDesiredRequest) -> pb.SetDesiredResponse:
        """Writes what one model should serve. Raises TickserveError."""
        _require_signed(request.actor, request.reason)
        _require("reason", request.reason)
        desired = request.desired
        _require("desired.model", desired.model)
        if request.schema_override:
            desired.schema_override = request.schema_override
        revision = self._operations.set_desired(
            desired.model,
            wire.read_target(desired),
            wire.read_halt(desired),
            request.expected_revision,
            actor=request.actor,
            reason=request.reason,
        )
        return pb.SetDesiredResponse(revision=revision)

    def rollback(self, request: pb.RollbackRequest) -> pb.RollbackResponse:
        """Makes the version that is kept warm the stable one. Raises ControlError."""
        _require_signed(request.actor, request.reason)
        _require("model", request.model)
        done = self._operations.rollback(request.model, actor=request.actor, reason=request.reason)
        return pb.RollbackResponse(
            version=done.version, plan_generation=done.plan.generation, not_desired=done.not_desired
        )

    def follow(self, request: pb.FollowRequest) -> pb.FollowResponse:
        """Holds the server at what it has, or lets it follow again. Raises ControlError."""
        _require_signed(request.actor, request.reason)
        models = self._operations.follow(
            request.model, is_following=request.is_following, actor=request.actor, reason=request.reason
        )
        return pb.FollowResponse(models=models)

    def halt(self, request: pb.HaltRequest) -> pb.HaltResponse:
        """Stops one model or all. Raises ControlError; InvalidInputError where a text is too long."""
        _require_signed(request.actor, request.reason)
        _require("reason", request.reason)
        models = self._operations.halt(request.model, actor=request.actor, reason=request.reason)
        return pb.HaltResponse(models=models, plan_generation=self._reconciler.snapshot().plan.generation)

    def resume(self, request: pb.ResumeRequest) -> pb.ResumeResponse:
        """Ends a halt. Raises ControlError."""
        _require_signed(request.actor, request.reason)
        models = self._operations.resume(request.model, actor=request.actor, reason=request.reason)
        return pb.ResumeResponse(models=models, plan_generation=self._reconciler.snapshot().plan.generation)

    def events(self, request: pb.EventsRequest, is_open: Callable[[], bool]) -> Iterator[pb.Event]:
        """Changes as they happen, oldest first, until the caller goes or the server ends; or those until now.

        Raises
        ------
        ControlError
            OUT_OF_RANGE after a sequence that this server never gave: waiting for it would skip what happens until
            then.
        """
        events, sequence = self._reconciler.events, request.after_sequence
        if sequence > events.newest:
            raise ControlError(
                f"the newest event of this server is {events.newest}; {sequence} was another server's, or its "
                "events.jsonl is gone since. Begin with 0",
                code=Code.OUT_OF_RANGE,
                field="after_sequence",
            )
        if request.until_now:
            yield from map(wire.event, events.after(sequence))
            return
        while is_open():
            for item in events.after(sequence, _EVENT_WAIT_S):
                sequence = item.sequence
                yield wire.event(item)
            if events.is_closed:
                return

    def counters(self, _request: pb.CountersRequest) -> pb.CountersResponse:
        """Latency histograms and counters as they stand."""
        response = pb.CountersResponse()
        counters = self._engine.counters()
        for item in counters.versions:
            _add_counts(response, item, version=item.version, role=prediction_pb2.Role.Name(item.role))
        for (model, version), value in counters.shadow_dropped.items():
            response.counters.add(name="shadow_dropped", model=model, version=version, role="ROLE_SHADOW", value=value)
        for rest in counters.folded:
            _add_counts(response, rest, version="", role="ROLE_UNSPECIFIED")
        return response

    def drain(self, request: pb.DrainRequest) -> pb.DrainResponse:
        """Starts the end of the server. Raises ControlError."""
        _require_signed(request.actor, request.reason)
        self._reconciler.events.add("drain", actor=request.actor, message=request.reason)
        self._drain()
        return pb.DrainResponse()


def _add_counts(
    response: pb.CountersResponse, item: VersionCounters | ModelCounters, *, version: str, role: str
) -> None:
    identity = {"model": item.model, "version": version, "role": role}
    for stage, counts in item.stages.items():
        response.histograms.add(stage=stage, counts=counts.counts, sum_ns=counts.sum_ns, **identity)
    response.counters.add(name="answered", value=item.answered, **identity)
    response.counters.add(name="rows", value=item.rows, **identity)
    response.counters.add(name="slow", value=item.slow, **identity)
    for reason, value in item.errors.items():
        response.counters.add(name="errors", label=reason, value=value, **identity)
    for (rule, policy), value in item.rule_violations.items():
        response.counters.add(name="rule_violations", label=f"{rule} {policy}", value=value, **identity)


def _require_signed(actor: str, reason: str) -> None:
    _require("actor", actor)
    # Both are part of every refusal of a halted model, which gRPC bounds.
    _bound("actor", actor, 100)
    _bound("reason", reason, 500)


def _require(field: str, text: str) -> None:
    if not text.strip():
        raise ControlError(texts.CHANGE_UNSIGNED.fill(name=field), code=texts.CHANGE_UNSIGNED.code, field=field)


def _bound(field: str, text: str, size_bytes: int) -> None:
    size = len(text.encode())
    if size > size_bytes:
        raise texts.TOO_LONG.error(at=field, name=field, size=size, bound=size_bytes)
