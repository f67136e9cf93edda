"""Where desired state comes from and who is told what is served, by the settings."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

from server.api.control import ProcessFacts
from server.config import Settings
from server.models import DesiredRows, DirectorySource, PackageCache, Reconciler, Settling, Source, parse_policy
from tickserve.errors import ConfigurationError


def make_source(settings: Settings, in_use: Callable[[], Collection[str]]) -> Source:
    """Where desired state and versions come from; `in_use` gives the digests that a cache must keep.

    Raises
    ------
    ConfigurationError
        Where the registry's libraries are not installed.
    """
    state = settings.home / "server"
    if settings.source == "directory":
        return DirectorySource(
            settings.models,
            settings.trusted_keys if settings.require_signature else None,
            {name: parse_policy(text) for name, text in settings.version_policy.items()},
            Settling(settings.settle_s),
            DesiredRows(state / "desired.json"),
        )
    try:
        from server.models.registry import RegistrySource, connect
    except ImportError as error:
        raise ConfigurationError(
            f"source: {error.name} is not installed; `pip install 'tickserve[registry]'` brings it", field="source"
        ) from None
    cache = PackageCache(state / "cache", settings.cache_mb << 20, in_use)
    cache.remove_unfinished()
    return RegistrySource(
        partial(connect, settings.home, settings.registry, settings.artifacts, cache.folder, settings.trusted_keys),
        cache,
        state / "registry.json",
        keys=settings.trusted_keys,
        requires_signature=settings.require_signature,
    )


class Reporter(Protocol):
    """Tells others what this server serves."""

    def start(self) -> None:
        """Begins to tell."""

    def stop(self) -> None:
        """Says that it ends."""


def make_reporter(
    source: Source, reconciler: Reconciler, name: str, engine_name: str, facts: Callable[[], ProcessFacts]
) -> Reporter | None:
    """Who tells the registry what this server serves; None where there is no registry."""
    if source.name != "registry":
        return None
    from server.fleet import FleetReporter
    from server.models.registry import RegistrySource

    if not isinstance(source, RegistrySource):
        raise TypeError("a source named registry is one")

    def told() -> tuple[str, Sequence[str]]:
        found = facts()
        return found.state, found.listen

    return FleetReporter(name, engine_name, reconciler, source.registry, told)
