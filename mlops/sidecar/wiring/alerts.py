"""Alerts as the settings say: whose rows, where their state is, what they act on, and who is told."""

import threading
import time
from collections.abc import Callable

from mlops.alerts.actions import Actions, Notice
from mlops.alerts.matrix import Matrix, default_matrix, load_matrix
from mlops.alerts.notify import log_notice, webhook
from mlops.alerts.runner import AlertPolicy
from mlops.alerts.server_actions import ServerActions
from mlops.sidecar.alerts import AlertConsumer
from mlops.sidecar.rates import RateWindows
from mlops.sidecar.settings import SidecarSettings
from mlops.sidecar.wiring.registry import has_registry, open_registry
from tickserve.client import ControlClient
from tickserve.errors import ConfigurationError


def read_matrix(settings: SidecarSettings) -> Matrix:
    """The rows that hold. Raises ConfigurationError."""
    return default_matrix() if settings.alert_matrix is None else load_matrix(settings.alert_matrix)


def check_alerts(settings: SidecarSettings) -> None:
    """Raises ConfigurationError where the matrix or the webhook is none."""
    _require_registry(settings, read_matrix(settings))
    if settings.alert_webhook:
        webhook(settings.alert_webhook)


def make_alerts(settings: SidecarSettings) -> AlertConsumer:
    """The consumer. Raises ConfigurationError where the matrix or the webhook is none."""
    matrix = read_matrix(settings)
    _require_registry(settings, matrix)
    tell = webhook(settings.alert_webhook) if settings.alert_webhook else log_notice
    actions = make_actions(settings, tell)
    folder = settings.home / "alerts"
    known = sorted(path.parent.name for path in folder.glob("*/state.json"))
    windows = RateWindows(settings.tap, round(settings.alert_window_s * 1e9), time.time_ns)
    return AlertConsumer(lambda model: AlertPolicy(model, matrix, folder / model, actions), known, windows)


def make_actions(settings: SidecarSettings, tell: Callable[[Notice], None]) -> Actions:
    """Desired state in the registry where there is one, else at the server of this folder of state."""
    if has_registry(settings):
        from mlops.alerts.registry_actions import RegistryActions
        from mlops.registry import Registry

        lock, opened = threading.Lock(), list[Registry]()

        def registry() -> Registry:
            with lock:
                if not opened:
                    opened.append(open_registry(settings))
                return opened[0]

        return RegistryActions(registry, tell)
    return ServerActions(ControlClient(settings.admin), tell)


def _require_registry(settings: SidecarSettings, matrix: Matrix) -> None:
    """Raises ConfigurationError where rows move traffic and there is no registry that says who gets it."""
    if matrix.moves_traffic and not has_registry(settings):
        raise ConfigurationError(
            "alert_matrix: reduce_share and roll_back need a registry; there is none here", field="alert_matrix"
        )
