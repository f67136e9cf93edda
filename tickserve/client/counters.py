"""Typed values of a server's counters."""

from dataclasses import dataclass

from tickserve.client.answer import ROLES
from tickserve.prediction import Role
from tickserve.v1 import control_pb2 as pb


@dataclass(frozen=True, slots=True)
class StageHistogram:
    """Durations of one stage: counts by bucket, as docs/formats/histogram.md lays them out, and their sum."""

    model: str
    version: str
    role: Role
    stage: str
    counts: tuple[int, ...]
    sum_ns: int


@dataclass(frozen=True, slots=True)
class Counter:
    """One monotonic count; `label` is what is counted apart, such as a reason or a rule."""

    name: str
    model: str
    version: str
    role: Role
    label: str
    value: int


@dataclass(frozen=True, slots=True)
class Counters:
    """All counts of one server at one moment."""

    histograms: tuple[StageHistogram, ...]
    counters: tuple[Counter, ...]


def to_counters(response: pb.CountersResponse) -> Counters:
    """The typed value of a CountersResponse."""
    return Counters(
        histograms=tuple(
            StageHistogram(
                model=item.model,
                version=item.version,
                role=ROLES.get(item.role, Role.UNSPECIFIED),
                stage=item.stage,
                counts=tuple(item.counts),
                sum_ns=item.sum_ns,
            )
            for item in response.histograms
        ),
        counters=tuple(
            Counter(
                name=item.name,
                model=item.model,
                version=item.version,
                role=ROLES.get(item.role, Role.UNSPECIFIED),
                label=item.label,
                value=item.value,
            )
            for item in response.counters
        ),
    )
