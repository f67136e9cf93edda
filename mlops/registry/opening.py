"""Which registry: the one that is named, else the one in TICKSERVE_HOME."""

from pathlib import Path

from mlops.registry import migrate
from mlops.registry.database import Database, sqlite_file
from mlops.registry.registry import Registry
from tickserve.errors import UnknownError


def require_registry(home: Path, url: str = "") -> None:
    """Raises UnknownError where there is no registry yet, and makes none.

    Raises
    ------
    ConfigurationError, UnreachableError
        As `Registry`.
    """
    url = url or _default_url(home)
    file = sqlite_file(url)
    if file is not None and not file.exists():
        raise UnknownError(f"there is no registry at {file}; `tickserve models register` makes one", field="registry")
    database = Database(url)
    try:
        if not migrate.has_tables(database):
            raise UnknownError(
                f"the database at {database.engine.url.render_as_string()} holds no registry; "
                "`tickserve models register` makes one",
                field="registry",
            )
    finally:
        database.close()


def open_registry(home: Path, url: str = "", artifacts: str = "", keys: Path | None = None) -> Registry:
    """Opens a registry, and makes it where there is none.

    Parameters
    ----------
    home : Path
        The folder of state: its `registry/` holds database and artifacts where no others are named, its `cache/`
        what is fetched.
    url, artifacts : str
        See `Registry`.
    keys : Path, optional
        Folder of trusted public keys; `keys/` in `home` where not given.
    """
    return Registry(
        url or _default_url(home),
        artifacts or str(_folder(home) / "artifacts"),
        home.absolute() / "cache" / "packages",
        keys or home.absolute() / "keys",
    )


def open_database(home: Path, url: str = "") -> Database:
    """Only the database of a registry that there is, for what is outside of its audit log.

    Raises
    ------
    UnknownError
        Where there is no registry yet.
    ConfigurationError, UnreachableError
        As `Registry`.
    """
    require_registry(home, url)
    database = Database(url or _default_url(home))
    migrate.prepare(database)
    return database


def _folder(home: Path) -> Path:
    return home.absolute() / "registry"


def _default_url(home: Path) -> str:
    return f"sqlite:///{_folder(home) / 'registry.db'}"
