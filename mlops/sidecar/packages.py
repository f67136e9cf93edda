"""The package that made a record, by its digest: wherever on this machine it lies, else from the registry."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from mlops.package import MANIFEST_FILE, MODEL_FILE, Package, read_bare_model, read_package
from tickserve.errors import TickserveError

_log = structlog.get_logger()


@dataclass(frozen=True)
class PackageFinder:
    """Finds packages. `home` is the server's folder of state, `registry` the URL of another registry than its own."""

    home: Path
    models: Path
    registry: str = ""
    artifacts: str = ""
    keys: Path | None = None

    def find(self, model: str, version: str, digest: str) -> Package | None:
        """The verified package with this digest, or None where there is none to be had."""
        for folder in self._folders(model, version, digest):
            with contextlib.suppress(TickserveError):
                package = read_package(folder) if (folder / MANIFEST_FILE).exists() else read_bare_model(folder, model)
                if package.digest == digest:
                    return package
        try:
            return self._fetch(model, version, digest)
        except (TickserveError, ImportError) as error:
            _log.info("package_not_found", model=model, version=version, digest=digest, error=str(error))
            return None

    def _folders(self, model: str, version: str, digest: str) -> Iterator[Path]:
        yield from (self.home / "cache" / "packages" / digest, self.home / "server" / "cache" / digest)
        yield self.models / model / version
        with contextlib.suppress(OSError):
            for folder in sorted((self.models / model).iterdir()):
                if folder.name != version and ((folder / MANIFEST_FILE).exists() or (folder / MODEL_FILE).exists()):
                    yield folder

    def _fetch(self, model: str, version: str, digest: str) -> Package | None:
        from mlops.registry.opening import open_registry, require_registry

        require_registry(self.home, self.registry)
        with open_registry(self.home, self.registry, self.artifacts, self.keys) as registry:
            found = registry.version(model, int(version))
            return registry.fetch(found) if found.digest == digest else None
