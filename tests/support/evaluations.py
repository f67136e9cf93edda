"""Versions as gates see them: a real package, and evaluations whose figures a test knows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Horizon, Manifest, Metric, OutcomeSpec, read_package
from mlops.registry.gates import VersionFacts

Table = dict[str, NDArray[Any]]
DAY_NS = 86_400_000_000_000
#: After the small package's training and test rows.
START_NS = int(np.datetime64("2021-01-04T21:00", "ns").astype(np.int64))
OUTCOMES = OutcomeSpec(
    kind="time_series", horizons=(Horizon(name="1d", periods=1),), periods_per_year=252.0, cost_bp=1.0
)


def make_table(n: int = 600, *, skill: float = 0.3, seed: int = 0, noise_seed: int = 1) -> Table:
    """A regression's daily rows: the outcome is the return, and the prediction knows `skill` of it.

    Tables of one `seed` are of the same rows; `noise_seed` is the model's own.
    """
    returns = 0.01 * np.random.default_rng(seed).standard_t(5, n)
    noise = 0.01 * np.random.default_rng(noise_seed).normal(size=n)
    return {
        "time": START_NS + DAY_NS * np.arange(n, dtype=np.int64),
        "prediction": skill * returns + (1 - abs(skill)) * noise,
        "outcome": returns,
        "return": returns,
    }


def make_facts(package: Path, table: Table | None = None, **changes: Any) -> VersionFacts:
    """A version of this package, with that table as its evaluation of `test`; `changes` are of the manifest."""
    manifest = read_package(package).manifest.model_copy(update=changes)
    return VersionFacts(manifest, manifest.metrics, {} if table is None else {"test": table}, package)


def with_metrics(facts: VersionFacts, **figures: float) -> VersionFacts:
    """The version with these figures registered for `test`, of 500 rows each."""
    return replace(facts, metrics={"test": {name: as_metric(value) for name, value in figures.items()}})


def as_metric(value: float, n: int = 500, standard_error: float | None = None) -> Metric:
    """A figure as a registry may hold it: unchecked, NaN included."""
    return Metric.model_construct(value=value, standard_error=standard_error, n=n)


def trained_until(manifest: Manifest, last: str | None) -> Manifest:
    """The manifest with its training rows ending then."""
    train = manifest.datasets["train"].model_copy(update={"last": last})
    return manifest.model_copy(update={"datasets": {**manifest.datasets, "train": train}})
