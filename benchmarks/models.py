"""The models that are served: trained and packaged here, so that no figure depends on a file from elsewhere."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from mlops.package import ReferenceRows, add_version, build_package, export_sklearn, golden_rows

FEATURES = 10
FEATURE_NAMES = tuple(f"feature_{number}" for number in range(FEATURES))
ROWS = 14_000
GOLDEN_ROWS = 64
SEED = 7


def forest_100(out: Path) -> Path:
    """Packages 100 fully grown trees, 18 MB: `features` (rows, 10) in, `probabilities` (rows, 2) out, default rules."""
    draw = np.random.default_rng(SEED)
    x = draw.standard_normal((ROWS, FEATURES)).astype(np.float32)
    signal = x @ draw.standard_normal(FEATURES) * 0.3
    y = (signal + draw.standard_normal(ROWS) > 0).astype(np.int64)
    forest = RandomForestClassifier(n_estimators=100, random_state=SEED).fit(x, y)
    return build_package(
        out,
        name="forest-100",
        model=export_sklearn(forest, FEATURE_NAMES, x[:GOLDEN_ROWS]),
        golden=golden_rows(forest, x[:GOLDEN_ROWS]),
        reference=ReferenceRows("train", {"features": x}),
        feature_names=FEATURE_NAMES,
        task="classification",
    )


#: Packages each model into a folder, by the model's name.
MODELS: dict[str, Callable[[Path], Path]] = {"forest-100": forest_100}
#: One row of each model's input, as the load generator names it.
SHAPES = {"forest-100": f"features:1,{FEATURES}"}


def build(name: str, models_dir: Path) -> None:
    """Makes model `name` version 1 below `models_dir`, as a server reads it: `<name>/1/`."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tickserve-bench-") as scratch:
        add_version(models_dir, MODELS[name](Path(scratch)))
