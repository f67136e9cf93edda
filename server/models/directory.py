"""A models directory as the source of versions: `<model>/<version>/` holds a package or a bare model.onnx.

The version policy says which versions are wanted, unless an operator wrote a desired state for the model.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

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
from server.models.fingerprint import fingerprint
from server.models.policy import LATEST, VersionPolicy
from server.models.rows import DesiredRows
from server.models.settling import Settling
from server.models.values import Desired, ModelDesired, Target, VersionRef
from server.plan import Halt, VersionPlan
from tickserve.errors import Code, ControlError, PackageError


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """Lists and reads the versions below one folder.

    Where `trusted_keys` names a folder of public keys, a version needs the signature of one of them. They are read
    anew for each version, so that a key can be trusted, or no longer, without a restart. `policies` are by model, with
    `*` for the others. Without `settling` every folder is taken as it is found, and without `rows` no operator can
    say what is wanted.
    """

    root: Path
    trusted_keys: Path | None = None
    policies: Mapping[str, VersionPolicy] = field(default_factory=dict)
    settling: Settling = field(default_factory=lambda: Settling(0.0))
    rows: DesiredRows | None = None
    name: str = "directory"
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def read(self) -> Desired:
        """What the folders and the policy say. Raises PackageError where the root cannot be read."""
        listed = list_versions(self.root)
        with self._lock:
            rows = {} if self.rows is None else self.rows.read()
        models = {}
        for name, found in listed.items():
            versions = {str(number): self._ref(number, path) for number, path in found.items()}
            row = rows.get(name)
            if row is not None:
                models[name] = ModelDesired(
                    name, row.revision, (row.target,), versions, row.halt, row.actor, row.reason, row.at_unix_ns
                )
            else:
                policy = self.policies.get(name, self.policies.get("*", LATEST))
                revision = 0 if self.rows is None else self.rows.revision(name)
                models[name] = ModelDesired(name, revision, policy.targets(found), versions)
        self.settling.forget_others({path for found in listed.values() for path in found.values()})
        return Desired(MappingProxyType(models))

    def last_good(self) -> Desired | None:
        """Nothing: the folder itself is what is kept."""
        return None

    def open(self, model: str, ref: VersionRef) -> VersionPlan:
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
        path = Path(ref.place)
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
        if ref.digest and package.digest != ref.digest:
            raise PackageError(f"{path} holds another package than the one that was served from it", field="digest")
        if self.trusted_keys is not None:
            require_signature(package.digest, package.signature, trusted_keys(self.trusted_keys))
        return version_plan(package, ref.version)

    def accepts_schema(self, target: Target, old: VersionPlan, new: VersionPlan) -> bool:
        """Whether an operator named the version."""
        return target.schema_override == new.version

    def write(
        self, model: str, target: Target, halt: Halt | None, expected_revision: int | None, *, actor: str, reason: str
    ) -> int:
        """Keeps what an operator wants; a target without shares gives the model back to the version policy.

        Raises
        ------
        ControlError
            ABORTED where the revision is another one by now; NOT_FOUND where there is no such model or version;
            INVALID_ARGUMENT where it says more than its shares without having any; UNIMPLEMENTED where no rows are
            kept.
        """
        if self.rows is None:
            raise ControlError("this server keeps no desired state", code=Code.UNIMPLEMENTED)
        if not target.shares and (halt is not None or target != Target(())):
            raise ControlError(
                f"without a split, desired state gives model {model!r} back to the version policy and says nothing "
                f"else: name a version; `tickserve halt {model}` stops it",
                code=Code.INVALID_ARGUMENT,
                field="desired.split",
            )
        found = list_versions(self.root).get(model)
        if found is None:
            raise ControlError(f"{self.root} holds no model {model!r}", code=Code.NOT_FOUND, field="model")
        for version in (*target.required, *target.optional):
            if not version.isdecimal() or int(version) not in found:
                raise ControlError(
                    f"{self.root / model} holds no version {version!r}; versions here: {', '.join(map(str, found))}",
                    code=Code.NOT_FOUND,
                    field="version",
                )
        with self._lock:
            return self.rows.write(model, target, halt, expected_revision, actor=actor, reason=reason)

    def _ref(self, number: int, path: Path) -> VersionRef:
        found = fingerprint(path)
        is_settled = self.settling.is_settled(path, found)
        return VersionRef(str(number), place=str(path), fingerprint=found, is_settled=is_settled)


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
