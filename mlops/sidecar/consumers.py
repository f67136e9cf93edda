"""Who the log is for: consumers, where each of them got to, and how they go on after a restart."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import structlog

from mlops.prediction_log.batch import Batch
from mlops.prediction_log.outcomes import StoredOutcome
from mlops.sidecar.checkpoints import read_checkpoint, write_checkpoint

_log = structlog.get_logger()
_PAGE = 10_000


class Consumer(Protocol):
    """Takes every record of the log in the order of the log.

    Invariant: what it holds is a function of the batches that were added, and not of how the log was cut into them.
    """

    name: str

    def add(self, batch: Batch) -> None:
        """Takes records of one version."""

    def checkpoint(self) -> bytes:
        """Everything it holds, as of the last `add`."""

    def restore(self, data: bytes) -> None:
        """Takes up what `checkpoint` gave. Raises ValueError where it cannot read that; it begins anew then."""


@runtime_checkable
class Exporter(Protocol):
    """A consumer that has something for Prometheus."""

    def collect(self) -> Iterable[Any]:
        """Metric families, on any thread."""


@runtime_checkable
class TakesOutcomes(Protocol):
    """A consumer that takes what came of predictions too."""

    def add_outcomes(self, outcomes: Sequence[StoredOutcome]) -> None:
        """Takes outcomes in their order, once it has every record that was in the log before them."""


@runtime_checkable
class Ticking(Protocol):
    """A consumer that acts on time too, and not only on records."""

    def tick(self) -> None:
        """Called between batches, about ten times a second, on the thread of `add`."""


@dataclass(slots=True)
class _Place:
    """Where one consumer got to. `source` reads the log for it while it is behind, and is None while it is not."""

    consumer: Consumer
    reached: int = -1
    saved: int = -1
    source: Iterator[Batch] | None = None
    highest: int = -1
    order: int = -1
    saved_order: int = -1


@runtime_checkable
class Closing(Protocol):
    """A consumer that holds something beyond memory."""

    def close(self) -> None:
        """Called once, at the end of the process."""


@runtime_checkable
class Holding(Protocol):
    """A consumer that needs the counters of servers that have ended, for a while."""

    def is_through(self, boot: Path) -> bool:
        """Whether those of a boot are needed no more; on the thread of `add`."""


class Outcomes(Protocol):
    """Where outcomes are kept."""

    @property
    def last_order(self) -> int:
        """The order of the last one."""

    def read(self, after_order: int) -> Iterator[StoredOutcome]:
        """Those behind an order, in their order."""


class Feed:
    """Hands the log to consumers, and keeps their checkpoints.

    One that is behind, such as after a restart, reads what it lacks from the log, a piece at a time, while the log
    goes on; then it is given what is new. One that fails is left out from then on: its checkpoint stays where it was,
    so that it goes on from there after a restart, and the log goes on without it. Not for several threads.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    read : callable
        The batches of the log after a position, in its order, up to where it ends now.
    position : int
        The position that the next record gets.
    """

    def __init__(
        self,
        folder: Path,
        consumers: Sequence[Consumer],
        read: Callable[[int], Iterator[Batch]],
        position: int,
        outcomes: Outcomes | None = None,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._outcomes = outcomes
        self._read = read
        self._last = position - 1
        self.failed: dict[str, str] = {}
        self._places = [_Place(consumer) for consumer in consumers]
        for place in self._places:
            self._restore(place)

    @property
    def needed_from(self) -> int:
        """Records from this position on are needed by the checkpoint of somebody."""
        return min((place.saved for place in self._places), default=self._last) + 1

    @property
    def needed_order(self) -> int:
        """Outcomes from this order on are needed by the checkpoint of somebody."""
        takers = [place.saved_order for place in self._places if isinstance(place.consumer, TakesOutcomes)]
        return min(takers, default=1 << 62) + 1

    @property
    def lags(self) -> dict[str, int]:
        """Records in the log that a consumer has not seen yet."""
        return {place.consumer.name: self._last - place.reached for place in self._places}

    def add(self, batches: Sequence[Batch]) -> None:
        """Hands on what has just become durable, to those that have everything before it."""
        level = [place for place in self._living() if place.source is None and place.reached == self._last]
        for batch in batches:
            self._last = max(self._last, int(batch.position[-1]))
            for place in level:
                self._give(place, batch)
        for place in level:
            place.reached = self._last

    def catch_up(self, budget_s: float = 0.05) -> bool:
        """Gives those that are behind some of what they lack, a batch at least; True once nobody is behind."""
        until = time.monotonic() + budget_s
        behind = [place for place in self._living() if place.reached < self._last]
        while behind:
            for place in behind:
                self._step(place)
            behind = [place for place in behind if place.reached < self._last and self._is_living(place)]
            if time.monotonic() >= until:
                break
        self._hand_outcomes()
        return not behind

    def tick(self) -> None:
        """Lets those act that act on time."""
        for place in self._living():
            consumer = place.consumer
            if isinstance(consumer, Ticking):
                with self._guarded(consumer):
                    consumer.tick()

    def save(self) -> None:
        """Writes the checkpoints. Raises OSError where there is no room; the ones before stay."""
        for place in self._living():
            # In the midst of the log it has records of one version that lie behind those of another it has not.
            is_same = (place.saved, place.saved_order) == (place.reached, place.order)
            if place.source is not None or is_same:
                continue
            data = None
            with self._guarded(place.consumer):
                data = place.consumer.checkpoint()
            if data is not None:
                write_checkpoint(self._path(place.consumer), place.reached, place.order, data)
                place.saved, place.saved_order = place.reached, place.order

    def _step(self, place: _Place) -> None:
        if place.source is None:
            place.source, place.highest = self._read(place.reached), place.reached
        batch = None
        # A log that cannot be read here stops this consumer, and not the log.
        with self._guarded(place.consumer):
            batch = next(place.source, None)
        if not self._is_living(place):
            return
        if batch is None:
            # Whole frames were read, so it has everything up to the highest position.
            is_gap = place.highest == place.reached
            place.source, place.reached = None, self._last if is_gap else place.highest
            return
        place.highest = max(place.highest, int(batch.position[-1]))
        self._give(place, batch)

    def _hand_outcomes(self) -> None:
        """Gives new outcomes to those that have all of the log that there was when they came."""
        if self._outcomes is None:
            return
        for place in self._living():
            consumer = place.consumer
            if not isinstance(consumer, TakesOutcomes) or place.reached < self._last:
                continue
            if place.order >= self._outcomes.last_order:
                continue
            # Outcomes that cannot be read stop this consumer, and not the log.
            with self._guarded(consumer):
                found = self._outcomes.read(place.order)
                while page := list(itertools.islice(found, _PAGE)):
                    consumer.add_outcomes(page)
                    place.order = page[-1].order

    def _is_living(self, place: _Place) -> bool:
        return place.consumer.name not in self.failed

    def _living(self) -> list[_Place]:
        return [place for place in self._places if self._is_living(place)]

    def _give(self, place: _Place, batch: Batch) -> None:
        if self._is_living(place):
            with self._guarded(place.consumer):
                place.consumer.add(batch)

    @contextlib.contextmanager
    def _guarded(self, consumer: Consumer) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the log must go on; it is kept, logged and exported
            self.failed[consumer.name] = f"{type(error).__name__}: {error}"
            _log.exception("consumer_failed", consumer=consumer.name)

    def _restore(self, place: _Place) -> None:
        consumer = place.consumer
        try:
            position, order, data = read_checkpoint(self._path(consumer))
            if position > self._last:
                raise ValueError(f"its position {position} is not in the log, which ends at {self._last}")
            consumer.restore(data)
            place.reached = place.saved = position
            place.order = place.saved_order = order
        except FileNotFoundError:
            return
        except (ValueError, OSError) as error:
            # It begins anew, from all that the log still has.
            _log.error("checkpoint_unusable", consumer=consumer.name, error=str(error))

    def _path(self, consumer: Consumer) -> Path:
        return self._folder / f"{consumer.name}.checkpoint"
