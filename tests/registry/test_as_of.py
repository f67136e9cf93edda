"""As-of queries against a model that keeps the whole state of every moment."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from mlops.registry import Registry, ServerEvent
from tests.support.postgresql import Cluster
from tests.support.registry import ANN, Backend, Clock, Packages, add
from tickserve.errors import UnknownError

VERSIONS = (1, 2, 3)
SERVERS = ("s1", "s2")

seconds = st.sampled_from([-30, 0, 0, 1, 5])
version = st.sampled_from(VERSIONS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("promote"), seconds, version),
        st.tuples(st.just("rollback"), seconds),
        st.tuples(st.just("alias"), seconds, st.sampled_from(["a", "b"]), st.one_of(st.none(), version)),
        st.tuples(st.just("installed"), seconds, st.sampled_from(SERVERS), version, st.integers(-20, 20)),
        st.tuples(st.just("drained"), seconds, st.sampled_from(SERVERS), version, st.integers(-20, 20)),
        st.tuples(st.just("stopped"), seconds, st.sampled_from(SERVERS), st.integers(-20, 20)),
    ),
    max_size=20,
)


#: Back to 1 by way of 2, promoted anew, and back: 2 must not come back.
ROLLED_BACK: list[tuple[object, ...]] = [
    ("promote", 1, 1),
    ("promote", 1, 2),
    ("rollback", 1),
    ("promote", 1, 2),
    ("rollback", 1),
    ("rollback", 1),
]
#: Not shrunk: that takes Hypothesis minutes here, beyond the bound of a test, and the failure would not be told at all.
as_of_settings = settings(max_examples=40, phases=(Phase.explicit, Phase.reuse, Phase.generate))


@dataclass
class BruteForce:
    """Whole states by the moment they began, and the events of servers."""

    live: list[tuple[datetime, int | None]] = field(default_factory=list)
    aliases: list[tuple[datetime, dict[str, int]]] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    events: list[tuple[datetime, str, str, int | None]] = field(default_factory=list)

    def live_at(self, at: datetime) -> int | None:
        return next((version for began, version in reversed(self.live) if began <= at), None)

    def aliases_at(self, at: datetime) -> dict[str, int]:
        return next((state for began, state in reversed(self.aliases) if began <= at), {})

    def served_at(self, at: datetime) -> set[tuple[str, int]]:
        served: set[tuple[str, int]] = set()
        for when, event, server, version in sorted(self.events, key=lambda entry: entry[0]):
            if when > at:
                continue
            if event == "stopped":
                served = {entry for entry in served if entry[0] != server}
            elif event == "drained":
                served.discard((server, version or 0))
            else:
                served.add((server, version or 0))
        return served


def play(registry: Registry, clock: Clock, history: list[tuple[object, ...]]) -> BruteForce:
    """Plays a history on the registry and on the model."""
    model = BruteForce()
    recorded = clock.now
    for step in history:
        match step:
            case (str() as kind, int() as wait, *given):
                # A clock may go backwards: what is recorded then counts from the last recorded time on.
                now = max(recorded, clock.step(wait))
                if apply(registry, clock, model, now, kind, given):
                    recorded = now
    return model


def apply(registry: Registry, clock: Clock, model: BruteForce, now: datetime, kind: str, given: list[object]) -> bool:
    """One step on both; whether the registry has anything to record."""
    match kind, given:
        case "promote", [int() as version]:
            registry.promote("demo", version, ANN)
            if not model.stack or model.stack[-1] != version:
                model.stack.append(version)
                model.live.append((now, version))
        case "rollback", []:
            if len(model.stack) < 2:
                with pytest.raises(UnknownError):
                    registry.rollback("demo", ANN)
                return False
            registry.rollback("demo", ANN)
            model.stack.pop()
            model.live.append((now, model.stack[-1]))
        case "alias", [str() as alias, version]:
            before = dict(model.aliases[-1][1]) if model.aliases else {}
            if version == before.get(alias):
                if isinstance(version, int):
                    registry.set_alias("demo", alias, version, ANN)
                return False
            if isinstance(version, int):
                registry.set_alias("demo", alias, version, ANN)
                before[alias] = version
            else:
                registry.remove_alias("demo", alias, ANN)
                del before[alias]
            model.aliases.append((now, before))
        case (("installed" | "drained"), [str() as server, int() as version, int() as off]):
            at = clock.now + timedelta(seconds=off)
            registry.report(server, [ServerEvent(kind, at, "demo", version)], ANN)  # type: ignore[arg-type]
            model.events.append((at, kind, server, version))
        case "stopped", [str() as server, int() as off]:
            at = clock.now + timedelta(seconds=off)
            registry.report(server, [ServerEvent("stopped", at)], ANN)
            model.events.append((at, "stopped", server, None))
        case _:
            raise AssertionError((kind, given))
    return True


def fill(backend: Backend, packages: Packages) -> None:
    """What every history starts from. Making it takes longer than most histories do, so it is made once and copied."""
    with backend.open(clock=Clock()) as registry:
        for value in VERSIONS:
            add(registry, packages(value))


def check(backend: Backend, history: list[tuple[object, ...]]) -> None:
    clock = Clock()
    with backend.open(clock=clock) as registry:
        start = clock.now
        model = play(registry, clock, history)
        known = [start, *(entry[0] for entry in (*model.live, *model.aliases, *model.events))]
        moments = {when + timedelta(microseconds=off) for when, off in itertools.product(known, (-1, 0, 1))}
        for at in sorted(moments):
            found = registry.as_of("demo", at)
            assert (found.state.named("stable") if found else None) == model.live_at(at), at
            assert dict(registry.aliases_as_of("demo", at)) == model.aliases_at(at), at
            served = {(entry.server, entry.version) for entry in registry.served("demo", at)}
            assert served == model.served_at(at), at
        assert registry.verify().findings == ()


@pytest.fixture(scope="module")
def filled_sqlite(tmp_path_factory: pytest.TempPathFactory, packages: Packages) -> Backend:
    folder = tmp_path_factory.mktemp("filled")
    backend = Backend(f"sqlite:///{folder / 'registry.db'}", folder)
    fill(backend, packages)
    return backend


@pytest.fixture(scope="module")
def filled_postgresql(
    tmp_path_factory: pytest.TempPathFactory, postgresql: Cluster, packages: Packages
) -> Iterator[Backend]:
    with postgresql.database() as url:
        backend = Backend(url, tmp_path_factory.mktemp("filled"))
        fill(backend, packages)
        yield backend


@as_of_settings
@given(history=steps)
@example(history=[("rollback", 1), ("promote", -30, 1)])
@example(history=ROLLED_BACK)
def test_as_of_agrees_with_a_brute_force_model_on_sqlite(
    filled_sqlite: Backend, history: list[tuple[object, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Closed, so the file is whole: the last connection folded the log into it.
        shutil.copy(filled_sqlite.folder / "registry.db", folder)
        check(replace(filled_sqlite, url=f"sqlite:///{folder}/registry.db"), history)


@pytest.mark.integration
@as_of_settings
@given(history=steps)
@example(history=[("rollback", 1), ("promote", -30, 1)])
@example(history=ROLLED_BACK)
def test_as_of_agrees_with_a_brute_force_model_on_postgresql(
    filled_postgresql: Backend, postgresql: Cluster, history: list[tuple[object, ...]]
) -> None:
    with postgresql.database(filled_postgresql.url) as url:
        check(replace(filled_postgresql, url=url), history)
