"""Training runs: what made a version, and those that made none."""

import uuid
from typing import get_args

from sqlalchemy import Connection, select

from mlops.registry.journal import Write
from mlops.registry.schema import runs
from mlops.registry.values import Run, RunFacts, RunStatus
from tickserve.errors import RegistryArgumentError, RegistryError, UnknownError


def insert_run(write: Write, model: str, version: int | None, facts: RunFacts) -> str:
    """Records a training run and returns its identity."""
    _check_status(facts.status)
    run = uuid.uuid4().hex
    write.insert(
        runs,
        run=run,
        model=model,
        version=version,
        status=facts.status,
        parameters=dict(facts.parameters),
        environment=dict(facts.environment),
        code_revision=facts.code_revision,
        data_fingerprint=facts.data_fingerprint,
        seed=facts.seed,
        started_at=facts.started_at,
        duration_s=facts.duration_s,
    )
    return run


def end_run(write: Write, run: str, status: RunStatus, duration_s: float | None) -> None:
    """Says how a run that was recorded as running ended, and how long it took."""
    _check_status(status)
    found = write.connection.execute(select(runs.c.status).where(runs.c.run == run)).scalar_one_or_none()
    if found is None:
        raise UnknownError(f"there is no training run {run!r}", field="run")
    if found != "running":
        raise RegistryError(f"training run {run!r} is {found} already", field="run")
    write.update(runs, {"run": run}, status=status, duration_s=duration_s)


def list_runs(connection: Connection, model: str, version: int | None = None) -> list[Run]:
    """The training runs of a model, or of one version."""
    query = select(runs).where(runs.c.model == model).order_by(runs.c.version, runs.c.run)
    if version is not None:
        query = query.where(runs.c.version == version)
    return [
        Run(
            row.run,
            row.model,
            row.version,
            RunFacts(
                row.status,
                row.parameters,
                row.environment,
                row.code_revision,
                row.data_fingerprint,
                row.seed,
                row.started_at,
                row.duration_s,
            ),
        )
        for row in connection.execute(query)
    ]


def _check_status(status: str) -> None:
    if status not in get_args(RunStatus):
        raise RegistryArgumentError(
            f"status of a run is {status!r}; one of {', '.join(get_args(RunStatus))} is expected", field="status"
        )
