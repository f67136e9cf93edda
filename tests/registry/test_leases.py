"""Leases: one holder by the database's clock, and tokens that fence off those before."""

import threading

import pytest
from sqlalchemy import Connection, select

from mlops.registry.database import Database
from mlops.registry.leases import LONGEST_S, LeaseLostError, Leases, database_now_ms
from mlops.registry.schema import leases as table
from tests.support.registry import Backend
from tests.support.waiting import until
from tickserve.errors import UnreachableError


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self, connection: Connection) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(backend: Backend, clock: Clock) -> Leases:
    backend.open().close()
    return Leases(Database(backend.url), ttl_s=10.0, now_ms=clock)


def test_one_holds_it_until_it_is_silent_for_too_long(leases: Leases, clock: Clock) -> None:
    one = leases.acquire("x", "one")
    assert one is not None
    assert leases.acquire("x", "two") is None
    clock.ms += 9_999
    assert leases.renew(one)
    clock.ms += 9_999
    assert leases.acquire("x", "two") is None
    clock.ms += 1
    assert not leases.renew(one), "what has expired is not renewed"
    two = leases.acquire("x", "two")
    assert two is not None
    assert two.token > one.token


def test_one_that_wakes_late_is_fenced_off(leases: Leases, clock: Clock) -> None:
    one = leases.acquire("x", "one")
    assert one is not None
    clock.ms += 10_000
    with leases.database.read() as connection, pytest.raises(LeaseLostError, match="one does not hold"):
        leases.check(connection, one)
    again = leases.acquire("x", "one")
    assert again is not None
    with leases.database.read() as connection:
        leases.check(connection, again)
        with pytest.raises(LeaseLostError):
            # The same process, before it slept: what it had under way then is over.
            leases.check(connection, one)
    leases.release(one)
    assert leases.acquire("x", "two") is None, "an old token gives nothing back"


def test_given_back_it_is_free_at_once_and_tokens_go_on(leases: Leases) -> None:
    one = leases.acquire("x", "one")
    assert one is not None
    leases.release(one)
    two = leases.acquire("x", "two")
    assert two is not None
    assert two.token == one.token + 1


def test_clock_that_was_set_back_does_not_keep_it_for_ever(leases: Leases, clock: Clock) -> None:
    clock.ms += 86_400_000
    leases.acquire("x", "dead")
    clock.ms -= 86_400_000
    assert leases.acquire("x", "two") is None
    clock.ms += round(LONGEST_S * 1000)
    assert leases.acquire("x", "two") is not None


def test_of_many_at_once_one_gets_it(backend: Backend) -> None:
    backend.open().close()
    barrier, found = threading.Barrier(8), []

    def acquire(name: str) -> None:
        leases = Leases(Database(backend.url))
        barrier.wait()
        found.append(leases.acquire("x", name))
        leases.database.close()

    threads = [threading.Thread(target=acquire, args=(f"h{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in found) == 1
    database = Database(backend.url)
    with database.read() as connection:
        assert connection.execute(select(table.c.token)).scalar_one() == 1
        assert database_now_ms(connection) > 1_700_000_000_000
    database.close()


def test_holder_that_is_stopped_within_a_transaction_keeps_nobody_waiting_for_longer_than_its_lease(
    backend: Backend,
) -> None:
    if not backend.url.startswith("postgresql"):
        pytest.skip("a file of SQLite is locked for as long as its writer lives")
    backend.open().close()
    one, two = (Leases(Database(backend.url), ttl_s=4.0) for _ in range(2))
    lease = one.acquire("x", "one")
    assert lease is not None
    stopped, woken = threading.Event(), threading.Event()
    failed: list[Exception] = []

    def write() -> None:
        def change(connection: Connection) -> None:
            one.check(connection, lease)
            stopped.set()
            woken.wait(60)

        try:
            one.database.write(change)
        except UnreachableError as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert stopped.wait(60)
    taken = until(lambda: two.acquire("x", "two"))
    assert taken is not None
    assert taken.token == lease.token + 1
    assert thread.is_alive(), "it has not ended: it was passed over"
    woken.set()
    thread.join(60)
    assert failed, "what it wrote was undone"
    for each in (one, two):
        each.database.close()
