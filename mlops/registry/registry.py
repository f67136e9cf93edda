"""The registry as one object: every operation, each one a read of one moment or one change, logged with its author."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from mlops.package import Manifest, Metric, Package
from mlops.registry import (
    aliases,
    compare,
    desired,
    figures,
    fleet,
    gc,
    lifecycle,
    lookup,
    migrate,
    promotion,
    register,
    runs,
    search,
    servers,
    transfer,
    verify,
    wanted,
)
from mlops.registry.database import Database
from mlops.registry.evaluation import KIND as EVALUATION
from mlops.registry.evaluation import Table, write_table
from mlops.registry.facts import set_facts
from mlops.registry.fetch import Fetcher
from mlops.registry.gates import GatePolicy, GateReport, evaluate
from mlops.registry.journal import Author, Clock, Journal, Write, utc_now
from mlops.registry.leases import database_now
from mlops.registry.promotion import Evaluate, Promoter
from mlops.registry.store import ArtifactStore
from mlops.registry.trust import Trust, requires_signature, set_requirement
from mlops.registry.values import (
    Approval,
    Change,
    Desired,
    DesiredState,
    GateEvaluation,
    MetricRow,
    Model,
    ModelFacts,
    Run,
    RunFacts,
    RunStatus,
    Served,
    Version,
)

_Result = TypeVar("_Result")

#: How often `watch` asks.
POLL_S = 0.2
#: Without a policy the gates' own defaults count.
DEFAULT_POLICY = GatePolicy()


class Registry:
    """What exists, what may serve, who said so, and proof.

    Safe to use from many threads, and from many processes that each open their own.

    Parameters
    ----------
    url : str
        `sqlite:////path/registry.db` or `postgresql://user@host/name`. Tables are made where there are none.
    artifacts : str
        Folder of the files, or a URL that fsspec opens. All users of one registry need the same.
    cache : Path
        Folder of this machine for packages that were fetched.
    keys : Path
        Folder of this machine with the public keys that may vouch for packages, where the registry asks for that.
    clock : callable
        The time in UTC.
    evaluate : callable
        Runs the gates.

    Raises
    ------
    ConfigurationError
        Where a URL is malformed, or the database has another schema.
    UnreachableError
        Where the database does not answer.
    """

    def __init__(
        self,
        url: str,
        artifacts: str,
        cache: Path,
        keys: Path,
        *,
        clock: Clock | None = None,
        evaluate: Evaluate = evaluate,
    ) -> None:
        self._database = Database(url)
        migrate.prepare(self._database)
        self._store = ArtifactStore(artifacts)
        self._clock = clock or utc_now
        self._journal = Journal(self._database, self._clock)
        #: What servers say is held against one clock, whatever those of their machines say.
        self._now = database_now if clock is None else lambda _: clock()
        trust = Trust(self._database, keys)
        self._fetcher = Fetcher(self._database, self._store, cache, trust)
        self._registrar = register.Registrar(self._journal, self._store, trust)
        self._promoter = Promoter(self._journal, self._fetcher, evaluate)

    def close(self) -> None:
        """Closes every connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def journal(self) -> Journal:
        """How changes are written; for what is kept here and has rules of its own, such as rollouts."""
        return self._journal

    @property
    def promoter(self) -> Promoter:
        """Changes that gates stand before."""
        return self._promoter

    # Reading

    def resolve(self, model: str, reference: str | int = "live") -> Version:
        """The version that a number, `live`, `canary`, an alias or a label names. See `lookup.resolve`."""
        with self._database.read() as connection:
            return lookup.resolve(connection, model, reference)

    def version(self, model: str, number: int) -> Version:
        """A version by number, also a deleted one."""
        with self._database.read() as connection:
            return lookup.require_version(connection, model, number)

    def model(self, name: str) -> Model:
        """One model."""
        with self._database.read() as connection:
            return search.read_model(connection, name)

    def search(self, text: str = "", **filters: Any) -> list[Model]:
        """One page of the models that match. See `search.search`."""
        with self._database.read() as connection:
            return search.search(connection, text, **filters)

    def versions(self, model: str, **filters: Any) -> list[Version]:
        """One page of a model's versions, newest first. See `search.list_versions`."""
        with self._database.read() as connection:
            return search.list_versions(connection, model, **filters)

    def labelled(self, model: str, **page: Any) -> list[Version]:
        """One page of a model's labelled versions, by semantic version. See `search.list_labelled`."""
        with self._database.read() as connection:
            return search.list_labelled(connection, model, **page)

    def manifest(self, version: Version) -> Manifest:
        """What the version's package says of it."""
        with self._database.read() as connection:
            return desired.read_manifest(connection, version.digest)

    def metrics(self, version: Version) -> list[MetricRow]:
        """Every figure of a version."""
        with self._database.read() as connection:
            return figures.read_metrics(connection, version.model, version.version)

    def evaluations(self, version: Version) -> Mapping[str, Table]:
        """The per-row evaluations of a version, by data set."""
        return self._fetcher.evaluations(version)

    def runs(self, model: str, version: int | None = None) -> list[Run]:
        """The training runs of a model, or of one version."""
        with self._database.read() as connection:
            return runs.list_runs(connection, model, version)

    def best(self, metric: str, **filters: Any) -> tuple[Version, MetricRow]:
        """The version with the best figure. See `figures.best`."""
        with self._database.read() as connection:
            return figures.best(connection, metric, **filters)

    def gate_evaluations(self, version: Version) -> list[GateEvaluation]:
        """What the gates found on a version, newest first: the whole report each."""
        with self._database.read() as connection:
            return promotion.read_evaluations(connection, version.model, version.version)

    def approvals(self, version: Version) -> list[Approval]:
        """Who approved what of a version, oldest first."""
        with self._database.read() as connection:
            return lifecycle.read_approvals(connection, version.model, version.version)

    def compare(self, left: tuple[str, str | int], right: tuple[str, str | int]) -> compare.Comparison:
        """Two versions side by side, each given as model and reference."""
        with self._database.read() as connection:
            return compare.compare(connection, left, right)

    def history(self, model: str | None = None, version: int | None = None, **page: Any) -> list[Change]:
        """One page of what was changed, newest first. See `search.history`."""
        with self._database.read() as connection:
            return search.history(connection, model, version, **page)

    def aliases(self, model: str) -> Mapping[str, int]:
        """The version of each alias of a model."""
        with self._database.read() as connection:
            lookup.require_model(connection, model)
            return aliases.read_aliases(connection, model)

    def desired(self, model: str) -> Desired | None:
        """What is meant to be served now; None where nothing ever was."""
        with self._database.read() as connection:
            lookup.require_model(connection, model)
            return desired.read_desired(connection, model)

    def as_of(self, model: str, at: datetime) -> Desired | None:
        """What was meant to be served at a time; None where nothing was yet."""
        with self._database.read() as connection:
            lookup.require_model(connection, model)
            return desired.desired_at(connection, model, at)

    def aliases_as_of(self, model: str, at: datetime) -> Mapping[str, int]:
        """The version that each alias had at a time."""
        with self._database.read() as connection:
            lookup.require_model(connection, model)
            return aliases.aliases_at(connection, model, at)

    def wanted(self) -> wanted.Wanted:
        """All that servers are meant to serve now."""
        with self._database.read() as connection:
            return wanted.read_wanted(connection)

    def names_schema_since(self, model: str, stable: int) -> bool:
        """Whether another schema was accepted by name since this version was stable."""
        with self._database.read() as connection:
            return wanted.names_schema_since(connection, model, stable)

    def served(self, model: str | None = None, at: datetime | None = None) -> list[Served]:
        """What each server had installed at a time, by its own reports and its own clock; now where none is given."""
        with self._database.read() as connection:
            if model is not None:
                lookup.require_model(connection, model)
            return servers.installed(connection, model, at)

    @property
    def revision(self) -> int:
        """Rises with every write of any desired state, and where signatures become required or no longer are."""
        with self._database.read() as connection:
            return desired.read_revision(connection)

    def watch(self, after: int | None = None, pause: Callable[[float], object] = time.sleep) -> Iterator[int]:
        """Each revision beyond `after` as it appears, for ever; those passed meanwhile are skipped.

        Parameters
        ----------
        after : int, optional
            The revision that is known; without it the present one comes at once.
        pause : callable
            Waits so many seconds between two looks.
        """
        while True:
            found = self.revision
            if found != after:
                yield found
                after = found
            pause(POLL_S)

    @property
    def requires_signature(self) -> bool:
        """Whether packages need the signature of a trusted key, at registration and at loading."""
        with self._database.read() as connection:
            return requires_signature(connection)

    # Changing

    def require_signature(self, is_required: bool, author: Author) -> None:
        """Requires signatures from now on, or no longer."""
        self._change("require-signature", author, lambda write: set_requirement(write, is_required))

    def register(self, path: Path, author: Author, registration: register.Registration | None = None) -> Version:
        """Makes a package the next version of its model. See `Registrar.register`."""
        return self._registrar.register(path, author, registration or register.Registration())

    def approve(self, model: str, version: int, author: Author) -> Version:
        """Lets a version be desired."""
        return self._change("approve", author, lambda write: lifecycle.approve(write, model, version), model, version)

    def approve_inconclusive(self, model: str, version: int, author: Author) -> Version:
        """Lets an approved version be promoted although a gate could not decide."""
        return self._change(
            "approve-inconclusive",
            author,
            lambda write: lifecycle.approve_inconclusive(write, model, version),
            model,
            version,
        )

    def check(self, model: str, version: int, author: Author, policy: GatePolicy = DEFAULT_POLICY) -> GateReport:
        """Runs the gates and keeps their result; promotes nothing."""
        return self._promoter.check(model, version, policy, author)

    def promote(
        self,
        model: str,
        version: int,
        author: Author,
        policy: GatePolicy = DEFAULT_POLICY,
        *,
        expected: int | None = None,
        schema_override: int = 0,
    ) -> tuple[Desired, GateReport]:
        """Makes a version the live one, if its gates let it. See `Promoter.promote`."""
        return self._promoter.promote(
            model, version, policy, author, expected=expected, schema_override=schema_override
        )

    def rollback(self, model: str, author: Author, expected: int | None = None) -> Desired:
        """Makes the stable version before the present one live again. See `desired.roll_back`."""
        return self._journal.write(
            "rollback",
            author,
            lambda write: desired.roll_back(write, model, expected),
            model=model,
            version=lambda desired: desired.state.named("stable"),
        )

    def set_desired(self, model: str, state: DesiredState, author: Author, expected: int | None) -> Desired:
        """Replaces the whole desired state. See `desired.set_state`."""
        return self._change("desired", author, lambda write: desired.set_state(write, model, state, expected), model)

    def retire(self, model: str, version: int, author: Author) -> Version:
        """Takes a version out of use."""
        return self._change("retire", author, lambda write: lifecycle.retire(write, model, version), model, version)

    def delete(self, model: str, version: int, author: Author) -> Version:
        """Deletes a version that nothing uses."""
        return self._change("delete", author, lambda write: lifecycle.delete(write, model, version), model, version)

    def set_label(self, model: str, version: int, label: str | None, author: Author) -> Version:
        """Gives a version a semantic version as its label, or takes it away."""
        return self._change(
            "label", author, lambda write: lifecycle.set_label(write, model, version, label), model, version
        )

    def set_alias(self, model: str, alias: str, version: int, author: Author) -> None:
        """Points an alias at a version."""
        self._change("alias", author, lambda write: aliases.set_alias(write, model, alias, version), model, version)

    def remove_alias(self, model: str, alias: str, author: Author) -> None:
        """Removes an alias."""
        self._change("unalias", author, lambda write: aliases.remove_alias(write, model, alias), model)

    def set_facts(self, model: str, facts: ModelFacts, author: Author) -> None:
        """Replaces what a model is for, its tags included."""

        def change(write: Write) -> None:
            lookup.require_model(write.connection, model)
            set_facts(write, model, facts)

        self._change("facts", author, change, model)

    def log_metrics(
        self,
        model: str,
        version: int,
        dataset: str,
        values: Mapping[str, Metric | float],
        author: Author,
        step: int = 0,
    ) -> None:
        """Appends figures of a version on one data set."""
        self._change(
            "log-metrics",
            author,
            lambda write: figures.log_metrics(write, model, version, dataset, values, step),
            model,
            version,
        )

    def log_evaluation(self, model: str, version: int, dataset: str, table: Table, author: Author) -> None:
        """Keeps a per-row evaluation of a version on one data set."""
        data = write_table(table)
        sha256 = self._store.put(data)

        def change(write: Write) -> None:
            lookup.require_version(write.connection, model, version)
            self._registrar.keep(write, sha256, data)
            register.attach(write, model, version, EVALUATION, dataset, sha256)

        self._change("log-evaluation", author, change, model, version)

    def log_run(self, model: str, facts: RunFacts, author: Author) -> str:
        """Keeps a training run that led to no version, or to none yet; returns its identity."""
        return self._change("log-run", author, lambda write: runs.insert_run(write, model, None, facts), model)

    def end_run(self, run: str, status: RunStatus, author: Author, duration_s: float | None = None) -> None:
        """Says how a training run that was logged as running ended."""
        self._change("end-run", author, lambda write: runs.end_run(write, run, status, duration_s))

    def report(self, server: str, events: Sequence[servers.ServerEvent], author: Author) -> None:
        """Keeps what a server did; this does not move the revision."""
        self._change("report", author, lambda write: servers.report(write, server, events))

    def say(self, report: fleet.ServerReport) -> None:
        """Replaces what a server said of itself before; the time is the database's."""
        self._database.write(
            lambda connection: fleet.write_report(connection, replace(report, at=self._now(connection)))
        )

    def reports(self) -> list[fleet.ServerReport]:
        """What every server said of itself last; `silent` is the state of one that has said nothing for too long."""
        with self._database.read() as connection:
            return fleet.read_reports(connection, self._now(connection))

    def lags(self, desired: Desired) -> list[fleet.Lag]:
        """Which servers do not serve yet what is desired of a model, and why."""
        return list(fleet.lags(self.reports(), desired))

    # Caring

    def fetch(self, version: Version) -> Package:
        """The verified package of a version, in this machine's cache."""
        return self._fetcher.package(version)

    def export(self, version: Version, out: Path) -> Path:
        """Writes a version with its history into a folder below `out`."""
        return transfer.Exporter(self._database, self._fetcher).export(version, out)

    def import_version(self, folder: Path, author: Author) -> Version:
        """Registers what `export` wrote."""
        return transfer.Importer(self._journal, self._registrar).import_version(folder, author)

    def verify(self, expected_head: str | None = None) -> verify.Verification:
        """Checks the audit chain, every row and every file."""
        with self._database.read() as connection:
            return verify.verify(connection, self._store, expected_head)

    def find_garbage(self, retention: timedelta = gc.RETENTION, grace: timedelta = gc.GRACE) -> list[gc.Garbage]:
        """The files that `collect_garbage` would remove."""
        with self._database.read() as connection:
            return gc.find_garbage(connection, self._store, self._clock(), retention, grace)

    def collect_garbage(
        self, author: Author, retention: timedelta = gc.RETENTION, grace: timedelta = gc.GRACE
    ) -> list[gc.Garbage]:
        """Removes the files that nobody needs, and returns which."""

        def change(write: Write) -> list[gc.Garbage]:
            garbage = gc.find_garbage(write.connection, self._store, write.at, retention, grace)
            gc.mark(write, garbage)
            return garbage

        garbage = self._change("gc", author, change)
        return self._database.write(lambda connection: gc.sweep(connection, self._store, garbage))

    def _change(
        self,
        action: str,
        author: Author,
        change: Callable[[Write], _Result],
        model: str | None = None,
        version: int | None = None,
    ) -> _Result:
        return self._journal.write(action, author, change, model=model, version=version)
