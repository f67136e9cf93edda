"""Whatever is edited, deleted, inserted or flipped behind the registry's back is named."""

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Table, delete, insert, select, text, update

from mlops.registry import ModelFacts, Registration, Registry, ServerEvent
from mlops.registry.database import Database
from mlops.registry.schema import CanonicalJson, UtcTime, audit, metadata
from mlops.registry.verify import NOT_REPLAYED, Finding
from mlops.rollout import Order
from mlops.rollout.orders import Rollouts
from tests.support.packages import flip_byte
from tests.support.registry import ANN, Backend, Clock, Packages, add
from tests.support.rollouts import make_spec
from tickserve.errors import ConfigurationError, RegistryError, TickserveError


@pytest.fixture
def filled(registry: Registry, packages: Packages, clock: Clock) -> Registry:
    """A registry with rows in every table."""
    facts = ModelFacts("momentum", "SPX", "constant", "a model", {"desk": "eq"})
    registry.register(packages(1), ANN, Registration(facts, "1.0.0"))
    registry.approve("demo", 1, ANN)
    add(registry, packages(2))
    registry.log_metrics("demo", 1, "live", {"sharpe": 1.25}, ANN)
    registry.log_evaluation("demo", 1, "live", {"time": np.arange(3), "prediction": np.ones(3)}, ANN)
    registry.promote("demo", 1, ANN)
    registry.promote("demo", 2, ANN)
    registry.rollback("demo", ANN)
    registry.set_alias("demo", "champion", 1, ANN)
    registry.report("s1", [ServerEvent("installed", clock.now, "demo", 1, "stable", "d")], ANN)
    Rollouts(registry).start("demo", 2, make_spec(), ANN)
    Rollouts(registry).order("demo", Order.ABORT, ANN)
    assert registry.verify().findings == ()
    return registry


def rows(backend: Backend, table: Table) -> list[dict[str, Any]]:
    with Database(backend.url).engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def run(backend: Backend, *statements: Any) -> None:
    """Runs statements with no foreign key in their way, and commits."""
    database = Database(backend.url)
    with database.engine.connect() as connection:
        if database.is_sqlite:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA foreign_keys = OFF")
        with connection.begin():
            if not database.is_sqlite:
                connection.exec_driver_sql("SET session_replication_role = replica")
            for statement in statements:
                connection.execute(statement)
        if database.is_sqlite:
            raw.execute("PRAGMA foreign_keys = ON")
        elif not database.is_sqlite:
            connection.exec_driver_sql("SET session_replication_role = DEFAULT")
    database.close()


def other(column: Any, value: Any) -> Any:
    """Another value that the column takes."""
    if isinstance(column.type, CanonicalJson):
        return {"edited": True}
    if isinstance(column.type, UtcTime):
        from datetime import UTC, datetime

        return datetime(2020, 2, 2, 2, 2, 2, 2, tzinfo=UTC)
    if column.type.python_type in (int, float):
        return (value or 0) + 1
    return f"{value or ''}x"


def is_row(table: Table, row: dict[str, Any]) -> Any:
    condition = None
    for column in table.primary_key:
        equal = table.c[column.name] == row[column.name]
        condition = equal if condition is None else condition & equal
    return condition


@pytest.mark.parametrize(
    "table",
    # What servers and sidecars say of themselves every few seconds is outside of the log.
    [table for table in metadata.sorted_tables if table.name not in NOT_REPLAYED - {audit.name}],
    ids=lambda table: table.name,
)
def test_every_edited_column_deleted_row_and_inserted_row_is_named(
    filled: Registry, backend: Backend, table: Table
) -> None:
    found = rows(backend, table)
    if table.name == "settings":
        assert found == []
        run(backend, insert(table).values(name="x", value=1))
        assert any("settings name=x" in finding.place for finding in filled.verify().findings)
        return
    row = found[-1]
    key = ", ".join(f"{column.name}={row[column.name]}" for column in table.primary_key)
    name = f"audit row {row['sequence']}" if table is audit else f"{table.name} {key}"

    for column in table.columns:
        if column.primary_key and len(found) > 1:
            continue
        changed = other(column, row[column.name])
        place = is_row(table, row | ({column.name: changed} if column.primary_key else {}))
        run(backend, update(table).where(is_row(table, row)).values({column.name: changed}))
        assert named(filled, name), f"{column.name} of {name} was edited"
        run(backend, update(table).where(place).values({column.name: row[column.name]}))
        assert filled.verify().findings == ()

    run(backend, delete(table).where(is_row(table, row)))
    assert named(filled, name), f"{name} was deleted"
    run(backend, insert(table).values(row))
    assert filled.verify().findings == ()

    last = list(table.primary_key)[-1]
    twin = row | {last.name: other(last, row[last.name])}
    if table.name == "versions":
        twin |= {"digest": "0" * 64, "label": None}
    run(backend, insert(table).values(twin))
    findings = " ".join(f"{finding.place}: {finding.what}" for finding in filled.verify().findings)
    assert f"{last.name}={twin[last.name]}" in findings or f"audit row {twin.get('sequence')}" in findings


def named(registry: Registry, name: str) -> bool:
    return any(finding.place == name for finding in registry.verify().findings)


def test_text_that_became_bytes_is_named(filled: Registry, backend: Backend) -> None:
    if not Database(backend.url).is_sqlite:
        pytest.skip("only SQLite keeps bytes in a column of text")
    for table in metadata.sorted_tables:
        if table.name in NOT_REPLAYED - {audit.name}:
            continue
        for column in table.columns:
            if column.type.python_type in (int, float) or all(row[column.name] is None for row in rows(backend, table)):
                continue
            # Equal to no text any more: of a desired state whose model is bytes, no version is live.
            place = f"{table.name} SET {column.name} = CAST({column.name} AS"
            run(backend, text(f"UPDATE {place} BLOB)"))
            verification = filled.verify()
            where = "audit row 1" if table is audit else f"{table.name} "
            assert any(finding.place.startswith(where) for finding in verification.findings), place
            assert isinstance(verification.head, str)
            run(backend, text(f"UPDATE {place} TEXT)"))
            assert filled.verify().findings == ()


def test_rows_whose_keys_look_alike_are_told_apart(registry: Registry, packages: Packages, tmp_path: Path) -> None:
    version = registry.register(packages(1), ANN)
    registry.log_metrics("demo", 1, "a", {"b, name=c": 1.0}, ANN)
    registry.log_metrics("demo", 1, "a, name=b", {"c": 2.0}, ANN)
    other = Backend(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other")
    with other.open() as importing:
        # One change, so that the sequence in the key tells them apart no longer.
        importing.import_version(registry.export(version, tmp_path), ANN)
        assert importing.verify().findings == ()
        run(other, text("DELETE FROM metrics WHERE dataset = 'a'"))
        assert [finding.what for finding in importing.verify().findings] == ["is missing: the audit log has such a row"]


def test_a_consistent_edit_of_the_audit_log_breaks_its_chain(filled: Registry, backend: Backend) -> None:
    body = rows(backend, audit)[3]["body"]
    run(backend, update(audit).where(audit.c.sequence == 4).values(body=body.replace("demo", "demo ")))
    assert named(filled, "audit row 4")


def test_a_log_cut_short_is_named(filled: Registry, backend: Backend) -> None:
    run(backend, delete(audit).where(audit.c.sequence > 5))
    assert named(filled, "audit row 6")
    assert named(filled, "audit row 11")


def test_a_history_written_anew_is_shown_by_a_head_kept_elsewhere(
    registry: Registry, packages: Packages, tmp_path: Path
) -> None:
    registry.register(packages(1), ANN)
    head = registry.verify().head
    registry.register(packages(2), ANN)
    assert registry.verify(head).findings == ()
    with Backend(f"sqlite:///{tmp_path / 'anew.db'}", tmp_path).open() as anew:
        anew.register(packages(2), ANN)
        assert [finding.place for finding in anew.verify(head).findings] == ["audit"]


def test_every_flipped_byte_of_a_stored_file_is_named(filled: Registry, backend: Backend) -> None:
    files = [path for path in backend.artifacts.rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        for position in {0, path.stat().st_size // 2, path.stat().st_size - 1}:
            flip_byte(path, position)
            assert [finding.place for finding in filled.verify().findings] == [f"artifact {path.name}"]
            flip_byte(path, position)
    files[0].rename(files[0].with_suffix(".away"))
    assert named(filled, f"artifact {files[0].name}")


@pytest.mark.parametrize(
    "damage",
    [
        delete(metadata.tables["audit_head"]),
        delete(metadata.tables["revision"]),
        text("UPDATE desired SET state = '{\"split\": 1}'"),
        text("UPDATE desired SET state = 'nothing'"),
    ],
    ids=["no head", "no revision", "no state", "no JSON"],
)
def test_a_damaged_row_that_is_needed_says_so(filled: Registry, backend: Backend, damage: Any) -> None:
    run(backend, damage)
    with pytest.raises(RegistryError, match="models verify"):
        filled.promote("demo", 2, ANN)
    assert filled.verify().findings != ()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("DROP INDEX versions_by_digest", "schema index versions_by_digest of versions"),
        (
            "CREATE TRIGGER later AFTER INSERT ON versions BEGIN DELETE FROM approvals; END",
            "schema trigger later of versions",
        ),
        ("CREATE TABLE notes (note TEXT)", "schema table notes of notes"),
    ],
)
def test_a_changed_schema_is_named(filled: Registry, backend: Backend, change: str, place: str) -> None:
    if not Database(backend.url).is_sqlite:
        pytest.skip("the server keeps its own catalogue")
    run(backend, text(change))
    assert [finding.place for finding in filled.verify().findings] == [place]


def test_a_flipped_byte_of_the_database_file_is_named_or_changes_nothing(packages: Packages, tmp_path: Path) -> None:
    whole = Backend(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
    with whole.open() as registry:
        registry.promote("demo", add(registry, packages(1)), ANN)
    damaged = tmp_path / "damaged.db"
    told = 0
    for position in range(0, (tmp_path / "registry.db").stat().st_size, 4099):
        shutil.copy(tmp_path / "registry.db", damaged)
        flip_byte(damaged, position)
        try:
            with Backend(f"sqlite:///{damaged}", tmp_path).open() as registry:
                findings = registry.verify().findings
        except TickserveError:
            findings = (Finding("database file", "cannot be opened"),)
        told += bool(findings)
        assert findings or content(damaged) == content(tmp_path / "registry.db"), position
        for rest in tmp_path.glob("damaged.db-*"):
            rest.unlink()
    assert told > 3


def content(file: Path) -> list[str]:
    """Everything that the file holds, as SQL; what is in no table, such as free space, is not in it."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.text_factory = lambda data: data.decode(errors="surrogateescape")
        return list(connection.iterdump())


def test_a_lost_schema_version_says_so(filled: Registry, backend: Backend) -> None:
    run(backend, text("DELETE FROM alembic_version"))
    assert named(filled, "alembic_version")
    with pytest.raises(ConfigurationError, match="alembic_version does not say of which schema"):
        backend.open()


def test_a_database_of_another_schema_version_is_named(filled: Registry, backend: Backend) -> None:
    run(backend, text("UPDATE alembic_version SET version_num = '0000'"))
    assert named(filled, "alembic_version")
