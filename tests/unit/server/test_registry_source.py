"""The registry as the source of desired state and versions, and what is kept of it on disk."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mlops.package import MODEL_FILE, new_key
from mlops.registry import Registry
from mlops.registry.wanted import Wanted
from server.engine.python import PythonEngine
from server.models import (
    LocalState,
    PackageCache,
    Reconciler,
)
from server.models.registry import RegistrySource, connect
from server.models.values import Target
from tests.support.packages import build_constant
from tests.support.reconciling import no_room, shares, stable
from tests.support.registry import ANN, add, gates
from tickserve.errors import PackageError, UnknownError


class Desk:
    """A registry with two versions, and sources that read it as servers do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "registry").mkdir()
        self.registry = Registry(
            f"sqlite:///{folder}/registry/registry.db",
            str(folder / "registry" / "artifacts"),
            folder / "fetched",
            folder / "keys",
            evaluate=gates("pass"),
        )
        for value in (1.0, 2.0):
            add(self.registry, build_constant(folder / "packages", value))
        self.registry.promote("demo", 1, ANN)

    def source(self, max_bytes: int = 1 << 30, in_use: frozenset[str] = frozenset()) -> RegistrySource:
        cache = PackageCache(self.folder / "cache", max_bytes, lambda: in_use)
        return RegistrySource(
            lambda: connect(self.folder, "", "", cache.folder, self.folder / "keys"),
            cache,
            self.folder / "state.json",
            keys=self.folder / "keys",
        )

    def away(self) -> None:
        (self.folder / "registry").rename(self.folder / "away")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.registry.close()


def test_last_good_state_is_as_it_was_read_and_a_damaged_one_is_none(desk: Desk) -> None:
    read = desk.source().read()
    assert desk.source().last_good() == read
    state = desk.folder / "state.json"
    body = json.loads(state.read_text())
    body["body"]["models"]["demo"]["digests"]["1"] = "0" * 64
    state.write_text(json.dumps(body))
    assert desk.source().last_good() is None


def test_server_makes_no_registry_where_there_is_none(desk: Desk) -> None:
    desk.away()
    with pytest.raises(UnknownError, match="there is no registry at"):
        desk.source().read()
    assert not (desk.folder / "registry").exists()


def test_change_of_schema_that_a_server_missed_is_taken_for_accepted(desk: Desk) -> None:
    registry, source = desk.registry, desk.source()
    other = ("rsi", "momentum", "volume")
    for value in (3.0, 4.0):
        add(registry, build_constant(desk.folder / "packages", value, feature_names=other))
    first = source.read().models["demo"]
    old = source.open("demo", first.versions["1"])
    registry.promote("demo", 3, ANN, schema_override=3)
    registry.promote("demo", 4, ANN)
    now = source.read().models["demo"]
    new = source.open("demo", now.versions["4"])
    assert now.targets[0].schema_override in ("", "0")
    assert source.accepts_schema(now.targets[0], old, new)
    assert not source.accepts_schema(now.targets[0], new, old)


def test_signatures_that_the_registry_requires_are_required_while_it_is_away_too(desk: Desk) -> None:
    source = desk.source()
    first = source.read().models["demo"].versions["1"]
    assert source.open("demo", first).version == "1"
    new_key(desk.folder / "keys", "desk")
    desk.registry.require_signature(True, ANN)
    desk.source().read()
    desk.away()
    restarted = desk.source()
    assert restarted.last_good() is not None
    with pytest.raises(UnknownError, match="there is no registry at"):
        restarted.open("demo", first)


def test_a_source_that_runs_learns_that_signatures_became_required_and_no_longer_are(desk: Desk) -> None:
    source = desk.source()
    first = source.read().models["demo"].versions["1"]
    new_key(desk.folder / "keys", "desk")
    desk.registry.require_signature(True, ANN)
    assert source.read().models["demo"].versions["1"] == first
    with pytest.raises(PackageError, match="signature"):
        source.open("demo", first)
    desk.registry.require_signature(False, ANN)
    source.read()
    assert source.open("demo", first).version == "1"


def test_package_that_is_another_one_than_desired_is_refused(desk: Desk) -> None:
    source = desk.source()
    first = source.read().models["demo"].versions["1"]
    with pytest.raises(PackageError, match=f"has digest {first.digest} in the registry now, desired is {'ab' * 32}"):
        source.open("demo", replace(first, digest="ab" * 32))
    # Nor one of another model, whatever the cache holds.
    assert source.open("demo", first).version == "1"
    with pytest.raises(PackageError, match="of model 'other'"):
        source.open("other", first)


def test_cache_keeps_within_its_bound_but_for_what_is_in_use(desk: Desk) -> None:
    first = desk.source().read().models["demo"].versions["1"]
    desk.registry.promote("demo", 2, ANN)
    second = desk.source().read().models["demo"].versions["2"]
    for in_use, kept in (
        (frozenset[str](), {second.digest}),
        (frozenset({first.digest}), {first.digest, second.digest}),
    ):
        source = desk.source(max_bytes=1, in_use=in_use)
        source.open("demo", first)
        source.open("demo", second)
        assert {path.name for path in (desk.folder / "cache").iterdir()} == kept


def test_cache_gives_up_first_what_was_used_longest_ago(tmp_path: Path) -> None:
    digests = [str(number) * 64 for number in range(3)]
    cache = PackageCache(tmp_path, 250, lambda: ())
    for age, digest in enumerate(digests):
        (tmp_path / digest).mkdir()
        (tmp_path / digest / MODEL_FILE).write_bytes(bytes(100))
        os.utime(tmp_path / digest, (age, age))
    cache.touch(digests[0])
    with cache.fetching(digests[2]):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {digests[0], digests[2]}


def test_registry_and_what_is_kept_of_it_give_the_same_segments(desk: Desk) -> None:
    add(desk.registry, build_constant(desk.folder / "packages", 3.0))
    source = desk.source()
    for wanted in (shares("2", 6_000, "1"), shares("3", 3_000, "2")):
        source.write("demo", Target(wanted), None, None, actor="kim", reason="try")
    target = source.read().models["demo"].targets[0]
    assert [(each.version, each.upto_bp) for each in target.layout] == [("2", 6_000), ("3", 9_000), ("2", 10_000)]
    kept = desk.source().last_good()
    assert kept is not None
    assert kept.models["demo"].targets == (target,)


def test_last_good_state_is_written_once_the_disk_has_room(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    source = desk.source()
    source.read()
    desk.registry.promote("demo", 2, ANN)
    with monkeypatch.context() as full, capture_logs() as logs:
        full.setattr("server.models.files.os.fsync", no_room)
        for _ in range(3):
            assert source.read().models["demo"].wanted == "2"
    assert [entry["event"] for entry in logs].count("last_good_state_not_written") == 1
    kept = desk.source().last_good()
    assert kept is not None
    assert kept.models["demo"].wanted == "1"
    source.read()
    kept = desk.source().last_good()
    assert kept is not None
    assert kept.models["demo"].wanted == "2"


def test_registry_that_lost_everything_takes_no_model_away_over_a_restart_either(
    desk: Desk, engine: PythonEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Reconciler(desk.source(), engine, LocalState(desk.folder)).reconcile()
    nothing = Wanted(99, False, {}, {})
    monkeypatch.setattr(Registry, "wanted", lambda _: nothing)
    for _ in range(2):
        reconciler = Reconciler(desk.source(), engine, LocalState(desk.folder))
        reconciler.reconcile()
        assert stable(reconciler) == "1"
        assert reconciler.snapshot().source_error == "every model is gone from the registry; the served ones go on"
