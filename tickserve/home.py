"""The one folder of state: registry, served models, caches, keys, the admin socket."""

import hashlib
import os
import socket
from pathlib import Path

from platformdirs import user_data_path

from tickserve.errors import ConfigurationError


def home() -> Path:
    """`TICKSERVE_HOME` where that is set and not empty, else the platform's user data folder.

    Absolute; it need not exist yet.
    """
    configured = os.environ.get("TICKSERVE_HOME", "")
    if not configured:
        return user_data_path("tickserve", appauthor=False)
    try:
        return Path(configured).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigurationError(f"TICKSERVE_HOME is {configured!r}: {error}", field="home") from None


def default_name(folder: Path) -> str:
    """A name that is the same for every process over this folder of state on this machine."""
    return f"{socket.gethostname()}-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:6]}"
