"""Fitting a model on the training part of a data set, and measuring it on every part."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import Metric, check_model_name
from mlops.training.data import Bars, load_bars
from mlops.training.metrics import evaluate, feature_metrics
from mlops.training.models import Kind, make_estimator
from mlops.training.split import Split, split_rows
from tickserve.errors import DataError

#: Metrics by part of the data, then by name.
Figures = dict[str, dict[str, Metric]]


@dataclass(frozen=True)
class TrainedModel:
    """A fitted estimator with the rows it saw and did not see, and its metrics."""

    dataset: str
    kind: Kind
    seed: int
    estimator: Any
    split: Split
    metrics: Figures

    @property
    def name(self) -> str:
        """The model's name, such as `sp500-forest`."""
        return f"{self.dataset}-{self.kind}"


def train(dataset: str | Path, kind: Kind, *, seed: int = 0) -> TrainedModel:
    """Fits one model. Nothing is chosen on the validation part, so both later parts are out of sample.

    Parameters
    ----------
    dataset : str or Path
        See `mlops.training.data.load_bars`.
    kind : str
        One of `mlops.training.models.KINDS`.
    seed : int
        Of every random choice; equal seeds give equal models.

    Raises
    ------
    DataError
        Where the data set is unknown, malformed, too short, moves in one direction only, or cannot name a model.
    """
    return train_on(load_bars(dataset), kind, seed=seed)


def train_on(bars: Bars, kind: Kind, *, seed: int = 0) -> TrainedModel:
    """As `train`, on bars that are at hand."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    try:
        check_model_name(f"{bars.name}-{kind}")
    except ValueError as error:
        raise DataError(f"data set {bars.name!r} cannot name a model: {error}; rename the file") from None
    split = split_rows(bars)
    if np.ptp(split.train.labels) == 0:
        raise DataError(
            f"{bars.name}: every training row has the label {split.train.labels[0]}, expected rows of both; "
            "is column Open filled in?",
            field="Open",
        )
    estimator = make_estimator(kind, seed=seed)
    # Threads that add up in another order show in the last bits, and so in the package's digest.
    with threadpool_limits(limits=1):
        estimator.fit(split.train.features.astype(np.float64), split.train.labels)
        metrics = {
            part: evaluate(probabilities(estimator, rows.features)[:, 1], rows.returns)
            for part, rows in split.parts().items()
        }
    metrics["train"] |= feature_metrics(split.train)
    return TrainedModel(dataset=bars.name, kind=kind, seed=seed, estimator=estimator, split=split, metrics=metrics)


def probabilities(estimator: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the framework gives in float64, shape (m, 2): not up, up."""
    return np.asarray(estimator.predict_proba(features.astype(np.float64)))


def always_long(split: Split) -> Figures:
    """Metrics of knowing nothing but how often prices rose in training: the yardstick for a model."""
    share = float(split.train.labels.mean())
    return {part: evaluate(np.full(len(rows), share), rows.returns) for part, rows in split.parts().items()}
