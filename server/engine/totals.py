"""What a model has done, over all of its versions: counts add up, and histograms merge, without loss."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from operator import add
from typing import TypeVar

from server.engine.base import Counters, ModelCounters, StageCounts, VersionCounters
from server.plan import Role

_Key = TypeVar("_Key", bound=Hashable)
_Part = VersionCounters | ModelCounters


def total(model: str, parts: Iterable[_Part]) -> ModelCounters:
    """The sum of `parts`, all of which are of `model`."""
    parts = list(parts)
    stages: dict[str, StageCounts] = {}
    for part in parts:
        for stage, counts in part.stages.items():
            before = stages.get(stage)
            stages[stage] = counts if before is None else merge(before, counts)
    return ModelCounters(
        model=model,
        stages=stages,
        answered=sum(part.answered for part in parts),
        rows=sum(part.rows for part in parts),
        slow=sum(part.slow for part in parts),
        errors=add_up(part.errors for part in parts),
        rule_violations=add_up(part.rule_violations for part in parts),
    )


def model_totals(counters: Counters) -> list[ModelCounters]:
    """The total of every model since the process started, whether its versions are counted apart or not any more.

    What shadows did is left out: their copies are no requests.
    """
    parts: dict[str, list[_Part]] = {item.model: [item] for item in counters.folded}
    for item in counters.versions:
        if item.role is Role.SHADOW:
            continue
        parts.setdefault(item.model, []).append(item)
    return [total(model, of_model) for model, of_model in parts.items()]


def merge(one: StageCounts, other: StageCounts) -> StageCounts:
    """Both histograms in one."""
    return StageCounts(list(map(add, one.counts, other.counts)), one.sum_ns + other.sum_ns)


def add_up(parts: Iterable[Mapping[_Key, int]]) -> dict[_Key, int]:
    """The sum by key."""
    totals: Counter[_Key] = Counter()
    for part in parts:
        totals.update(part)
    return dict(totals)
