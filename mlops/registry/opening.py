"""Which registry: the one that is named, else the one in TICKSERVE_HOME."""

from pathlib import Path

from mlops.registry.registry import Registry


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
    folder = home.absolute() / "registry"
    return Registry(
        url or f"sqlite:///{folder / 'registry.db'}",
        artifacts or str(folder / "artifacts"),
        home.absolute() / "cache" / "packages",
        keys or home.absolute() / "keys",
    )
