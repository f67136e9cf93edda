"""Outcomes as the settings say: over which lengths, and where live metrics go."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from mlops.outcomes import Lengths, OutcomeFigure
from mlops.outcomes.live import DATASET
from mlops.package import Metric
from mlops.sidecar.late import ReadVersion
from mlops.sidecar.outcomes import OutcomeConsumer, RecordLive
from mlops.sidecar.packages import PackageFinder
from mlops.sidecar.settings import SidecarSettings
from mlops.sidecar.wiring.alerts import read_matrix
from mlops.sidecar.wiring.registry import has_registry, open_registry


def make_outcomes(
    settings: SidecarSettings,
    packages: PackageFinder,
    tables: Path,
    on_figures: Callable[[Sequence[OutcomeFigure]], None],
    read: ReadVersion,
) -> OutcomeConsumer:
    """The consumer; it rolls over the lengths that alert rows look at, beside the usual."""
    usual = Lengths()
    rolling = tuple(sorted({*usual.rolling, *read_matrix(settings).lengths()}))
    return OutcomeConsumer(
        packages.find,
        tables,
        lengths=Lengths(max(usual.window, *rolling), rolling),
        on_figures=on_figures,
        record_live=registry_recorder(settings),
        read=read,
    )


def registry_recorder(settings: SidecarSettings) -> RecordLive | None:
    """Appends live metrics to the registry; None where there is none."""
    if not has_registry(settings):
        return None
    lock = threading.Lock()

    def record(model: str, version: str, metrics: dict[str, Metric], step: int) -> None:
        from mlops.registry import Author

        with lock, open_registry(settings) as registry:
            registry.log_metrics(model, int(version), DATASET, metrics, Author("sidecar"), step=step)

    return record
