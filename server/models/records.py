"""What the reconciler knows of each model, as frozen values, and what of it is told to others."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from server.engine import Prepared
from server.models.loading import Loaded
from server.models.local import Mark, Overrides
from server.models.served import LastServed
from server.models.values import ModelDesired, Target, VersionRef
from server.plan import ModelPlan, Plan
from tickserve.errors import TickserveError


@dataclass(frozen=True, slots=True)
class FailedChange:
    """A version that could not be served, and why; the plan before it stayed."""

    version: str
    error: TickserveError
    at_unix_ns: int
    attempts: int
    fingerprint: Hashable
    retry_at: float


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model: what is meant, what is installed (if anything) since when, what is loaded, and what failed.

    `last` is what an earlier process served; it counts until something is installed. `went_back` says that this is
    what was installed first. `warm` is the version to load again behind it, to go back to. `misfits` are loaded, and
    cannot be what they are meant to be. `reloaded` are versions of the plan that are loaded again for other rules;
    they count once all of a target has them.
    """

    name: str
    desired: ModelDesired
    target: Target | None = None
    previous: str = ""
    plan: ModelPlan | None = None
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    since_unix_ns: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, FailedChange] = field(default_factory=dict)
    last: LastServed | None = None
    went_back: bool = False
    warm: VersionRef | None = None
    misfits: Mapping[str, FailedChange] = field(default_factory=dict)
    reloaded: Mapping[str, Loaded] = field(default_factory=dict)

    def loaded_for(self, version: str, target: Target) -> Loaded | None:
        """The version as it is loaded for a target: with its rules, where it is loaded again for them."""
        again = self.reloaded.get(version)
        return again if again is not None and again.rules == target.rules else self.loaded.get(version)

    @property
    def faults(self) -> Mapping[str, FailedChange]:
        """Every version that is not what it should be, with the reason."""
        return {**self.misfits, **self.failed}

    @property
    def wanted(self) -> str:
        """The version that should answer most."""
        return self.desired.wanted

    @property
    def prepared(self) -> Mapping[str, Prepared]:
        """What was measured of each version that is loaded."""
        return {version: loaded.prepared for version, loaded in self.loaded.items()}

    @property
    def why(self) -> str:
        """Why there is no version: the newest failure, or nothing while it is loading."""
        failed = self.failed.get(self.wanted) or next(iter(self.failed.values()), None)
        return "" if failed is None else failed.error.message


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that status tells, at one moment."""

    plan: Plan
    models: Sequence[ModelRecord]
    overrides: Overrides
    loading: Collection[tuple[str, str]]
    source_name: str
    source_revision: int
    source_age_s: float
    source_error: str

    def is_behind(self, record: ModelRecord) -> bool:
        """Whether the model serves anything but what is wanted first."""
        return record.target is None or not record.desired.targets or record.target != record.desired.targets[0]


def known_versions(record: ModelRecord) -> set[str]:
    """Every version that is wanted, or was served last."""
    named = {version for target in record.desired.targets for version in (*target.required, *target.optional)}
    return named | ({*record.last.target.required} if record.last else set())


def find_ref(record: ModelRecord, version: str) -> VersionRef | None:
    """Where a version is found: in the source, else where it was found when it was served last."""
    found = record.desired.versions.get(version)
    last = record.last.versions.get(version) if record.last is not None else None
    if found is None or last is None or found.digest:
        return found or last
    is_wanted = any(version in (*target.required, *target.optional) for target in record.desired.targets)
    # Where it is only wanted because it was served, it must be that very package.
    return found if is_wanted else replace(found, digest=last.digest)


def refused_versions(record: ModelRecord, overrides: Overrides) -> Mapping[str, Mark]:
    """The versions that are not served here for now."""
    marks = overrides.refused.get(record.name, {})
    revision = record.desired.revision
    return {
        version: mark for version, mark in marks.items() if not mark.until_revision or revision < mark.until_revision
    }


def decided_here(record: ModelRecord, overrides: Overrides) -> str:
    """What was decided at this server that keeps a model from what is desired; empty where nothing was."""
    held = overrides.held.get(record.name)
    if held is not None:
        return f"held by {held.actor}: {held.reason or 'no reason given'}"
    wanted = record.desired.targets[0] if record.desired.targets else Target(())
    for version, mark in refused_versions(record, overrides).items():
        if version in (*wanted.required, *wanted.optional):
            return f"version {version} was taken out by {mark.actor}: {mark.reason}"
    return ""


def choices(record: ModelRecord, overrides: Overrides) -> tuple[Target, ...]:
    """What the model should serve, best first, with what was decided here taken into account."""
    refused = refused_versions(record, overrides)
    if record.name in overrides.held:
        kept = record.target or (record.last.target if record.last else None)
        if kept is not None:
            return (kept,)
    wanted = [_without(target, refused) for target in record.desired.targets if not refused.keys() & {*target.required}]
    if record.target is None and record.last is not None and not refused.keys() & {*record.last.target.required}:
        # After a restart: what was served before is better than nothing.
        wanted.append(_without(record.last.target, refused))
    elif not wanted and record.target is not None:
        wanted.append(_without(record.target, refused))
    return tuple(dict.fromkeys(wanted))


def _without(target: Target, refused: Collection[str]) -> Target:
    client_pins = tuple((version, clients) for version, clients in target.client_pins if version not in refused)
    shadow = None if target.shadow is not None and target.shadow.version in refused else target.shadow
    return replace(
        target,
        pins=target.pins - frozenset(refused),
        client_pins=client_pins,
        shadow=shadow,
        fallback="" if target.fallback in refused else target.fallback,
    )


def following(options: Sequence[Target], installed: Target | None) -> Sequence[Target]:
    """What remains to be tried once the first option has failed: what is installed stays, whatever lies between."""
    rest = options[1:]
    places = (place for place, target in enumerate(rest) if installed is not None and target.shares == installed.shares)
    return rest[next(places, 0) :]


def warm_after(last: LastServed | None, target: Target, refused: Collection[str]) -> VersionRef | None:
    """The version to load again behind the first target that is installed: what was served last where that is another
    one, else what was kept warm behind it.
    """
    if last is None:
        return None
    version = last.target.stable if last.target.stable not in target.required else last.previous
    return None if version in refused or version in target.required else last.versions.get(version)


def last_served(record: ModelRecord) -> LastServed | None:
    """What to keep for the next process; of a model that serves nothing yet, what it served last."""
    if record.target is None:
        return record.last
    refs = {
        version: VersionRef(version, record.loaded[version].plan.digest.hex(), record.loaded[version].place)
        for version in (*record.target.required, *((record.previous,) if record.previous else ()))
    }
    if record.warm is not None:
        return LastServed(record.target, {**refs, record.warm.version: record.warm}, record.warm.version)
    return LastServed(record.target, refs, record.previous)
