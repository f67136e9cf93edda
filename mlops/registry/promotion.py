"""Promotion: gates are evaluated without any lock, then the state is written only if nothing moved meanwhile."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, func, select

from mlops.package import Metric
from mlops.registry.desired import promoted, read_desired, read_manifest, require_revision, write_state
from mlops.registry.fetch import Fetcher
from mlops.registry.figures import figures_of, last_steps, read_metrics
from mlops.registry.gates import GatePolicy, GateReport, VersionFacts, evaluate
from mlops.registry.journal import Author, Journal, Write
from mlops.registry.lifecycle import OF_INCONCLUSIVE
from mlops.registry.lookup import require_version, resolve
from mlops.registry.rollouts import require_no_rollout
from mlops.registry.schema import approvals, audit, desired_history, gate_results
from mlops.registry.values import Desired, GateEvaluation, Status, Version
from tickserve.errors import RegistryError

_Result = TypeVar("_Result")
#: Judges a candidate against the live version.
Evaluate = Callable[[VersionFacts, VersionFacts | None, GatePolicy], GateReport]


class GateError(RegistryError):
    """Gates keep a version from being promoted; `report` says which and why."""

    def __init__(self, message: str, report: GateReport) -> None:
        super().__init__(message, field="gates")
        self.report = report


@dataclass(frozen=True)
class Promoter:
    """Judges versions and makes them live, in one registry."""

    journal: Journal
    fetcher: Fetcher
    evaluate: Evaluate = evaluate

    def check(self, model: str, version: int, policy: GatePolicy, author: Author) -> GateReport:
        """Runs the gates and keeps their result; promotes nothing."""
        report, live, _ = self._judge(model, version, policy, {Status.VALIDATED, Status.APPROVED}, None)
        self.journal.write(
            "check",
            author,
            lambda write: _insert_result(write, model, version, live, report, policy),
            model=model,
            version=version,
        )
        return report

    def promote(
        self,
        model: str,
        version: int,
        policy: GatePolicy,
        author: Author,
        *,
        expected: int | None = None,
        schema_override: int = 0,
    ) -> tuple[Desired, GateReport]:
        """Makes a version the stable one, for every request.

        Parameters
        ----------
        expected : int, optional
            The model's revision that the decision rests on; without it the one that the gates are run against.
        schema_override : int
            The version itself, where clients are ready for its other schema.

        Raises
        ------
        GateError
            Where a gate fails, or is inconclusive and nobody approved that. The result is kept all the same.
        ConflictError
            Where the desired state moved.
        RegistryError
            Where the version is not approved, its schema differs from the live one's and is not overridden, or a
            rollout of the model is open.
        """
        if schema_override == version:
            policy = policy.model_copy(update={"schema_override": True})

        def check(connection: Connection) -> None:
            require_no_rollout(connection, model, "promoting")

        def change(write: Write, now: Desired | None) -> Desired:
            state = promoted(now.state if now else None, version, schema_override)
            return write_state(write, model, state, expected)

        return self.gated("promote", model, version, policy, author, check, change, expected=expected)

    def gated(
        self,
        action: str,
        model: str,
        version: int,
        policy: GatePolicy,
        author: Author,
        check: Callable[[Connection], None],
        change: Callable[[Write, Desired | None], _Result],
        *,
        expected: int | None = None,
    ) -> tuple[_Result, GateReport]:
        """Changes something for the sake of a version, if its gates let it; their result is kept in any case.

        Parameters
        ----------
        check : callable
            Raises where the change is refused whatever the gates say; asked before they are run, and again.
        change : callable
            Takes the desired state that the gates were run against.

        Raises
        ------
        GateError, ConflictError, RegistryError
            As `promote`.
        """
        with self.journal.database.read() as connection:
            check(connection)
        report, live, found = self._judge(model, version, policy, {Status.APPROVED}, expected)
        refused: list[str] = []

        def run(write: Write) -> list[_Result]:
            refused.clear()
            now = read_desired(write.connection, model)
            require_revision(now, model, found)
            check(write.connection)
            _insert_result(write, model, version, live, report, policy)
            if (reason := _refusal(write, model, version, live, report)) is not None:
                refused.append(reason)
                return []
            return [change(write, now)]

        done = self.journal.write(
            lambda done: action if done else f"{action}-refused", author, run, model=model, version=version
        )
        if not done:
            raise GateError(refused[0], report)
        return done[0], report

    def _judge(
        self, model: str, version: int, policy: GatePolicy, statuses: Container[Status], expected: int | None
    ) -> tuple[GateReport, int | None, int]:
        """The report, the version it was compared with, and the revision that this was live at."""
        with self.journal.database.read() as connection:
            candidate = require_version(connection, model, version)
            if candidate.status not in statuses:
                raise RegistryError(
                    f"version {version} of model {model!r} is {candidate.status}; approve it first "
                    f"(tickserve models approve {model} {version})",
                    field="status",
                )
            desired = read_desired(connection, model)
            require_revision(desired, model, expected)
            stable = desired.state.named("stable") if desired else None
            live = resolve(connection, model, stable) if stable is not None and stable != version else None
        report = self.evaluate(self._facts(candidate), self._facts(live) if live else None, policy)
        return report, live.version if live else None, desired.revision if desired else 0

    def _facts(self, version: Version) -> VersionFacts:
        package = self.fetcher.package(version)
        with self.journal.database.read() as connection:
            rows = read_metrics(connection, version.model, version.version)
            manifest = read_manifest(connection, version.digest)
            tried = figures_of(connection, version.model, "sharpe")
        metrics = {
            dataset: {
                name: Metric(value=row.value, standard_error=row.standard_error, n=row.n)
                for name, row in figures.items()
                if row.value is not None
            }
            for dataset, figures in last_steps(rows).items()
        }
        return VersionFacts(manifest, metrics, self.fetcher.evaluations(version), package.path, tried)


def read_evaluations(connection: Connection, model: str, version: int, limit: int = 100) -> list[GateEvaluation]:
    """What the gates found on a version, newest first, whatever it led to."""
    require_version(connection, model, version)
    rows = connection.execute(
        select(gate_results, audit.c.action, audit.c.actor)
        .join(audit, audit.c.sequence == gate_results.c.sequence)
        .where(gate_results.c.model == model, gate_results.c.version == version)
        .order_by(gate_results.c.sequence.desc())
        .limit(limit)
    )
    return [GateEvaluation(row.at, row.actor, row.action, row.verdict, row.live, row.report) for row in rows]


def _insert_result(
    write: Write, model: str, version: int, live: int | None, report: GateReport, policy: GatePolicy
) -> None:
    write.insert(
        gate_results,
        model=model,
        version=version,
        sequence=write.sequence,
        verdict=report.verdict,
        live=live,
        report=report.as_json() | {"policy": policy.model_dump(mode="json")},
        at=write.at,
    )


def _refusal(write: Write, model: str, version: int, live: int | None, report: GateReport) -> str | None:
    """Why the report keeps the version from being promoted, or None."""
    if report.verdict == "pass":
        return None
    named = "; ".join(f"{gate.name}: {gate.text}" for gate in report.gates if gate.verdict == report.verdict)
    if report.verdict == "fail":
        return f"version {version} of model {model!r} fails its gates: {named}"
    approved = write.connection.execute(
        select(approvals.c.sequence).where(
            approvals.c.model == model,
            approvals.c.version == version,
            approvals.c.kind == OF_INCONCLUSIVE,
            # Approved was what could be known then: beside another live version it has to be asked again.
            approvals.c.sequence > _live_since(write, model, live),
        )
    ).first()
    if approved is not None:
        return None
    return (
        f"gates could not decide on version {version} of model {model!r} ({named or 'no gate had data'}); somebody has "
        f"to approve that (tickserve models approve {model} {version} --inconclusive)"
    )


def _live_since(write: Write, model: str, live: int | None) -> int:
    """The sequence of the change that made this version the live one; 0 where none is."""
    if live is None:
        return 0
    history = desired_history
    of_model = history.c.model == model
    other = select(func.coalesce(func.max(history.c.revision), 0)).where(of_model, history.c.stable != live)
    since = select(func.min(history.c.sequence)).where(of_model, history.c.revision > other.scalar_subquery())
    return int(write.connection.execute(since).scalar_one())
