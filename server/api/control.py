"""The Control service, apart from how it is carried: requests in, responses out, TickserveError raised."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.engine import Engine, texts
from server.engine.base import ModelCounters, VersionCounters
from server.models import ModelRecord, Reconciler, Snapshot
from server.plan import Halt
from tickserve import __version__
from tickserve.errors import ControlError
from tickserve.v1 import control_pb2 as pb
from tickserve.v1 import prediction_pb2


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the server process knows of itself: starting, serving or draining, and where it listens."""

    state: str
    listen: Sequence[str]
    http: str


class ControlService:
    """Answers Control calls from the reconciler's state and changes it."""

    def __init__(
        self, reconciler: Reconciler, engine: Engine, *, process: Callable[[], ProcessFacts], drain: Callable[[], None]
    ) -> None:
        self._reconciler = reconciler
        self._engine = engine
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
            models=[_model_status(record, snapshot) for record in snapshot.models],
            source=snapshot.source_name,
            source_age_ns=round(snapshot.source_age_s * 1e9),
            source_error=snapshot.source_error,
            server_id=self._server_id,
        )

    def halt(self, request: pb.HaltRequest) -> pb.HaltResponse:
        """Stops one model or all. Raises ControlError; InvalidInputError where a text is too long."""
        _require("actor", request.actor)
        _require("reason", request.reason)
        # Both are part of every refusal, which gRPC bounds.
        _bound("actor", request.actor, 100)
        _bound("reason", request.reason, 500)
        models = self._reconciler.halt(request.model, actor=request.actor, reason=request.reason)
        return pb.HaltResponse(models=models, plan_generation=self._reconciler.snapshot().plan.generation)

    def resume(self, request: pb.ResumeRequest) -> pb.ResumeResponse:
        """Ends a halt. Raises ControlError."""
        _require("actor", request.actor)
        models = self._reconciler.resume(request.model, actor=request.actor, reason=request.reason)
        return pb.ResumeResponse(models=models, plan_generation=self._reconciler.snapshot().plan.generation)

    def counters(self, _request: pb.CountersRequest) -> pb.CountersResponse:
        """Latency histograms and counters as they stand."""
        response = pb.CountersResponse()
        counters = self._engine.counters()
        for item in counters.versions:
            _add_counts(response, item, version=item.version, role=prediction_pb2.Role.Name(item.role))
        for rest in counters.folded:
            _add_counts(response, rest, version="", role="ROLE_UNSPECIFIED")
        return response

    def drain(self, request: pb.DrainRequest) -> pb.DrainResponse:
        """Starts the end of the server. Raises ControlError."""
        _require("actor", request.actor)
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


def _require(field: str, text: str) -> None:
    if not text.strip():
        raise ControlError(texts.CHANGE_UNSIGNED.fill(name=field), code=texts.CHANGE_UNSIGNED.code, field=field)


def _bound(field: str, text: str, size_bytes: int) -> None:
    size = len(text.encode())
    if size > size_bytes:
        raise texts.TOO_LONG.error(at=field, name=field, size=size, bound=size_bytes)


def _model_status(record: ModelRecord, snapshot: Snapshot) -> pb.ModelStatus:
    installed = snapshot.plan.models.get(record.name)
    halt = installed.halt if installed else None
    status = pb.ModelStatus(
        name=record.name,
        state=f"MODEL_STATE_{_state(record, halt)}",
        halt=_halt_info(halt),
        desired=pb.DesiredState(
            model=record.name,
            split=[pb.Share(version=record.wanted, role="ROLE_STABLE", weight_bp=10_000)],
            position_scale=installed.position_scale if installed else 1.0,
            halt=_halt_info(halt),
        ),
        failed=[
            pb.FailedChange(
                version=change.version,
                code=change.error.code,
                message=change.error.message,
                at_unix_ns=change.at_unix_ns,
                attempts=change.attempts,
            )
            for change in record.failed.values()
        ],
        is_following=True,
    )
    if installed is None:
        return status
    roles = {segment.version: segment.role for segment in installed.split.segments}
    for number, version in installed.versions.items():
        prepared = record.prepared[number]
        status.versions.add(
            version=number,
            digest=version.digest,
            role=prediction_pb2.Role.Name(roles[number]),
            weight_bp=10_000,
            since_unix_ns=record.since_unix_ns[number],
            resident_bytes=prepared.resident_bytes,
            run_time_ns=prepared.run_time_ns,
            golden_max_error=prepared.golden_max_error or 0.0,
        )
    return status


def _state(record: ModelRecord, halt: Halt | None) -> str:
    if record.plan is None:
        return "FAILED" if record.failed else "LOADING"
    return "HALTED" if halt is not None else "SERVING"


def _halt_info(halt: Halt | None) -> pb.HaltInfo | None:
    return None if halt is None else pb.HaltInfo(reason=halt.reason, actor=halt.actor, since_unix_ns=halt.since_unix_ns)
