"""A models directory as the source of versions: `<model>/<version>/` holds a package or a bare model.onnx."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops.package import (
    MANIFEST_FILE,
    Package,
    check_model_name,
    feature_digest,
    list_versions,
    read_bare_model,
    read_package,
    require_signature,
    trusted_keys,
)
from mlops.package.verify import describe_file
from server.plan import VersionPlan
from tickserve.errors import PackageError

#: Changes whenever a file of the version does: name, size and change time of each, which no copy can set to another.
Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """Lists and reads the versions below one folder; keeps nothing.

    Where `trusted_keys` names a folder of public keys, a version needs the signature of one of them. They are read
    anew for each version, so that a key can be trusted, or no longer, without a restart.
    """

    root: Path
    trusted_keys: Path | None = None
    name: str = "directory"

    def list_versions(self) -> Mapping[str, Mapping[int, Path]]:
        """The folder of every version, by model and number. Raises PackageError where the root cannot be read."""
        return list_versions(self.root)

    def read(self, model: str, number: int, path: Path) -> VersionPlan:
        """Reads and verifies one version.

        Raises
        ------
        DamagedPackageError
            Where a file is not the one that its manifest names, or cannot be read.
        PackageError
            Where the package is whole, but not one that may be served under this name, or not signed as required.
        ConfigurationError
            Where signatures are required and the trusted keys cannot be read.
        """
        try:
            check_model_name(model)
        except ValueError as error:
            raise PackageError(str(error), field="name") from None
        is_package = (path / MANIFEST_FILE).exists() or not (path / "model.onnx").exists()
        package = read_package(path) if is_package else read_bare_model(path, model)
        if package.manifest.name != model:
            raise PackageError(
                f"{path} holds a package of model {package.manifest.name!r}, not of {model!r}", field="name"
            )
        if self.trusted_keys is not None:
            require_signature(package.digest, package.signature, trusted_keys(self.trusted_keys))
        return version_plan(package, str(number))


def version_plan(package: Package, version: str) -> VersionPlan:
    """What the engine needs of a verified package."""
    manifest = package.manifest
    return VersionPlan(
        model=manifest.name,
        version=version,
        digest=bytes.fromhex(package.digest),
        model_sha256=describe_file(package.model).sha256,
        path=package.path,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        feature_names=manifest.feature_names,
        feature_digest=feature_digest(manifest.feature_names) if manifest.feature_names else b"",
        signal=manifest.signal,
        confidence=manifest.confidence,
        input_rules=manifest.input_rules,
        output_rules=manifest.output_rules,
        limits=manifest.limits,
        golden=package.golden,
    )


def fingerprint(path: Path) -> Fingerprint:
    """What a folder's files look like from outside; empty where it cannot be read."""
    try:
        with os.scandir(path) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError:
        return ()
    return tuple(sorted((name, facts.st_size, facts.st_ctime_ns) for name, facts in found))
