"""What an engine is: it executes the installed plan, and is changed only by installing another one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.plan import Plan, Role, VersionPlan
from server.tap import Tap

#: Stages of one request, in order; `total` spans them all.
STAGES = ("wait", "decode", "validate_input", "run", "validate_output", "encode", "total")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that is loaded, warmed and checked, and may be installed; all figures were measured on this machine.

    `shadow_bytes` is what it takes at most beside `resident_bytes` where a plan makes it a shadow; 0 where nothing.
    """

    version: VersionPlan
    run_time_ns: int
    resident_bytes: int
    golden_max_error: float | None
    load_seconds: float
    shadow_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StageCounts:
    """A copy of one histogram: counts by bucket (mlops.histogram) and the sum of durations in nanoseconds."""

    counts: Sequence[int]
    sum_ns: int


@dataclass(frozen=True, slots=True)
class VersionCounters:
    """What one version has done in one role since the process started."""

    model: str
    version: str
    role: Role
    stages: Mapping[str, StageCounts]
    answered: int
    rows: int
    slow: int
    errors: Mapping[str, int]
    rule_violations: Mapping[tuple[str, str], int]
    last_answer_unix_ns: int


@dataclass(frozen=True, slots=True)
class ModelCounters:
    """What several versions of one model have done together, in whichever role."""

    model: str
    stages: Mapping[str, StageCounts]
    answered: int
    rows: int
    slow: int
    errors: Mapping[str, int]
    rule_violations: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class RunCounts:
    """How one version has done for clients, in all roles that are counted apart: enough to tell whether it does well.

    What it did as a shadow is left out.
    """

    answered: int
    rows: int
    errors: Mapping[str, int]
    run: StageCounts


@dataclass(frozen=True, slots=True)
class Counters:
    """Everything an engine counts. `refused` counts by (model or "", reason) what reached no version.

    `versions` are those of the plan and those that left it some minutes ago at most, the last of each model; `folded`
    are the sums of all others that left it, by model, and none of it is in `versions`. `worker_busy_ns` is how long
    each thread that serves has run since the start, waiting left out. `shadow_dropped` counts, by model and version of
    the shadow, the copies that found no room; `shadow_queued` are those that wait now.
    """

    versions: Sequence[VersionCounters]
    folded: Sequence[ModelCounters]
    refused: Mapping[tuple[str, str], int]
    in_flight: int
    loop_lag_seconds: float
    faults: int
    worker_busy_ns: Sequence[int]
    shadow_dropped: Mapping[tuple[str, str], int] = field(default_factory=dict)
    shadow_queued: int = 0


class Engine(Protocol):
    """One implementation of the data plane. Every method may be called from any thread but the engine's own."""

    name: str
    #: Threads that record requests: those that answer them, and that of shadows.
    producers: int

    def open_tap(self, tap: Tap) -> None:
        """Records requests there. Before `start`, and at most once."""

    def start(self) -> Sequence[str]:
        """Opens the listeners and returns their addresses, with the ports that were chosen where 0 was asked.

        Raises ConfigurationError where one cannot be bound.
        """

    def prepare(self, version: VersionPlan) -> Prepared:
        """Loads, warms and checks a version, on the calling thread; slow. Raises PackageError; never half-loads."""

    def install(self, plan: Plan) -> None:
        """Makes `plan` the one that requests read, at once. Each of its versions must be prepared.

        A version is served by the rules with which the plan names it; of what was prepared alike the last counts.
        """

    def discard(self, version: VersionPlan) -> None:
        """Forgets a version that was prepared and that no plan has named; anything else stays."""

    def counters(self) -> Counters:
        """A copy of all counters; never blocks a request."""

    def runs(self, versions: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], RunCounts]:
        """How some versions have done, by model and version; those that are not counted apart are absent.

        Costs by what is asked for, where `counters` costs by all that is counted. Never blocks a request.
        """

    def take_faults(self) -> Sequence[str]:
        """Tracebacks of unexpected exceptions since the last call, for the log; bounded."""

    def is_alive(self, within_s: float) -> bool:
        """Whether the data plane makes progress; waits for a sign of it for up to `within_s` seconds."""

    def has_died(self) -> bool:
        """Whether a thread that serves has ended though nobody told it to; then the process must end."""

    def set_ready(self, *, is_ready: bool) -> None:
        """What health checks and ServerReady say."""

    def stop(self, grace_s: float) -> None:
        """Refuses new requests, answers those in flight for up to `grace_s` seconds, and ends."""
