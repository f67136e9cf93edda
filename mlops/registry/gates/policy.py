"""Which gates run, and at which levels: a small value, read from TOML or a dict, with defaults by task."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mlops.package.manifest import Frozen, Name, explain
from mlops.registry.figures import TEST_SET
from mlops.statistics.directions import HIGHER_IS_BETTER
from tickserve.errors import ConfigurationError

Task = Literal["classification", "regression", "unknown"]

#: What values of a metric are possible. Outside lies another convention, such as a drawdown counted as negative.
DOMAINS: Mapping[str, tuple[float, float]] = {
    "accuracy": (0, 1),
    "auc": (0, 1),
    "brier": (0, 1),
    "ic": (-1, 1),
    "log_loss": (0, float("inf")),
    "mae": (0, float("inf")),
    # A fall of more than the whole capital is possible with leverage or a short position.
    "max_drawdown": (0, float("inf")),
    "mse": (0, float("inf")),
    "precision": (0, 1),
    "r2": (float("-inf"), 1),
    "recall": (0, 1),
    "rmse": (0, float("inf")),
}
#: Metrics whose difference to the live version can be bootstrapped from rows.
COMPARABLE = frozenset({"accuracy", "auc", "brier", "ic", "log_loss", "mae", "mse", "r2", "sharpe"})

Share = Annotated[float, Field(gt=0, lt=0.5)]


class Minimum(Frozen):
    """A bound on one metric that no version may break; it says its direction by which bound it gives.

    Parameters
    ----------
    metric, data_set : str
        The figure; computed from the evaluation's rows where there are any, else the registered one.
    at_least, at_most : float
        Exactly one of them; the bound itself is allowed.
    rows : int
        On fewer than that a figure that keeps the bound says too little: inconclusive.
    """

    metric: Name
    data_set: Name = TEST_SET
    at_least: float | None = None
    at_most: float | None = None
    rows: Annotated[int, Field(ge=2)] = 250

    @model_validator(mode="after")
    def _consistent(self) -> "Minimum":
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.metric} needs either at_least or at_most")
        is_higher_better = HIGHER_IS_BETTER.get(self.metric)
        if is_higher_better is not None and is_higher_better != (self.at_least is not None):
            raise ValueError(
                f"{self.metric} is better {'higher' if is_higher_better else 'lower'}; "
                f"give {'at_least' if is_higher_better else 'at_most'}"
            )
        low, high = DOMAINS.get(self.metric, (float("-inf"), float("inf")))
        if not low <= self.bound <= high:
            raise ValueError(f"{self.metric} lies from {low:g} to {high:g}; {self.bound:g} bounds nothing")
        return self

    @property
    def bound(self) -> float:
        """The one that is given."""
        bound = self.at_most if self.at_least is None else self.at_least
        assert bound is not None  # noqa: S101 - the validator saw to it
        return bound

    def is_kept(self, value: float) -> bool:
        """Whether a value is on the right side; NaN never is."""
        return value >= self.bound if self.at_least is not None else value <= self.bound


class NonInferiority(Frozen):
    """The candidate may be worse than the live version by less than `margin`, in the metric's own unit.

    Parameters
    ----------
    metric, data_set : str
        The figure, and the data set whose rows both versions were evaluated on.
    margin : float
        Above 0: no sample of daily returns can show that one model is better than another, or just as good.
    level : float
        Error rate on each side: how often a version that is worse by the whole margin passes.
    periods : int
        Distinct times that both must have after both trainings and the purge.
    repetitions : int
        Resamples of the bootstrap.
    """

    metric: Name
    data_set: Name = TEST_SET
    margin: Annotated[float, Field(gt=0)]
    level: Share = 0.05
    periods: Annotated[int, Field(ge=50)] = 250
    repetitions: Annotated[int, Field(ge=200, le=100_000)] = 2000

    @model_validator(mode="after")
    def _known(self) -> "NonInferiority":
        if self.metric not in COMPARABLE:
            raise ValueError(f"{self.metric} cannot be compared row by row; these can: {', '.join(sorted(COMPARABLE))}")
        return self


class LatencyLevels(Frozen):
    """How the time of one row is judged.

    Parameters
    ----------
    runs : int
        Timed runs, after `warm_up` ones that are not: the 99th percentile needs 500 to have an interval.
    budget_us : int, optional
        What the 99th percentile has to keep; the package's own budget where not given.
    """

    runs: Annotated[int, Field(ge=500, le=1_000_000)] = 2000
    warm_up: Annotated[int, Field(ge=1)] = 100
    budget_us: Annotated[int, Field(ge=1)] | None = None


class GatePolicy(Frozen):
    """Which gates run, and at which levels; smoke tests, checklist and schema always do.

    Parameters
    ----------
    minimums, comparisons : tuple, optional
        The task's defaults where not given (see `defaults_of`); an empty tuple asks for none, which leaves the matter
        inconclusive.
    training_sets : tuple of str
        Data sets that a version was fitted on or chosen by; rows compared have to lie after all of them.
    schema_override : bool
        Accepts a schema other than that of the live version.
    seed : int
        Of the bootstrap, so that a report can be repeated.
    """

    minimums: tuple[Minimum, ...] | None = None
    comparisons: tuple[NonInferiority, ...] | None = None
    latency: LatencyLevels = LatencyLevels()
    training_sets: Annotated[tuple[Name, ...], Field(min_length=1)] = ("train", "validation")
    schema_override: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _without_repeats(self) -> "GatePolicy":
        for what, entries in (("minimums", self.minimums), ("comparisons", self.comparisons)):
            keys = [(entry.data_set, entry.metric) for entry in entries or ()]
            if len(set(keys)) != len(keys):
                raise ValueError(f"{what} name a metric of one data set twice")
        return self

    def for_task(self, task: Task) -> "GatePolicy":
        """With the task's defaults where nothing is given."""
        minimums, comparisons = defaults_of(task)
        return self.model_copy(
            update={
                "minimums": minimums if self.minimums is None else self.minimums,
                "comparisons": comparisons if self.comparisons is None else self.comparisons,
            }
        )


def defaults_of(task: Task) -> tuple[tuple[Minimum, ...], tuple[NonInferiority, ...]]:
    """Minimums and comparisons of a task; none where the task is unknown, for no figure is known to matter there.

    Low on purpose: daily returns cannot carry a demanding bar, and one that they cannot show is passed by luck.
    """
    trading = (Minimum(metric="sharpe", at_least=0.0), Minimum(metric="max_drawdown", at_most=0.3))
    earning = NonInferiority(metric="sharpe", margin=1.0)
    if task == "classification":
        ranking = NonInferiority(metric="auc", margin=0.03)
        return (Minimum(metric="accuracy", at_least=0.5), *trading), (
            ranking,
            earning,
        )
    if task == "regression":
        ranking = NonInferiority(metric="ic", margin=0.03)
        return (Minimum(metric="ic", at_least=0.0), *trading), (ranking, earning)
    return (), ()


def make_policy(entries: Mapping[str, Any], what: str = "gate policy") -> GatePolicy:
    """A policy of these entries, as TOML gives them.

    Raises
    ------
    ConfigurationError
        Where an entry is unknown, ill-typed or contradicts another; `field` is its path.
    """
    try:
        return GatePolicy.model_validate(_frozen(entries))
    except ValidationError as error:
        reason = explain(error, what)
        raise ConfigurationError(reason.message, field=reason.field) from None


def read_policy(path: Path) -> GatePolicy:
    """Reads a TOML file.

    Raises
    ------
    ConfigurationError
        Where it cannot be read, is no TOML, or is no policy.
    """
    try:
        return make_policy(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", field=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML: {error}", field=str(path)) from None


def _frozen(entries: Any) -> Any:
    """Lists, which TOML has, as the tuples that strict types ask for."""
    if isinstance(entries, Mapping):
        return {name: _frozen(entry) for name, entry in entries.items()}
    return tuple(_frozen(entry) for entry in entries) if isinstance(entries, list) else entries
