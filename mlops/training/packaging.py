"""From a trained model to a version that a server can load."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops.package import (
    Bounds,
    ColumnMapping,
    DatasetInfo,
    EventTimeRule,
    Golden,
    Horizon,
    InputRules,
    OutcomeSpec,
    ReferenceRows,
    Training,
    add_version,
    build_package,
    export_sklearn,
    run_model,
)
from mlops.training.data import close_times
from mlops.training.features import FEATURES, SESSIONS_PER_YEAR
from mlops.training.fitting import TrainedModel, probabilities, train
from mlops.training.metrics import COST_BP
from mlops.training.models import TITLES, Kind
from mlops.training.split import Rows
from tickserve.errors import ConfigurationError

#: Worst case of adding a hundred trees' shares, together at most 1, in float32, where each addition rounds by up to
#: 2^-24. A row that took a wrong turn in one tree would be off by about a hundred times as much.
GOLDEN_TOLERANCE = 100 * 2.0**-24

#: How far the clock of a trading engine may run ahead of the server's.
MAX_FUTURE_S = 5.0

_SPREAD_ROWS = 32


def build(model: TrainedModel, out: Path) -> Path:
    """Writes a model as the package `out/<digest>`.

    Inputs have their baseline from the training part, outputs from the validation part, golden rows are of the test
    part.

    Raises
    ------
    PackageError
        Where the exported graph does not repeat what the estimator gives on the golden rows.
    """
    train_rows, validation, test = model.split.train, model.split.validation, model.split.test
    golden = test.features[golden_places(test.features)]
    graph = export_sklearn(model.estimator, FEATURES, golden)
    return build_package(
        out,
        name=model.name,
        description=f"Direction of {model.dataset} from the next open to the open after it, by {TITLES[model.kind]}.",
        tags={"dataset": model.dataset, "kind": model.kind},
        task="classification",
        model=graph,
        golden=Golden(
            inputs={"features": golden},
            outputs={"probabilities": probabilities(model.estimator, golden).astype(np.float32)},
            rtol=0.0,
            atol=GOLDEN_TOLERANCE,
        ),
        feature_names=FEATURES,
        reference=ReferenceRows("train", {"features": train_rows.features}, close_times(train_rows.sessions)),
        outputs_reference=ReferenceRows(
            "validation", run_model(graph, {"features": validation.features}), close_times(validation.sessions)
        ),
        signal=ColumnMapping(output="probabilities", column=1, scale=2.0, offset=-1.0),
        confidence=ColumnMapping(output="probabilities"),
        input_rules=input_rules(train_rows.features),
        outcomes=OutcomeSpec(
            kind="time_series",
            horizons=(Horizon(name="1d", periods=1),),
            periods_per_year=float(SESSIONS_PER_YEAR),
            cost_bp=COST_BP,
        ),
        training=_provenance(model),
        datasets={part: _describe(part, rows) for part, rows in model.split.parts().items()},
        metrics=model.metrics,
    )


def publish(model: TrainedModel, models_dir: Path) -> tuple[int, Path]:
    """Packages a model and adds it to a directory of models, where a server finds it.

    Returns
    -------
    tuple of int and Path
        The version and its folder `models_dir/<name>/<version>`. Training again with the same data, code and libraries
        gives the same digest, and so the version that is there already.

    Raises
    ------
    ConfigurationError
        Where `models_dir` cannot be made or written.
    PackageError
        As `build` and `add_version`.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".train-", dir=models_dir) as staging:
            return add_version(models_dir, build(model, Path(staging)))
    except OSError as error:
        raise ConfigurationError(
            f"{models_dir} cannot be written: {error.strerror}; name a folder for models that can",
            field="models_dir",
        ) from None


def train_and_package(dataset: str | Path, kind: Kind, models_dir: Path, *, seed: int = 0) -> Path:
    """`mlops.training.fitting.train`, then `publish`: the folder of the version."""
    return publish(train(dataset, kind, seed=seed), models_dir)[1]


def golden_places(features: NDArray[np.float32]) -> NDArray[np.intp]:
    """Row numbers spread over the whole part, and those of each feature's least and greatest value."""
    spread = np.linspace(0, len(features) - 1, _SPREAD_ROWS).astype(np.intp)
    return np.unique(np.concatenate([spread, features.argmin(axis=0), features.argmax(axis=0)]))


def input_rules(features: NDArray[np.float32]) -> InputRules:
    """Rejects what cannot be: an RSI outside [0, 100], an event time in the future. Flags what was never near.

    Never near is more than the whole observed range away from it. Event times are optional, and of any age, because
    daily features are asked for long after the close and again in replays.
    """
    low, high = features.min(axis=0).astype(np.float64), features.max(axis=0).astype(np.float64)
    reach = high - low
    bounds = {
        name: Bounds(minimum=_rounded(least), maximum=_rounded(most), policy="flag")
        for name, least, most in zip(FEATURES, low - reach, high + reach, strict=True)
    }
    bounds["rsi_14d"] = Bounds(minimum=0.0, maximum=100.0, policy="reject")
    bounds["realised_volatility_21d"] = bounds["realised_volatility_21d"].model_copy(update={"minimum": 0.0})
    return InputRules(bounds=bounds, event_time=EventTimeRule(max_future_s=MAX_FUTURE_S))


def _rounded(bound: float) -> float:
    return float(f"{bound:.3g}")


def _describe(part: str, rows: Rows) -> DatasetInfo:
    tensors: dict[str, NDArray[Any]] = {"features": rows.features, "labels": rows.labels, "returns": rows.returns}
    return ReferenceRows(part, tensors, close_times(rows.sessions)).describe()


def _provenance(model: TrainedModel) -> Training:
    import sklearn

    fitted = model.estimator[-1]
    return Training(
        framework=f"scikit-learn {sklearn.__version__}",
        estimator=type(fitted).__name__,
        parameters={name: str(value) for name, value in fitted.get_params().items()},
        seed=model.seed,
        code_revision=_code_revision(),
    )


def _code_revision() -> str:
    """SHA-256 over this folder's sources: unlike a commit, it is there wherever the code runs, and it covers edits."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(f"{source.name}\0".encode() + hashlib.sha256(source.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()}"
