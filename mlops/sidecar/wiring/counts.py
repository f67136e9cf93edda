"""Counting as the settings say: whose name, which registry, and how long windows are."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from mlops.registry.opening import open_database
from mlops.rollout.store import window_lengths
from mlops.sidecar.counts import CountsConsumer
from mlops.sidecar.counts.outputs import OutputWindows
from mlops.sidecar.counts.pages import PageCounter
from mlops.sidecar.counts.reading import OutputReaders
from mlops.sidecar.counts.writer import SumsWriter
from mlops.sidecar.packages import PackageFinder
from mlops.sidecar.settings import SidecarSettings

_DAY_NS = 86_400_000_000_000


def make_counts(
    settings: SidecarSettings,
    packages: PackageFinder,
    *,
    lag_s: Callable[[], float],
    position: Callable[[], int],
) -> CountsConsumer:
    """The consumer, whose threads have begun. Raises OSError."""
    window_ns = round(settings.counts_window_s * 1e9)
    keep_ns = round(settings.counts_days * _DAY_NS)
    writer = SumsWriter(
        lambda: open_database(settings.home, settings.registry),
        settings.reporter,
        own_id(settings.log / "reporter.id"),
        lengths=window_lengths,
        keep_ns=keep_ns,
    )
    writer.start()
    pages = PageCounter(settings.tap, settings.reporter, writer, window_ns=window_ns)
    pages.start(settings.poll_s)
    return CountsConsumer(
        pages,
        writer,
        OutputWindows(settings.reporter, window_ns, OutputReaders(packages.find), keep_ns=keep_ns),
        lag_s=lag_s,
        position=position,
    )


def own_id(path: Path) -> str:
    """Who a sidecar is: drawn once for each log, so that it is known again after a restart. Raises OSError."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        pass
    staged = path.with_suffix(".new")
    with open(staged, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(16))
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    return path.read_text(encoding="ascii")
