"""A PostgreSQL of its own, in a temporary folder, reached by a Unix socket only."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
from sqlalchemy import make_url

#: A locale that sorts as people do, not as bytes: what must not depend on it then shows.
_INITDB = (
    "--encoding",
    "UTF8",
    "--no-sync",
    "--locale-provider",
    "icu",
    "--icu-locale",
    "en-US",
    "--locale",
    "C.UTF-8",
)


class Cluster:
    """A running server."""

    def __init__(self, socket: Path, user: str, account: int | None) -> None:
        self._socket, self._user, self._numbers = socket, user, count(1)
        self._account = account

    def start(self) -> None:
        """Starts it, again where it was stopped."""
        options = f"-k {self._socket} -c listen_addresses= -c fsync=off -c max_connections=120"
        self._control("--options", options, "--log", str(self._socket / "log"), "--wait", "start")

    def stop(self) -> None:
        """Stops it as a crash would: at once, whatever is under way."""
        self._control("--mode", "immediate", "--wait", "stop")

    @contextmanager
    def database(self, template_url: str = "") -> Iterator[str]:
        """The URL of a database, dropped with the context: empty, or a copy of one that nobody is connected to."""
        name = f"registry{next(self._numbers)}"
        template = make_url(template_url).database if template_url else "template1"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield f"postgresql://{self._user}@/{name}?host={self._socket}"
        finally:
            # Hundreds of them take longer to remove with the whole cluster than a test may take.
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _control(self, *arguments: str) -> None:
        subprocess.run(
            [program("pg_ctl"), "--pgdata", self._socket / "data", *arguments],
            user=self._account,
            cwd=self._socket,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def _execute(self, statement: str) -> None:
        with psycopg.connect(host=str(self._socket), user=self._user, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Starts a server, as another user where this one is root, and ends it with the context."""
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    user = account.pw_uid if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="tickserve-pg-"))
    try:
        os.chown(folder, account.pw_uid, -1)
        data = folder / "data"
        subprocess.run(
            [program("initdb"), "--pgdata", data, "--username", "registry", "--auth", "trust", *_INITDB],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        made = Cluster(folder, "registry", user)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """PostgreSQL's programs; Debian keeps those of the server off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name) or name
