"""Bringing a database to the schema that this code knows, by alembic's migrations."""

import functools
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from mlops.registry.database import Database
from mlops.registry.schema import audit
from tickserve.errors import ConfigurationError

#: The newest revision in migrations/versions; a test holds it against the scripts.
HEAD = "0004"
#: Any number, the same for everyone: PostgreSQL's advisory lock for making the tables.
_LOCK = 7_433_951


def prepare(database: Database) -> None:
    """Makes the tables where the database is empty; any number of processes may do so at once.

    Raises
    ------
    ConfigurationError
        Where the database has another schema: an older one needs `upgrade`, a newer one a newer tickserve.
    """
    with database.read() as connection:
        found = _current(connection)
    if found is None:
        upgrade(database)
    elif found != HEAD:
        raise ConfigurationError(
            f"the registry's schema is {found}, this tickserve knows {HEAD}; run `tickserve models upgrade` with the "
            "newest tickserve that uses this registry",
            field="registry",
        )


def has_tables(database: Database) -> bool:
    """Whether there is a registry, of whatever schema."""
    with database.read() as connection:
        return _current(connection) is not None


def upgrade(database: Database) -> None:
    """Runs every migration that is missing, in one transaction."""
    with database.engine.connect() as plain:
        connection = plain.execution_options(tickserve_begin="IMMEDIATE")
        with connection.begin():
            if not database.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            if _current(connection) == HEAD:
                return
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def read_schema(connection: Connection) -> dict[str, bytes | None]:
    """Tables, indexes, triggers and views of a database of SQLite by name, each as it was asked for."""
    # As bytes: a damaged one need not be text any more.
    rows = connection.execute(text("SELECT type, name, tbl_name, CAST(sql AS BLOB) FROM sqlite_master"))
    # What ANALYZE leaves behind changes no answer.
    return {f"{kind} {name} of {table}": sql for kind, name, table, sql in rows if not name.startswith("sqlite_stat")}


@functools.cache
def migrated_schema() -> dict[str, bytes | None]:
    """What `read_schema` gives for a database that only the migrations made."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        found = read_schema(connection)
    engine.dispose()
    return found


def alembic_config() -> Config:
    """Alembic's configuration: where the scripts are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def newest() -> str | None:
    """The newest revision among the scripts."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _current(connection: Connection) -> str | None:
    # Asked first, because a failed query would end PostgreSQL's transaction.
    inspector = inspect(connection)
    if inspector.has_table("alembic_version"):
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None:
            return found
    if inspector.has_table(audit.name):
        raise ConfigurationError(
            "the database holds a registry, but alembic_version does not say of which schema: somebody emptied it; "
            f"restore the row ('{HEAD}' where this tickserve made the registry), then run `tickserve models verify`",
            field="registry",
        )
    return None
