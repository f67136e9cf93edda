"""Both versions of a rollout side by side over the last minutes, for people: nothing is decided on it."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from mlops import histogram
from mlops.registry.rollouts import RolloutRow
from mlops.rollout.counts import SideCounts
from mlops.rollout.sums import CountedOutputs, Side, outputs_of, read_outputs, read_windows, sum_side
from mlops.tap.layout import CANARY_ROLE, COMPARED_ROLE, SHADOW_ROLE, STABLE_ROLE
from tickserve.errors import RegistryError

#: How far it looks back.
LOOK_BACK_NS = 600_000_000_000


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of answers to clients, all stages, in us, from the log; None where there were none."""

    answers: int
    p50_us: float | None
    p99_us: float | None


@dataclass(frozen=True, slots=True)
class Faults:
    """What a version made of the requests that both saw: failures, and requests that broke an output rule."""

    failures: int
    violations: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rollout's version beside the other one.

    `requests` are those that a shadow ran, too; of `pairs` rows with a signal on both sides `flips` had another sign.
    `damaged` names rows that are not as they were written, and are in none of it.
    """

    canary: Latencies
    stable: Latencies
    requests: int
    of_canary: Faults
    of_stable: Faults
    pairs: int
    flips: int
    damaged: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def read_comparison(connection: Connection, found: RolloutRow, now_ns: int) -> Comparison:
    """Both versions since the rollout began, of the last ten minutes, as far as rows are as they were written."""
    start_ns = max(found.started_ns, now_ns - LOOK_BACK_NS)
    damaged: list[RegistryError] = []
    outputs = read_outputs(connection, found.model, start_ns, now_ns, damaged.append)
    rows = read_windows(connection, found.model, start_ns, damaged.append)
    compared = Side(found.canary, COMPARED_ROLE)
    ours, theirs = sum_side(rows, compared), sum_side(rows, Side(found.stable, SHADOW_ROLE))
    pairs = outputs_of(outputs, compared)
    return Comparison(
        canary=_latencies(outputs, found.canary),
        stable=_latencies(outputs, found.stable),
        requests=int(ours.requests.sum()),
        of_canary=_faults(ours),
        of_stable=_faults(theirs),
        pairs=0 if pairs is None else int(pairs.pairs.sum()),
        flips=0 if pairs is None else int(pairs.flips.sum()),
        damaged=tuple(each.message for each in damaged),
    )


def _latencies(outputs: tuple[CountedOutputs, ...], version: int) -> Latencies:
    total = outputs_of(outputs, Side(version, STABLE_ROLE), Side(version, CANARY_ROLE))
    if total is None:
        return Latencies(0, None, None)
    return Latencies(total.answers, _us(total, 0.5), _us(total, 0.99))


def _us(outputs: CountedOutputs, q: float) -> float | None:
    found = histogram.quantile_ns(outputs.total_ns, q)
    return None if found is None else found / 1_000


def _faults(side: SideCounts) -> Faults:
    return Faults(int(side.failures.sum()), int(side.violations.sum()))
