"""One state folder is for one server."""

import fcntl
from pathlib import Path
from typing import TextIO

from tickserve.errors import ConfigurationError


def lock_home(home: Path) -> TextIO:
    """Holds the state folder until the process ends; two servers would overwrite each other's halts.

    Raises ConfigurationError where another server holds it.
    """
    path = home / "server" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", encoding="ascii")  # noqa: SIM115 - held open on purpose
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            f"home: another server runs over {home}; stop it, or give this one another TICKSERVE_HOME", field="home"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"home: cannot use {home}: {error.strerror}", field="home") from None
    return file
