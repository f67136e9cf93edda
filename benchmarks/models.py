"""The models that are served: trained and packaged here, so that no figure depends on a file from elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from mlops.package import ReferenceRows, add_version, build_package, export_sklearn, golden_rows
from mlops.package.manifest import Limits

FEATURES = 10
FEATURE_NAMES = tuple(f"feature_{number}" for number in range(FEATURES))
INPUT, OUTPUT, OUTPUT_WIDTH = "features", "probabilities", 2
ROWS = 14_000
GOLDEN_ROWS = 64
#: Different requests that a load goes through again and again.
REQUESTS = 64
SEED = 7
#: What `slow` lets a request wait for its turn before it is refused.
MAX_WAIT_US = 20_000

Train = Callable[[NDArray[np.float32], NDArray[np.int64]], Any]


def _logistic(x: NDArray[np.float32], y: NDArray[np.int64]) -> Any:
    return LogisticRegression().fit(x, y)


def _forest(x: NDArray[np.float32], y: NDArray[np.int64]) -> Any:
    return RandomForestClassifier(n_estimators=100, random_state=SEED).fit(x, y)


def _boosting(x: NDArray[np.float32], y: NDArray[np.int64]) -> Any:
    return GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=SEED).fit(x, y)


def _mlp(x: NDArray[np.float32], y: NDArray[np.int64]) -> Any:
    return MLPClassifier((64, 32), max_iter=20, early_stopping=True, random_state=SEED).fit(x, y)


def _slow(x: NDArray[np.float32], y: NDArray[np.int64]) -> Any:
    # Its weights, 37 MB, do not fit into a core's cache, so that one row takes about as long as reading them.
    wide = MLPClassifier((3000, 3000), max_iter=1, batch_size=1000, random_state=SEED)
    return wide.fit(x[:1000], y[:1000])


#: How each model is trained, by its name.
MODELS: dict[str, Train] = {
    "logistic": _logistic,
    "forest-100": _forest,
    "boosting-100": _boosting,
    "mlp": _mlp,
    "slow": _slow,
}
_LIMITS = {"slow": Limits(max_wait_us=MAX_WAIT_US)}


def package(name: str, out: Path, seed: int = SEED) -> Path:
    """Trains and packages a model: `features` (rows, 10) in, `probabilities` (rows, 2) out, default rules.

    Another seed draws other data, and so makes another version of the model.
    """
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((ROWS, FEATURES)).astype(np.float32)
    signal = x @ draw.standard_normal(FEATURES) * 0.3
    y = (signal + draw.standard_normal(ROWS) > 0).astype(np.int64)
    estimator = MODELS[name](x, y)
    return build_package(
        out,
        name=name,
        model=export_sklearn(estimator, FEATURE_NAMES, x[:GOLDEN_ROWS]),
        golden=golden_rows(estimator, x[:GOLDEN_ROWS]),
        reference=ReferenceRows("train", {INPUT: x}),
        feature_names=FEATURE_NAMES,
        task="classification",
        limits=_LIMITS.get(name),
    )


def build(name: str, models_dir: Path) -> Path:
    """Makes version 1 of a model below `models_dir`, as a server reads it, and returns `models_dir`.

    Packages stay beside that folder: a model is trained once for all that serve it.
    """
    if not (models_dir / name / "1").exists():
        models_dir.mkdir(parents=True, exist_ok=True)
        packages = models_dir.parent / "packages" / name
        built = sorted(packages.iterdir()) if packages.exists() else [package(name, packages)]
        add_version(models_dir, built[0])
    return models_dir


def requests(rows: int) -> NDArray[np.float32]:
    """Inputs to send, (requests, rows, features)."""
    draw = np.random.default_rng(SEED + 1)
    return draw.standard_normal((REQUESTS, rows, FEATURES)).astype(np.float32)
