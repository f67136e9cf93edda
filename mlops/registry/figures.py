"""Metrics: appended by data set and step, read, and ranked. What is undefined never wins."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select

from mlops.package import Metric
from mlops.registry.columns import check_text
from mlops.registry.journal import Write
from mlops.registry.lookup import as_version, require_model, require_version
from mlops.registry.schema import metrics, models, versions
from mlops.registry.values import MetricRow, Status, Version
from mlops.statistics.directions import HIGHER_IS_BETTER
from tickserve.errors import RegistryArgumentError, UnknownError

#: The set that nothing is chosen on unless whoever chooses says so.
TEST_SET = "test"


def log_metrics(
    write: Write, model: str, version: int, dataset: str, figures: Mapping[str, Metric | float], step: int
) -> None:
    """Appends figures of one version on one data set, such as `backtest` or `live`; NaN is stored as undefined."""
    require_version(write.connection, model, version)
    for name, figure in figures.items():
        if isinstance(figure, Metric):
            insert_metric(write, model, version, dataset, name, step, figure.value, figure.standard_error, figure.n)
        else:
            insert_metric(write, model, version, dataset, name, step, _number(name, figure), None, 0)


def insert_metric(
    write: Write,
    model: str,
    version: int,
    dataset: str,
    name: str,
    step: int,
    value: float | None,
    standard_error: float | None,
    n: int,
) -> None:
    """Appends one figure."""
    for what, text in (("dataset", dataset), ("metric", name)):
        if not check_text(what, text):
            raise RegistryArgumentError(f"a metric needs a {what}", field=what)
    if step < 0:
        raise RegistryArgumentError(f"step {step} of metric {name!r} is below 0", field="step")
    if standard_error is not None and standard_error < 0:
        raise RegistryArgumentError(f"metric {name!r} has the standard error {standard_error}, below 0", field=name)
    if value is not None and math.isinf(value):
        raise RegistryArgumentError(f"metric {name!r} on {dataset} is infinite; leave it out or give NaN", field=name)
    write.insert(
        metrics,
        model=model,
        version=version,
        dataset=dataset,
        name=name,
        step=step,
        sequence=write.sequence,
        value=None if value is None or math.isnan(value) else value,
        standard_error=None if standard_error is None or not math.isfinite(standard_error) else standard_error,
        n=n,
        at=write.at,
    )


def _number(name: str, figure: float) -> float:
    try:
        return float(figure)
    except (TypeError, ValueError):
        raise RegistryArgumentError(f"metric {name!r} is {figure!r}; a number is expected", field=name) from None


def read_metrics(connection: Connection, model: str, version: int) -> list[MetricRow]:
    """Every figure that counts, by data set, name and step; a later one of the same place replaces an earlier one."""
    rows = connection.execute(
        select(metrics)
        .where(metrics.c.model == model, metrics.c.version == version)
        .order_by(metrics.c.dataset, metrics.c.name, metrics.c.step, metrics.c.sequence)
    )
    found: dict[tuple[str, str, int], MetricRow] = {}
    for row in rows:
        found[row.dataset, row.name, row.step] = MetricRow(
            row.dataset, row.name, row.step, row.value, row.standard_error, row.n, row.at
        )
    return list(found.values())


def figures_of(connection: Connection, model: str, name: str) -> dict[str, tuple[float, ...]]:
    """By data set one defined figure of each version of a model, those out of use included: all that were tried."""
    rows = connection.execute(
        select(metrics)
        .where(metrics.c.model == model, metrics.c.name == name)
        .order_by(metrics.c.dataset, metrics.c.version, metrics.c.step, metrics.c.sequence)
    )
    last = {(row.dataset, row.version): row.value for row in rows}
    found: dict[str, tuple[float, ...]] = {}
    for (dataset, _), value in last.items():
        if value is not None:
            found[dataset] = (*found.get(dataset, ()), value)
    return found


def last_steps(rows: Sequence[MetricRow]) -> dict[str, dict[str, MetricRow]]:
    """By data set and name the figure of the last step."""
    found: dict[str, dict[str, MetricRow]] = {}
    for row in rows:
        found.setdefault(row.dataset, {})[row.name] = row
    return found


def best(
    connection: Connection,
    metric: str,
    *,
    dataset: str = "validation",
    model: str | None = None,
    strategy_type: str | None = None,
    is_higher_better: bool | None = None,
    may_use_test: bool = False,
) -> tuple[Version, MetricRow]:
    """The version with the best figure among those that are neither retired nor deleted; of equals the oldest.

    Of each version the last step counts, and of that the figure written last. Undefined figures never win.

    Parameters
    ----------
    model, strategy_type : str, optional
        Looks among the versions of one model, or of every model of one strategy type.
    is_higher_better : bool, optional
        Needed for a metric that `HIGHER_IS_BETTER` does not know.
    may_use_test : bool
        Choosing on the test set makes its figures worthless as an estimate, so it has to be said.

    Raises
    ------
    RegistryArgumentError
        Where the direction is unknown, or the test set was asked for without saying so.
    UnknownError
        Where no version has such a figure, or there is no such model.
    """
    if dataset == TEST_SET and not may_use_test:
        raise RegistryArgumentError(
            "choosing on the test set spoils it as an estimate of what is to come; choose on validation, or say that "
            "you mean it (--on-test)",
            field="dataset",
        )
    is_higher_better = HIGHER_IS_BETTER.get(metric) if is_higher_better is None else is_higher_better
    if is_higher_better is None:
        raise RegistryArgumentError(
            f"which way is metric {metric!r} better? say higher or lower; known are "
            f"{', '.join(sorted(HIGHER_IS_BETTER))}",
            field="direction",
        )
    if model is not None:
        require_model(connection, model)
    row = connection.execute(_ranked(metric, dataset, model, strategy_type, is_higher_better)).first()
    if row is None:
        raise UnknownError(f"no version has a defined {metric} on {dataset}", field="metric")
    figure = MetricRow(dataset, metric, row.step, row.value, row.standard_error, row.n, row.at)
    return as_version(row), figure


def _ranked(
    metric: str, dataset: str, model: str | None, strategy_type: str | None, is_higher_better: bool
) -> Select[Any]:
    """Versions with their defined figures, the best first; of each version the figure that counts."""
    place = func.row_number().over(
        partition_by=(metrics.c.model, metrics.c.version),
        order_by=(metrics.c.step.desc(), metrics.c.sequence.desc()),
    )
    query = select(metrics, place.label("place")).where(metrics.c.name == metric, metrics.c.dataset == dataset)
    if model is not None:
        query = query.where(metrics.c.model == model)
    if strategy_type is not None:
        query = query.join(models, models.c.name == metrics.c.model).where(models.c.strategy_type == strategy_type)
    last = query.subquery()
    return (
        select(versions, last.c.step, last.c.value, last.c.standard_error, last.c.n, last.c.at)
        .join(last, (last.c.model == versions.c.model) & (last.c.version == versions.c.version))
        .where(
            last.c.place == 1,
            # NaN lies outside of every range: PostgreSQL holds it greater than all numbers.
            last.c.value.between(-sys.float_info.max, sys.float_info.max),
            versions.c.status.not_in([Status.RETIRED, Status.DELETED]),
        )
        .order_by(
            last.c.value.desc() if is_higher_better else last.c.value.asc(),
            versions.c.registered_at,
            versions.c.model,
            versions.c.version,
        )
        .limit(1)
    )
