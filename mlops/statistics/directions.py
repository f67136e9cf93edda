"""Which way figures are better."""

from collections.abc import Mapping

#: Drawdown is a positive share of the peak, so less of it is better.
HIGHER_IS_BETTER: Mapping[str, bool] = {
    "accuracy": True,
    "auc": True,
    "f1": True,
    "hit_rate": True,
    "ic": True,
    "information_ratio": True,
    "precision": True,
    "profit_factor": True,
    "r2": True,
    "rank_ic": True,
    "recall": True,
    "sharpe": True,
    "sortino": True,
    "total_return": True,
    "brier": False,
    "latency_us": False,
    "log_loss": False,
    "mae": False,
    "max_drawdown": False,
    "mse": False,
    "rmse": False,
    "turnover": False,
}
