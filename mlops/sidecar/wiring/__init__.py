"""Which consumers a sidecar has. Each is made here, from what all of them may need."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from mlops.prediction_log.batch import Batch
from mlops.prediction_log.reading import read_log
from mlops.sidecar.consumers import Consumer
from mlops.sidecar.damaged import DamagedFiles
from mlops.sidecar.drift import DriftConsumer, read_specs
from mlops.sidecar.packages import PackageFinder
from mlops.sidecar.settings import SidecarSettings
from mlops.sidecar.wiring.alerts import make_alerts
from mlops.sidecar.wiring.outcomes import make_outcomes

_log = structlog.get_logger()


@dataclass(frozen=True)
class Context:
    """What consumers are made from.

    Parameters
    ----------
    log : Path
        The prediction log, for `read_log`.
    tables : Path
        Folder for tables of their own, such as the results of windows.
    packages : PackageFinder
        The package of a record by its digest.
    damaged : DamagedFiles
        Takes files of the log that are passed over.
    lag_s : callable
        For how long the log has not had everything.
    position : callable
        The place in the log that the next record gets.
    """

    settings: SidecarSettings
    log: Path
    tables: Path
    packages: PackageFinder
    damaged: DamagedFiles = field(default_factory=DamagedFiles)
    lag_s: Callable[[], float] = lambda: 0.0
    position: Callable[[], int] = lambda: 0


def _make_counts(context: Context) -> Consumer | None:
    if importlib.util.find_spec("sqlalchemy") is None:
        _log.info("counts_off", reason="there can be no registry without `pip install 'tickserve[registry]'`")
        return None
    # What it needs is no part of a sidecar without a registry.
    from mlops.sidecar.wiring.counts import make_counts

    return make_counts(context.settings, context.packages, lag_s=context.lag_s, position=context.position)


def make_consumers(context: Context) -> Sequence[Consumer]:
    """Every consumer of the log, in the order in which they see a batch."""
    settings = context.settings

    def read(model: str, version: str, after: int) -> Iterator[Batch]:
        return read_log(context.log, model, version, after_position=after, on_damaged=context.damaged.pass_over)

    alerts = make_alerts(settings) if settings.alerts == "on" else None
    drift = DriftConsumer(
        context.packages,
        context.tables / "drift",
        read_specs(settings.home / "drift.json"),
        on_windows=alerts.windows if alerts else lambda results: None,
        read=read,
    )
    # Alerts learn who answers as stable before they are told of a window that the same records closed.
    outcomes = make_outcomes(
        settings, context.packages, context.tables, alerts.outcomes if alerts else lambda figures: None, read
    )
    counts = _make_counts(context) if settings.counts == "on" else None
    return (*([alerts] if alerts else []), drift, outcomes, *([counts] if counts else []))
