"""Two desks on one PostgreSQL, each a server with its sidecar, clients that ask all the while, and who wrote what."""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import make_url

from mlops.package import Golden, OutputRule
from mlops.package.runtime import open_model
from mlops.registry import Registry
from mlops.registry.desired import desired_history_of
from mlops.registry.leases import Leases
from mlops.registry.rollouts import all_open, latest_rollout
from mlops.rollout import parse_spec
from mlops.rollout.orders import Rollouts
from mlops.rollout.store import Decided, read_decisions
from mlops.rollout.view import RolloutView, read_view
from mlops.tap import default_folder
from tests.e2e.conftest import Launcher, Running
from tests.e2e.test_sidecar import Beside, beside
from tests.support.models import slow_model
from tests.support.packages import build_constant
from tests.support.postgresql import Cluster
from tests.support.registry import ANN, add, gates
from tests.support.waiting import until
from tickserve.client import Client

LEASE_S = 2.0
KEYS = 300
#: Requests a second that each server is asked.
RATE = 150.0
#: Rows whose sum is, and is not, within the range that the output rule allows.
PLAIN, FAR = (1.0, 1.0, 1.0), (10.0, 10.0, 10.0)

#: Notes, in the transaction itself, who writes and whose lease it is then.
_NOTES = """
CREATE SCHEMA notes;
CREATE TABLE notes.written (
    number bigserial, transaction bigint, at_ms bigint, who text, what text, entry jsonb, lease jsonb, counted jsonb);
CREATE FUNCTION notes.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notes.written (transaction, at_ms, who, what, entry, lease, counted) VALUES (
        txid_current(), extract(epoch FROM clock_timestamp()) * 1000, current_setting('application_name'),
        TG_TABLE_NAME, to_jsonb(NEW), (SELECT to_jsonb(held) FROM public.leases held WHERE name = 'rollouts'),
        (SELECT jsonb_agg(to_jsonb(each) - 'state') FROM public.reporters each));
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION notes.note();
CREATE TRIGGER note AFTER INSERT OR UPDATE ON rollout_progress FOR EACH ROW EXECUTE FUNCTION notes.note();
CREATE TRIGGER note AFTER INSERT ON rollout_decisions FOR EACH ROW EXECUTE FUNCTION notes.note();
"""


@dataclass(frozen=True)
class Written:
    """One row that was written: by whom, under which lease, and how far everybody had counted by then."""

    transaction: int
    at_ms: int
    who: str
    what: str
    entry: Mapping[str, Any]
    lease: Mapping[str, Any] | None
    counted: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Asked:
    """One request as its client saw it; version 0 had no answer."""

    at_ns: int
    desk: str
    model: str
    version: int
    is_flagged: bool
    fault: str


@dataclass
class Desk:
    """A server and the sidecar beside it."""

    launcher: Launcher
    name: str
    server: Running | None = None
    sidecar: Beside | None = None
    _stacks: dict[str, ExitStack] = field(default_factory=dict)

    def serve(self) -> None:
        """Starts the server, and waits until it serves every model."""
        self.server = self._enter("server", self.launcher.serve())
        assert self.server is not None
        self.server.control.wait(
            lambda status: bool(status.models) and all(each.state == "serving" for each in status.models), 60.0
        )

    def watch(self) -> None:
        """Starts the sidecar."""
        self.sidecar = self._enter("sidecar", beside(self.launcher))

    def kill_server(self) -> None:
        assert self.server is not None
        self.server.process.kill()
        self.server.process.wait(60)
        self.server = None

    def kill_sidecar(self) -> None:
        assert self.sidecar is not None
        # One that was stopped ends too.
        self.sidecar.process.kill()
        self.sidecar.process.wait(60)
        self.sidecar = None

    def signal_sidecar(self, number: signal.Signals) -> None:
        assert self.sidecar is not None
        os.kill(self.sidecar.process.pid, number)

    def shares(self, model: str) -> dict[str, int] | None:
        """Each version's share of the keys that the server gives it; None where nobody answers."""
        if self.server is None:
            return None
        served = self.server.control.status().model(model)
        return None if served is None else {each.version: each.weight_bp for each in served.versions if each.weight_bp}

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()
        shutil.rmtree(default_folder(self.launcher.home), ignore_errors=True)

    def _enter(self, what: str, context: Any) -> Any:
        if what in self._stacks:
            self._stacks[what].close()
        self._stacks[what] = ExitStack()
        return self._stacks[what].enter_context(context)


class Clients:
    """One thread for each desk asks every model, by its part of the traffic, at fixed times."""

    def __init__(self, desks: list[Desk], parts: Mapping[str, float], is_far: float) -> None:
        self._desks, self._parts, self._is_far = desks, parts, is_far
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(desk, place)) for place, desk in enumerate(desks)]
        self.asked: list[Asked] = []

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def seen(self, model: str, version: int) -> int:
        """Answers of a version."""
        return sum(1 for each in tuple(self.asked) if (each.model, each.version) == (model, version))

    def _ask(self, desk: Desk, place: int) -> None:
        draw = random.Random(place)
        names, weights = list(self._parts), list(self._parts.values())
        due, client, address = time.monotonic(), None, ""
        while not self._ending.is_set():
            due = max(due + 1 / RATE, time.monotonic() - 1.0)
            self._ending.wait(max(0.0, due - time.monotonic()))
            server = desk.server
            if client is None or (server is not None and server.address != address):
                if server is None:
                    continue
                if client is not None:
                    client.close()
                address = server.address
                client = Client(address, timeout_s=60.0)
            (model,) = draw.choices(names, weights)
            row = FAR if draw.random() < self._is_far else PLAIN
            self.asked.append(self._one(client, desk.name, model, list(row), f"key-{draw.randrange(KEYS)}"))
        if client is not None:
            client.close()

    def _one(self, client: Client, desk: str, model: str, row: list[float], key: str) -> Asked:
        try:
            answer = client.predict(row, model=model, routing_key=key)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            return Asked(time.time_ns(), desk, model, 0, False, f"{type(error).__name__}: {error}")
        return Asked(time.time_ns(), desk, model, int(answer.version), bool(answer.findings), "")


class RolloutFleet:
    """Two desks, of which one has the native engine where that is there.

    Parameters
    ----------
    cluster : Cluster
        Whose database the registry is in.
    canaries : mapping
        By model, whether its second version is bad: breaks an output rule at a part of the rows.
    """

    def __init__(self, folder: Path, cluster: Cluster, url: str, canaries: Mapping[str, bool]) -> None:
        self.cluster, self.url, self.models = cluster, url, tuple(canaries)
        self._artifacts = str(folder / "artifacts")
        self.registry = Registry(url, self._artifacts, folder / "cache", folder / "keys", evaluate=gates("pass"))
        for model, is_bad in canaries.items():
            add(self.registry, _package(folder / "packages", model, 1.0))
            second = _bad_package if is_bad else _package
            add(self.registry, second(folder / "packages", model, 2.0))
            self.registry.promote(model, 1, ANN)
        self._sql(_NOTES)
        self.desks = [
            Desk(self._launcher(folder, name, engine), name) for name, engine in (("a", "auto"), ("b", "python"))
        ]
        self.settings = self.desks[0].launcher.settings

    def up(self) -> None:
        """Starts everything."""
        self.at_once([desk.serve for desk in self.desks])
        self.at_once([desk.watch for desk in self.desks])

    @staticmethod
    def at_once(calls: list[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(len(calls)) as pool:
            for each in [pool.submit(call) for call in calls]:
                each.result()

    def close(self) -> None:
        for desk in self.desks:
            desk.close()
        self.registry.close()

    def start(self, model: str, spec: Mapping[str, Any]) -> int:
        """Starts a rollout of the version that is not live; which one that is."""
        desired = self.registry.desired(model)
        assert desired is not None
        version = 3 - (desired.state.named("stable") or 0)
        Rollouts(self.registry).start(model, version, parse_spec(spec), ANN)
        return version

    def is_fit(self) -> bool:
        """Whether everything runs, and no rollout is open."""
        is_up = all(desk.server is not None and desk.sidecar is not None for desk in self.desks)
        with self.registry.journal.database.read() as connection:
            return is_up and not all_open(connection)

    def view(self, model: str) -> RolloutView:
        database = self.registry.journal.database
        with database.read() as connection:
            found = latest_rollout(connection, model)
            assert found is not None
            return read_view(connection, found, Leases(database, LEASE_S))

    def wait_for(self, model: str, phase: str, step: int = 0, bound_s: float = 120.0) -> RolloutView:
        """The rollout once it is there."""

        def holds(view: RolloutView) -> bool:
            return view.phase == phase and (not step or view.step == step)

        try:
            return until(lambda: self._looked(model), holds, bound_s)
        except AssertionError:
            raise AssertionError(f"{model} is not {phase} {step or ''}: {self.view(model)}") from None

    def decisions(self, model: str) -> tuple[Decided, ...]:
        with self.registry.journal.database.read() as connection:
            found = latest_rollout(connection, model)
            assert found is not None
            return read_decisions(connection, found.rollout)

    def shares(self, model: str) -> list[int]:
        """The share of the last rollout's version in each desired state since before it, oldest first."""
        with self.registry.journal.database.read() as connection:
            found = latest_rollout(connection, model)
            assert found is not None
            first = read_decisions(connection, found.rollout)[0].revision
            history = [each for each in desired_history_of(connection, model) if each.revision >= first]
        of = found.canary
        return [sum(share.weight_bp for share in each.state.split if share.version == of) for each in history]

    def written(self) -> list[Written]:
        """What was noted, in order."""
        columns = "transaction, at_ms, who, what, entry, lease, counted"
        with self._connect() as connection:
            rows = connection.execute(f"SELECT {columns} FROM notes.written ORDER BY number").fetchall()  # noqa: S608
        return [Written(*row[:6], tuple(row[6] or ())) for row in rows]

    @property
    def holder(self) -> Desk | None:
        """Whose sidecar holds the lease now."""
        with self.registry.journal.database.read() as connection:
            name = Leases(self.registry.journal.database).holder(connection, "rollouts")
        pids = {str(desk.sidecar.process.pid): desk for desk in self.desks if desk.sidecar is not None}
        return pids.get(name.split(":")[1]) if name else None

    def wait_holder(self, among: list[Desk]) -> Desk:
        """Who holds the lease, once it is one of these."""
        found = until(lambda: self.holder, lambda holder: holder in among)
        assert found is not None
        return found

    def now_ms(self) -> int:
        """By the database's clock."""
        database = self.registry.journal.database
        with database.read() as connection:
            return Leases(database).now_ms(connection)

    def obeyed(self, bound_s: float = 10.0) -> float:
        """Waits until every server that is up has the shares that are desired; after how many seconds it had."""
        begun = time.monotonic()
        until(self._disobedient, lambda found: not found, bound_s)
        return time.monotonic() - begun

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Ends every connection to the database, and lets nobody in until the context is left."""
        name = str(make_url(self.url).database)
        with self._connect("postgres") as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            try:
                yield
            finally:
                connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The whole server of the database crashes, and comes back."""
        self.cluster.stop()
        try:
            yield
        finally:
            self.cluster.start()

    def _disobedient(self) -> list[tuple[str, str, Any, Any]]:
        found = []
        for model in self.models:
            desired = self.registry.desired(model)
            assert desired is not None
            wanted = {str(share.version): share.weight_bp for share in desired.state.split}
            for desk in self.desks:
                has = desk.shares(model)
                if has is not None and has != wanted:
                    found.append((desk.name, model, has, wanted))
        return found

    def _looked(self, model: str) -> RolloutView:
        time.sleep(0.05)  # Not to keep the database from those that are tested.
        return self.view(model)

    def _launcher(self, folder: Path, name: str, engine: str) -> Launcher:
        home = folder / name
        (home / "models").mkdir(parents=True)
        server = {
            "SOURCE": "registry",
            "REGISTRY": f"{self.url}&application_name=server-{name}",
            "ARTIFACTS": self._artifacts,
            "SERVER_NAME": name,
            "ENGINE": engine,
        }
        sidecar = {
            "REGISTRY": f"{self.url}&application_name=sidecar-{name}",
            "ARTIFACTS": self._artifacts,
            "COUNTS_WINDOW_S": "0.5",
            "CHECKPOINT_S": "1",
            "LEASE_S": str(LEASE_S),
            "ALERTS": "off",
        }
        settings = {f"TICKSERVE_{key}": value for key, value in server.items()}
        return Launcher(home, settings | {f"TICKSERVE_SIDECAR_{key}": value for key, value in sidecar.items()})

    @contextmanager
    def _connect(self, database: str = "") -> Iterator[psycopg.Connection[Any]]:
        made = make_url(self.url)
        with psycopg.connect(
            host=str(made.query["host"]), user="registry", dbname=database or str(made.database), autocommit=True
        ) as connection:
            yield connection

    def _sql(self, statements: str) -> None:
        with self._connect() as connection:
            connection.execute(statements.encode())


def spec(shares: tuple[float, float], min_times_s: tuple[float, float], latency: bool = False) -> dict[str, Any]:
    """A rollout of two steps whose metrics pass after a few flawless windows."""
    cells = {"tolerance": 0.5}
    edge = {"quantile": 0.9, "worse": 0.8, "tolerance": 0.95}
    steps = [
        {"share": share, "min_time_s": min_time_s, "max_time_s": 300.0, "min_requests": 50}
        for share, min_time_s in zip(shares, min_times_s, strict=True)
    ]
    analysis = {"alpha": 0.2, "errors": cells, "violations": cells, "latency": edge if latency else None}
    return {"keys": KEYS, "window_s": 0.5, "steps": steps, "analysis": analysis}


def progress_of(written: Written) -> dict[str, Any]:
    """What a row of progress says."""
    found: dict[str, Any] = json.loads(written.entry["body"])
    return found


def _package(folder: Path, name: str, value: float, **changes: Any) -> Path:
    rule = OutputRule(name="range", output="values", kind="range", minimum=-15.0, maximum=15.0, policy="flag")
    return build_constant(folder, value, name=name, output_rules=[rule], **changes)


def _bad_package(folder: Path, name: str, value: float) -> Path:
    """Answers the row's sum, which is out of range for some rows."""
    graph = slow_model(0)
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    golden = Golden({"features": rows}, open_model(graph)({"features": rows}), rtol=1e-3, atol=1e-3)
    return _package(folder, name, value, model=graph, golden=golden)
