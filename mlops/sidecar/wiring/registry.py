"""The registry of the settings: the one that they name, else the one in the folder of state."""

from typing import TYPE_CHECKING

from mlops.sidecar.settings import SidecarSettings

if TYPE_CHECKING:
    from mlops.registry import Registry


def has_registry(settings: SidecarSettings) -> bool:
    """Whether one is named, or lies in the folder of state."""
    return bool(settings.registry) or (settings.home / "registry" / "registry.db").exists()


def open_registry(settings: SidecarSettings) -> "Registry":
    """Opens it. Raises TickserveError."""
    # What it needs is no part of a sidecar without a registry.
    from mlops.registry import opening

    return opening.open_registry(settings.home, settings.registry, settings.artifacts, settings.trusted_keys)
