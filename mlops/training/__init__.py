"""Models trained on daily bars: data, features, labels, split, metrics, packages.

What takes long to import (scikit-learn, the exchange calendar) is imported by the functions that need it, so that
reading test rows stays cheap.
"""

from mlops.training.data import BUNDLED, Bars, close_times, load_bars
from mlops.training.features import FEATURES, compute_features
from mlops.training.fitting import TrainedModel, always_long, probabilities, train, train_on
from mlops.training.metrics import COST_BP, evaluate
from mlops.training.models import KINDS, TITLES, Kind
from mlops.training.packaging import build, publish, train_and_package
from mlops.training.quality import DataReport, report
from mlops.training.split import Rows, Split, split_rows, test_rows
from mlops.training.summary import comment

__all__ = [
    "BUNDLED",
    "COST_BP",
    "FEATURES",
    "KINDS",
    "TITLES",
    "Bars",
    "DataReport",
    "Kind",
    "Rows",
    "Split",
    "TrainedModel",
    "always_long",
    "build",
    "close_times",
    "comment",
    "compute_features",
    "evaluate",
    "load_bars",
    "probabilities",
    "publish",
    "report",
    "split_rows",
    "test_rows",
    "train",
    "train_and_package",
    "train_on",
]
