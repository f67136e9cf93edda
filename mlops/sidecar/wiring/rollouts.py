"""Rollouts as the settings say: which registry they are in, how long a lease is, and who is told."""

import importlib.util
from typing import TYPE_CHECKING

import structlog

from mlops.alerts.notify import log_notice, webhook
from mlops.sidecar.settings import SidecarSettings
from mlops.sidecar.wiring.registry import has_registry, open_registry

if TYPE_CHECKING:
    from mlops.sidecar.rollouts import RolloutWorker

_log = structlog.get_logger()


def make_rollouts(settings: SidecarSettings) -> "RolloutWorker | None":
    """The controller of this sidecar, which has not begun; None where the settings have it off, or nothing could be.

    Raises ConfigurationError where the webhook is none.
    """
    if settings.rollouts == "off":
        return None
    if importlib.util.find_spec("sqlalchemy") is None:
        _log.info("rollouts_off", reason="there can be no registry without `pip install 'tickserve[registry]'`")
        return None
    # What it needs is no part of a sidecar without a registry.
    from mlops.sidecar.rollouts import RolloutWorker

    tell = webhook(settings.alert_webhook) if settings.alert_webhook else log_notice
    return RolloutWorker(
        lambda: open_registry(settings) if has_registry(settings) else None, lease_s=settings.lease_s, tell=tell
    )
