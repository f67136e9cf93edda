"""Who may act in a name: one holder at a time, by the database's clock, with a token that fences off earlier ones.

A holder proves itself in the transaction that writes (`check`). A process that was stopped, and wakes when another one
holds the lease, therefore writes nothing: its token is an old one, whatever its own clock says. One that is stopped
in the midst of a transaction keeps nobody waiting for longer than the lease: the database undoes it (PostgreSQL).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select, text, update

from mlops.registry.database import Database, limit_silence
from mlops.registry.schema import leases
from tickserve.errors import ConflictError

DatabaseClock = Callable[[Connection], int]
#: No lease is for longer, so one that says so was written before the clock was set back.
LONGEST_S = 60.0


class LeaseLostError(ConflictError):
    """Somebody else holds the lease, or nobody does any more: what was to be written was not."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as its holder knows it. `token` is larger than that of every holder before."""

    name: str
    holder: str
    token: int


def database_now_ms(connection: Connection) -> int:
    """The time by the database's clock, in milliseconds since 1970; it goes on within a transaction."""
    if connection.dialect.name == "sqlite":
        query = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
    else:
        query = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
    return int(connection.execute(text(query)).scalar_one())


def database_now(connection: Connection) -> datetime:
    """The time by the database's clock."""
    return datetime.fromtimestamp(database_now_ms(connection) / 1e3, UTC)


@dataclass(frozen=True)
class Leases:
    """Leases of one registry.

    Parameters
    ----------
    database : Database
        Where they are kept.
    ttl_s : float
        How long a holder that is silent keeps one; at most `LONGEST_S`.
    now_ms : callable
        The database's clock; replaced in tests.
    """

    database: Database
    ttl_s: float = 10.0
    now_ms: DatabaseClock = database_now_ms

    def acquire(self, name: str, holder: str) -> Lease | None:
        """Takes the lease where nobody holds it, or where its holder was silent for too long; else None.

        The same holder gets a new token too: what an earlier life of it had under way is fenced off.
        """
        return self.database.write(lambda connection: self._acquire(connection, name, holder))

    def renew(self, lease: Lease) -> bool:
        """Keeps it for another `ttl_s`; False where it is lost."""

        def change(connection: Connection) -> bool:
            limit_silence(connection, self.ttl_s)
            if not self.is_held(connection, lease):
                return False
            expires_at_ms = self.now_ms(connection) + self._ttl_ms
            connection.execute(update(leases).where(leases.c.name == lease.name).values(expires_at_ms=expires_at_ms))
            return True

        return self.database.write(change)

    def release(self, lease: Lease) -> None:
        """Gives it back, so that nobody has to wait; one that is lost stays whose it is."""

        def change(connection: Connection) -> None:
            if self.is_held(connection, lease):
                # The row stays: tokens go on from it.
                connection.execute(update(leases).where(leases.c.name == lease.name).values(expires_at_ms=0))

        self.database.write(change)

    def check(self, connection: Connection, lease: Lease) -> None:
        """Raises LeaseLostError unless the lease is held; called in the transaction that writes."""
        limit_silence(connection, self.ttl_s)
        if not self.is_held(connection, lease):
            raise LeaseLostError(f"{lease.holder} does not hold the lease {lease.name!r} any more", field="lease")

    def is_held(self, connection: Connection, lease: Lease) -> bool:
        """Whether it is this holder's, by this token, and has not expired."""
        row = connection.execute(select(leases).where(leases.c.name == lease.name)).one_or_none()
        return (
            row is not None
            and (row.holder, row.token) == (lease.holder, lease.token)
            and self.now_ms(connection) < row.expires_at_ms
        )

    def holder(self, connection: Connection, name: str) -> str:
        """Who holds it now; empty where nobody does."""
        row = connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
        return str(row.holder) if row is not None and self.now_ms(connection) < row.expires_at_ms else ""

    def _acquire(self, connection: Connection, name: str, holder: str) -> Lease | None:
        limit_silence(connection, self.ttl_s)
        row = connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
        now_ms = self.now_ms(connection)
        latest_ms = now_ms + round(LONGEST_S * 1000)
        if row is not None and row.expires_at_ms > latest_ms:
            # The clock was set back: without this a dead holder would keep the lease for as long as that.
            connection.execute(update(leases).where(leases.c.name == name).values(expires_at_ms=latest_ms))
        if row is not None and now_ms < row.expires_at_ms and row.holder != holder:
            return None
        lease = Lease(name, holder, 1 if row is None else row.token + 1)
        return _put(connection, lease, now_ms + self._ttl_ms)

    @property
    def _ttl_ms(self) -> int:
        return max(1, round(min(self.ttl_s, LONGEST_S) * 1000))


def seize(connection: Connection, name: str, holder: str) -> Lease:
    """Takes a lease from whoever has it, for the caller's transaction alone; after that nobody holds it.

    What the holder before had under way is fenced off, as after a silence; it may acquire the lease again.
    """
    before = connection.execute(select(leases.c.token).where(leases.c.name == name)).scalar_one_or_none()
    return _put(connection, Lease(name, holder, (before or 0) + 1), 0)


def _put(connection: Connection, lease: Lease, expires_at_ms: int) -> Lease:
    connection.execute(delete(leases).where(leases.c.name == lease.name))
    connection.execute(
        insert(leases).values(name=lease.name, holder=lease.holder, token=lease.token, expires_at_ms=expires_at_ms)
    )
    return lease
