"""Unix sockets as files: what a killed server left is removed, and no one connects before the mode is set."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from tickserve.errors import ConfigurationError


@contextlib.contextmanager
def socket_file(address: str, *, mode: int, setting: str) -> Iterator[None]:
    """Surrounds the binding of a Unix socket: makes way before, and gives the file `mode` after.

    Raises
    ------
    ConfigurationError
        Naming `setting`, where another server answers there or the path is no socket.
    """
    path = Path(address.removeprefix("unix:"))
    try:
        _make_way(path, setting)
        # Bound with the usual umask the socket would be open to others until its mode is set.
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)
        path.chmod(mode)
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path}: {error.strerror}", field=setting) from None


def _make_way(path: Path, setting: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigurationError(f"{setting}: {path} exists and is no socket", field=setting)
        if _answers(path):
            raise ConfigurationError(
                f"{setting}: another server answers on {path}; stop it, or give this one another path or home",
                field=setting,
            )
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
