"""From the registry to a folder: a version's package, every byte checked again, kept in a cache by digest."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from sqlalchemy import Connection, select

from mlops.package import DIGEST_FILE, Package, read_package
from mlops.package._files import publish_folder, staged_folder
from mlops.package.verify import verify_files, witness_file
from mlops.registry import evaluation
from mlops.registry.database import Database
from mlops.registry.schema import artifacts, attachments, package_files
from mlops.registry.store import ArtifactStore
from mlops.registry.trust import Trust
from mlops.registry.values import Version
from tickserve.errors import DamagedPackageError, PackageError


@dataclass(frozen=True)
class Fetcher:
    """Brings packages and attachments out of one registry. `cache` is a folder on the local disk."""

    database: Database
    store: ArtifactStore
    cache: Path
    trust: Trust

    def package(self, version: Version) -> Package:
        """The verified package of a version, in the cache.

        Raises
        ------
        PackageError
            Where it is not signed as the registry requires.
        DamagedPackageError
            Where an artifact is damaged or missing. A damaged folder in the cache is replaced.
        """
        try:
            package = read_package(self.cache / version.digest)
            self.trust.check(package)
            return package
        except PackageError:
            # The cache is a copy, perhaps from before a signature came: the store decides, with its own reason.
            self._forget(version)
        package = read_package(self.export(version, self.cache))
        self.trust.check(package)
        return package

    def _forget(self, version: Version) -> None:
        with staged_folder(self.cache, {}) as trash, contextlib.suppress(FileNotFoundError):
            (self.cache / version.digest).rename(trash / version.digest)

    def export(self, version: Version, out: Path) -> Path:
        """Writes the package as `out/<digest>`, whole or not at all, and returns that folder."""
        with self.database.read() as connection:
            known = _sizes(connection, version)
        # The store may be far away; nobody who reads the database waits for it.
        files = {name: self.store.get(sha256, size_bytes) for name, (sha256, size_bytes) in known.items()}
        folder = out / version.digest
        verify_files(folder, files)
        with staged_folder(out, files | {DIGEST_FILE: witness_file(version.digest)}) as staged:
            publish_folder(staged, folder)
        return folder

    def evaluations(self, version: Version) -> Mapping[str, Mapping[str, NDArray[Any]]]:
        """The per-row tables of a version by data set, each as it was written last."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(attachments, artifacts.c.size_bytes)
                .join(artifacts, artifacts.c.sha256 == attachments.c.sha256)
                .where(
                    attachments.c.model == version.model,
                    attachments.c.version == version.version,
                    attachments.c.kind == evaluation.KIND,
                )
                .order_by(attachments.c.sequence)
            ).all()
        newest = {row.name: row for row in rows}
        return {
            name: evaluation.read_table(self.store.get(row.sha256, row.size_bytes), f"evaluation {name}")
            for name, row in sorted(newest.items())
        }


def _sizes(connection: Connection, version: Version) -> dict[str, tuple[str, int]]:
    """SHA-256 and size of each file of the version's package, by name."""
    rows = connection.execute(
        select(package_files.c.name, artifacts)
        .join(artifacts, artifacts.c.sha256 == package_files.c.sha256)
        .where(package_files.c.digest == version.digest)
    ).all()
    for row in rows:
        if row.collected_at is not None:
            raise DamagedPackageError(
                f"version {version.version} of model {version.model!r} was deleted and its files collected",
                field=row.name,
            )
    return {row.name: (row.sha256, row.size_bytes) for row in rows}
