"""What becomes of one model's record when something happens to it: pure functions, without effects."""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

from server.models.loading import Loaded
from server.models.planning import misfits, model_plan
from server.models.records import FailedChange, ModelRecord, known_versions, warm_after
from server.models.served import LastServed
from server.models.values import ModelDesired, Target
from server.plan import Halt
from tickserve.errors import PackageError, TickserveError

_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 300.0


def adopted(found: ModelRecord | None, desired: ModelDesired, last: LastServed | None) -> ModelRecord:
    """With what is desired now; what failed and is not wanted any more is forgotten."""
    record = replace(found or ModelRecord(desired.name, desired, last=last), desired=desired)
    known = known_versions(record)
    return replace(record, failed={version: change for version, change in record.failed.items() if version in known})


def failed(record: ModelRecord, version: str, error: TickserveError, fingerprint: object, now: float) -> ModelRecord:
    """With a failure of one version, to be tried again after a time that doubles while nothing changes."""
    before = record.failed.get(version)
    attempts = 1 if before is None or before.fingerprint != fingerprint else before.attempts + 1
    delay_s = min(_FIRST_RETRY_S * 2 ** min(attempts - 1, 16), _LAST_RETRY_S)
    change = FailedChange(version, error, time.time_ns(), attempts, fingerprint, now + delay_s)
    return replace(record, failed={**record.failed, version: change})


def loaded(record: ModelRecord, version: str, found: Loaded) -> ModelRecord:
    """With a version that is loaded; one that is served by other rules counts with the next target."""
    failures = {number: change for number, change in record.failed.items() if number != version}
    is_served = record.plan is not None and version in record.plan.versions
    if is_served and record.target is not None and found.rules != record.target.rules:
        return replace(record, reloaded={**record.reloaded, version: found}, failed=failures)
    return replace(record, loaded={**record.loaded, version: found}, failed=failures)


def warmed(record: ModelRecord) -> ModelRecord:
    """With the version behind what is served, which is loaded, kept to go back to."""
    return record if record.warm is None else replace(record, previous=record.warm.version, warm=None)


def switched(record: ModelRecord, target: Target, refused: Collection[str]) -> ModelRecord:
    """With a target whose versions are loaded, and what was stable before kept warm."""
    before = record.target.stable if record.target else ""
    kept = before if before not in {target.stable, *refused} else record.previous
    previous = kept if kept in record.loaded and kept not in target.required and kept not in refused else ""
    is_first = record.target is None
    names = {*target.required, *target.optional}
    again = {name: each for name, each in record.reloaded.items() if name in names and each.rules == target.rules}
    last = record.last.target.shares if record.last is not None else None
    return replace(
        record,
        target=target,
        previous=previous,
        loaded={**record.loaded, **again},
        reloaded={name: each for name, each in record.reloaded.items() if name not in again},
        last=None,
        went_back=is_first and target.shares == last,
        warm=warm_after(record.last, target, refused) if is_first else None,
    )


def without_previous(record: ModelRecord) -> ModelRecord:
    """Without the version that is kept warm."""
    return replace(without(record, {record.previous}), previous="")


def without(record: ModelRecord, versions: Collection[str]) -> ModelRecord:
    """With these versions no longer loaded."""
    return replace(record, loaded={version: each for version, each in record.loaded.items() if version not in versions})


def unneeded(record: ModelRecord) -> Mapping[str, Loaded]:
    """What is loaded for nothing, once the model is where it should be."""
    if record.target is None:
        return {}
    needed = {*record.target.required, *record.target.optional, record.previous}
    return {version: each for version, each in record.loaded.items() if version not in needed}


def planned(record: ModelRecord, halt: Halt | None) -> ModelRecord:
    """With its part of the plan, and what of the target cannot be part of it."""
    if record.target is None:
        return replace(record, plan=None, misfits={})
    found = {}
    for version, text in misfits(record.target, record.loaded).items():
        before = record.misfits.get(version)
        if before is not None and before.error.message == text:
            found[version] = before
        else:
            found[version] = FailedChange(version, PackageError(text, field="schema"), time.time_ns(), 1, None, 0.0)
    plan = model_plan(record.name, record.target, record.previous, record.loaded, halt)
    return replace(record, plan=plan, misfits=found)


def dated(record: ModelRecord) -> ModelRecord:
    """With the time at which each version came into the plan."""
    versions = record.plan.versions if record.plan is not None else {}
    now = time.time_ns()
    return replace(record, since_unix_ns={version: record.since_unix_ns.get(version, now) for version in versions})
