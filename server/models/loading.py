"""Loading versions beside serving: a bounded number at once, each within its time."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from server.engine import Prepared
from server.models.values import RuleChange
from server.plan import VersionPlan
from tickserve.errors import Code, ControlError, PackageError, TickserveError

_log = structlog.get_logger()
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that is loaded, the rules that it was loaded with, and where it was found.

    `held_against` is the digest of the version whose schema it was compared with; empty where there was none.
    """

    plan: VersionPlan
    prepared: Prepared
    rules: tuple[RuleChange, ...] = ()
    place: str = ""
    held_against: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How the loading of one version ended."""

    key: Key
    loaded: Loaded | None = None
    error: TickserveError | None = None


Job = Callable[[], Loaded]


class Loader(Protocol):
    """Runs the jobs that load versions."""

    def start(self, key: Key, job: Job) -> bool:
        """Begins to load. False where this version is being loaded already, or by an earlier try that never ended."""

    def take(self) -> Sequence[Result]:
        """What has ended since the last call; those that ran out of time too."""

    @property
    def loading(self) -> frozenset[Key]:
        """What is being loaded and has not run out of time."""


class InlineLoader:
    """Loads on the thread that asks, one after the other."""

    loading: frozenset[Key] = frozenset()

    def __init__(self) -> None:
        self._results: list[Result] = []

    def start(self, key: Key, job: Job) -> bool:
        """Loads at once."""
        self._results.append(_run(key, job))
        return True

    def take(self) -> Sequence[Result]:
        """What was loaded since the last call."""
        results, self._results = self._results, []
        return results


class ThreadLoader:
    """Loads on threads of its own. What runs out of time is given up: its thread goes on, and its result is dropped.

    Parameters
    ----------
    threads : int
        How many load at once.
    timeout_s : float
        How long one may take from its beginning, in seconds.
    wake : callable
        Called on another thread when there is something to take.
    drop : callable
        Takes what was loaded too late.
    """

    def __init__(
        self,
        threads: int,
        timeout_s: float,
        *,
        wake: Callable[[], object],
        drop: Callable[[VersionPlan], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = threads
        self._timeout_s = timeout_s
        self._wake = wake
        self._drop = drop
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[Key, Job] = {}
        self._running: dict[Key, float] = {}
        self._given_up: set[Key] = set()
        self._ended: dict[Key, Result] = {}

    def start(self, key: Key, job: Job) -> bool:
        """Begins to load as soon as a thread is free."""
        with self._lock:
            if any(key in place for place in (self._waiting, self._running, self._ended, self._given_up)):
                return False
            self._waiting[key] = job
            self._fill()
        return True

    def take(self) -> Sequence[Result]:
        """What has ended, well or badly, or has run out of time."""
        with self._lock:
            results = list(self._ended.values())
            self._ended.clear()
            now = self._clock()
            for key in [key for key, since in self._running.items() if now - since >= self._timeout_s]:
                del self._running[key]
                self._given_up.add(key)
                results.append(Result(key, error=self._too_late(key)))
            self._fill()
        return results

    @property
    def loading(self) -> frozenset[Key]:
        """What waits for a thread, runs, or has ended and was not taken yet."""
        with self._lock:
            return frozenset((*self._waiting, *self._running, *self._ended))

    def _fill(self) -> None:
        """Starts what may run. Call with the lock held."""
        while self._waiting and len(self._running) < self._threads:
            key = next(iter(self._waiting))
            job = self._waiting.pop(key)
            self._running[key] = self._clock()
            # A daemon: the end of the process waits for no load.
            threading.Thread(target=self._load, args=(key, job), name="load", daemon=True).start()

    def _load(self, key: Key, job: Job) -> None:
        result = _run(key, job)
        with self._lock:
            is_late = key in self._given_up
            self._given_up.discard(key)
            self._running.pop(key, None)
            if not is_late:
                self._ended[key] = result
            self._fill()
        if is_late and result.loaded is not None:
            self._drop(result.loaded.plan)
        self._wake()

    def _too_late(self, key: Key) -> TickserveError:
        model, version = key
        return ControlError(
            f"version {version} of model {model!r} was not loaded within {self._timeout_s:g} s; it is tried again once "
            "that load has ended",
            code=Code.DEADLINE_EXCEEDED,
        )


def _run(key: Key, job: Job) -> Result:
    model, version = key
    try:
        return Result(key, loaded=job())
    except TickserveError as error:
        return Result(key, error=error)
    except MemoryError:
        text = f"version {version} of model {model!r} cannot be loaded: memory ran out"
        return Result(key, error=ControlError(text, code=Code.RESOURCE_EXHAUSTED))
    except BaseException as error:  # noqa: BLE001 - one bad model must not end the others, whatever it does to its thread
        _log.exception("load_fault", model=model, version=version)
        text = f"version {version} of model {model!r} cannot be loaded: {type(error).__name__}: {error}"
        return Result(key, error=PackageError(text))
