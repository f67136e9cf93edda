"""Which of several servers to ask, and when a call that failed may be made again at another.

The one rule: a request goes to another server only where the first certainly did not run it. So a prediction runs at
most once, whatever breaks, unless hedging was asked for. Effects are in failover_sync.py and failover_aio.py; here it
is decided.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from google.protobuf.message import DecodeError

from tickserve.client.core import PREDICT
from tickserve.client.failure import REASON_KEY, is_unexecuted
from tickserve.client.transport import CallError
from tickserve.errors import Code, ConfigurationError, Reason
from tickserve.wire import health_pb2

HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
HEALTH_REQUEST = health_pb2.HealthCheckRequest().SerializeToString()
#: Pause before a server's health is asked for again, doubled from the first to the last.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 1.0
#: How long a new stream waits for a server that says that it serves.
STREAM_S = 1.0

# A server that just failed goes to the end of the line for so long, doubled while it goes on.
_SUSPECT_S, _MAX_SUSPECT_S = 0.25, 8.0
# How long the first calls of a client wait for a server that is preferred to one that is known to serve.
_PATIENCE_S = 0.05
# What another server may say otherwise about. HALTED is not among them: an operator stopped the model on purpose.
_ELSEWHERE = frozenset({Reason.DRAINING.value, Reason.LOADING.value, Reason.OVERLOADED.value})


class Health(IntEnum):
    """What a server last said of itself; the less the better."""

    SERVING = 0
    #: It has no health service: calls will tell.
    UNWATCHED = 1
    #: It was not heard of yet.
    UNKNOWN = 2
    NOT_SERVING = 3
    UNREACHABLE = 4


_USABLE = Health.UNKNOWN


@dataclass(frozen=True)
class Hedge:
    """Ask a second server where the first has not answered within `after_s`: both may execute the request."""

    after_s: float


def make_hedge(after_s: float | None, *, may_execute_twice: bool, servers: int) -> Hedge | None:
    """The hedge that a caller asks for. Raises ConfigurationError unless it says that it knows what that means."""
    if after_s is None:
        if may_execute_twice:
            raise ConfigurationError("may_execute_twice means something only with hedge_after_s", field="hedge_after_s")
        return None
    if not 0 < after_s < float("inf"):
        raise ConfigurationError(f"hedge_after_s is {after_s!r}; expected seconds above 0", field="hedge_after_s")
    if not may_execute_twice:
        raise ConfigurationError(
            "hedge_after_s sends a request to a second server while the first may be executing it; where that does no "
            "harm say may_execute_twice=True",
            field="may_execute_twice",
        )
    if servers < 2:
        raise ConfigurationError("hedge_after_s needs two addresses or more", field="hedge_after_s")
    return Hedge(after_s)


class _Endpoint:
    def __init__(self, address: str) -> None:
        self.address = address
        self.health = Health.UNKNOWN
        self.misses = 0
        self.suspect_until = 0.0


class Endpoints:
    """What is known of the servers, in the caller's order of preference.

    Every method is a few steps on plain attributes that all threads may take at any time: what it reads may be old by a
    moment, which costs a refusal and another attempt.
    """

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoints = [_Endpoint(address) for address in addresses]
        self._clock = clock
        self._patient_until: float | None = None

    def address(self, index: int) -> str:
        """Of one server."""
        return self._endpoints[index].address

    def heard(self, index: int, health: Health) -> None:
        """A server spoke, or fell silent. One that says anew that it serves is believed."""
        endpoint = self._endpoints[index]
        if health is Health.SERVING and endpoint.health is not Health.SERVING:
            endpoint.misses, endpoint.suspect_until = 0, 0.0
        endpoint.health = health

    def next(self, tried: set[int]) -> int | None:
        """Whom to ask: those that serve before those that may, and each in the caller's order.

        Servers that say no, or are away, are asked only where nobody else was.
        """
        now = self._clock()
        untried = [index for index in range(len(self._endpoints)) if index not in tried]
        usable = [index for index in untried if self._endpoints[index].health <= _USABLE]
        if not usable and all(self._endpoints[index].health > _USABLE for index in tried):
            usable = untried
        return min(usable, key=lambda index: self._rank(index, now), default=None)

    def first(self) -> int:
        """Whom to ask where nobody was."""
        index = self.next(set())
        if index is None:
            raise AssertionError("some server is next where none was tried")
        return index

    def wait_s(self, tried: set[int], left_s: float) -> float:
        """How long to wait for word from a server before the next one is asked; 0 where it is clear which.

        At first for those that are preferred, for a moment; and where none of the others is known to serve, for those
        that have not been heard of.
        """
        now = self._clock()
        if self._patient_until is None:
            self._patient_until = now + _PATIENCE_S
        healths = [each.health for index, each in enumerate(self._endpoints) if index not in tried]
        if Health.UNKNOWN not in healths:
            return 0.0
        is_one_good = min(healths) < Health.UNKNOWN
        if not is_one_good:
            return left_s
        first_good = next(place for place, health in enumerate(healths) if health < Health.UNKNOWN)
        is_preferred_good = first_good < healths.index(Health.UNKNOWN)
        return 0.0 if is_preferred_good else max(0.0, min(left_s, self._patient_until - now))

    def took(self, index: int, outcome: bytes | CallError) -> None:
        """Notes how a call went, so that the next ones go where it is better before health says so."""
        endpoint = self._endpoints[index]
        if not isinstance(outcome, CallError) or not _is_about_server(outcome):
            endpoint.misses, endpoint.suspect_until = 0, 0.0
            return
        if endpoint.suspect_until > self._clock():
            # All that was under way when it failed is one failure.
            return
        endpoint.misses += 1
        pause_s = min(_SUSPECT_S * 2 ** min(endpoint.misses - 1, 10), _MAX_SUSPECT_S)
        endpoint.suspect_until = self._clock() + pause_s

    def _rank(self, index: int, now: float) -> tuple[bool, bool, int]:
        endpoint = self._endpoints[index]
        is_known = endpoint.health in (Health.SERVING, Health.UNWATCHED)
        return endpoint.suspect_until > now, not is_known, index


@dataclass(frozen=True, slots=True)
class Ask:
    """Make the call at this server, within so many seconds."""

    index: int
    left_s: float


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until something is heard of a server, for so many seconds at most."""

    left_s: float


Attempts: TypeAlias = Generator[Ask | Await, bytes | CallError | None, bytes]


def attempts(endpoints: Endpoints, method: str, timeout_s: float, tried: set[int]) -> Attempts:
    """The steps of one call at one server after the other, until one answers or what failed must not be done again.

    Each server is asked at most once; `tried` are those that were, and may be shared by two that hedge. Returns the
    answer, raises CallError. Every attempt counts against the one deadline.
    """
    end = time.monotonic() + timeout_s
    story: list[str] = []
    last: CallError | None = None
    while True:
        while (left_s := end - time.monotonic()) > 0 and (wait_s := endpoints.wait_s(tried, left_s)) > 0:
            yield Await(wait_s)
        index, left_s = endpoints.next(tried), end - time.monotonic()
        if index is None:
            raise _retold(last, story) if last is not None else none_left()
        if left_s <= 0:
            raise _late(story)
        tried.add(index)
        outcome = yield Ask(index, left_s)
        if outcome is None:
            raise AssertionError("a call brings an answer or an error")
        endpoints.took(index, outcome)
        if isinstance(outcome, bytes):
            return outcome
        story.append(f"{endpoints.address(index)}: {outcome.message}")
        if not may_go_elsewhere(method, outcome):
            raise _retold(outcome, story)
        last = outcome


def may_go_elsewhere(method: str, failed: CallError) -> bool:
    """Whether a call that failed may be made at another server.

    A prediction only where the model certainly did not run; what describes may always, since it changes nothing.
    """
    if method != PREDICT:
        return failed.code is Code.UNAVAILABLE
    if not is_unexecuted(failed):
        return False
    reason = failed.trailers.get(REASON_KEY)
    return reason in _ELSEWHERE if reason else failed.code is Code.UNAVAILABLE


def less_certain(first: CallError, second: CallError) -> CallError:
    """Of two failures of one hedged request the one to report: it says `executed` where either may have."""
    return second if is_unexecuted(first) else first


def none_left() -> CallError:
    """How a hedge fails for which there is no other server."""
    return CallError(Code.UNAVAILABLE, "no other server", never_left=True)


def read_health(message: bytes) -> Health:
    """What a message of Watch says."""
    try:
        status = health_pb2.HealthCheckResponse.FromString(message).status
    except DecodeError:
        return Health.UNWATCHED
    return Health.SERVING if status == health_pb2.HealthCheckResponse.SERVING else Health.NOT_SERVING


def health_after(failed: CallError | None) -> Health:
    """What the end of Watch says: there is no such service, or the server is gone."""
    return Health.UNWATCHED if failed is not None and failed.code is Code.UNIMPLEMENTED else Health.UNREACHABLE


def _is_about_server(failed: CallError) -> bool:
    """Whether others should be asked first for a while; a refusal of one request is not about the server."""
    reason = failed.trailers.get(REASON_KEY)
    if reason:
        return reason == Reason.DRAINING.value
    return failed.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


def _retold(failed: CallError, story: list[str]) -> CallError:
    """The last failure, whose text says what was tried before it."""
    return CallError(failed.code, "; ".join(story), trailers=failed.trailers, never_left=failed.never_left)


def _late(story: list[str]) -> CallError:
    tried = f"; {'; '.join(story)}" if story else ""
    return CallError(Code.DEADLINE_EXCEEDED, f"no time was left to ask a server that serves{tried}", never_left=True)
