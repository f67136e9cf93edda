"""Registering: a verified package becomes the next version of its model, whole or not at all."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from mlops.package import DIGEST_FILE, Manifest, Package, check_model
from mlops.package.manifest import SIGNATURE_FILE
from mlops.package.verify import read_files, verify_files
from mlops.registry import evaluation
from mlops.registry.columns import check_text
from mlops.registry.facts import ensure_model
from mlops.registry.figures import insert_metric
from mlops.registry.journal import Author, Journal, Write
from mlops.registry.lookup import as_version, check_label, require_version
from mlops.registry.runs import insert_run
from mlops.registry.schema import (
    artifacts,
    attachments,
    datasets,
    package_files,
    packages,
    versions,
)
from mlops.registry.store import ArtifactStore
from mlops.registry.trust import Trust
from mlops.registry.values import ModelFacts, RunFacts, Status, Version
from tickserve.errors import ExistsError, RegistryArgumentError, RegistryError

#: Names that are safe as a part of a file's name.
_ATTACHMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Registration:
    """What is said of a version beside its package.

    Parameters
    ----------
    facts : ModelFacts, optional
        What the model is for; taken from the manifest's tags where the model is new, else left as it is.
    label : str, optional
        A semantic version.
    author : str
        Who made it; the manifest's where empty, then the actor.
    description : str
        The manifest's where empty.
    metadata : mapping
        Anything that JSON holds.
    run : RunFacts, optional
        The training run; taken from the manifest where not given.
    evaluations : mapping
        Per-row tables by data set, as `evaluation.write_table` takes them.
    """

    facts: ModelFacts | None = None
    label: str | None = None
    author: str = ""
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    run: RunFacts | None = None
    evaluations: Mapping[str, evaluation.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Registrar:
    """Registers packages in one registry."""

    journal: Journal
    store: ArtifactStore
    trust: Trust

    def register(self, path: Path, author: Author, registration: Registration) -> Version:
        """Verifies a package, stores it and makes it the next version; the same package again is the same version.

        Evaluations that the first registration lacked are added then, and a label where there is none. Another
        evaluation of a data set takes the place of the earlier one, which is kept.

        Raises
        ------
        PackageError
            Where the package does not verify, is not signed as required, does not load, or does not repeat its golden
            rows.
        ExistsError
            Where another version has the label.
        RegistryError
            Where a version of this digest was deleted.
        """
        files = read_files(path)
        package = verify_files(path, files)
        self.trust.check(package)
        check_model(package)
        files.pop(DIGEST_FILE, None)
        label = check_label(registration.label) if registration.label is not None else None
        check_text("description", registration.description)
        tables = {name: evaluation.write_table(table) for name, table in registration.evaluations.items()}
        # On the disk before any row names them: a killed process leaves files that no row names, and `gc` finds those.
        named = {name: (self.store.put(data), data) for name, data in files.items()}
        evaluated = {name: (self.store.put(data), data) for name, data in tables.items()}

        def change(write: Write) -> Version:
            found = _registered(write, package)
            if found is not None:
                if SIGNATURE_FILE in named:
                    self._keep_signature(write, package.digest, *named[SIGNATURE_FILE])
                self._add_to(write, found, label, evaluated)
                return require_version(write.connection, found.model, found.version)
            for sha256, data in (*named.values(), *evaluated.values()):
                self.keep(write, sha256, data)
            ensure_model(write, package.manifest, registration.facts)
            _insert_package(write, package, {name: sha256 for name, (sha256, _) in named.items()})
            number = _next_number(write, package.manifest.name)
            _insert_version(write, package, number, label, registration)
            for name, (sha256, _) in evaluated.items():
                attach(write, package.manifest.name, number, evaluation.KIND, name, sha256)
            return require_version(write.connection, package.manifest.name, number)

        return self.journal.write(
            "register", author, change, model=package.manifest.name, version=lambda version: version.version
        )

    def _add_to(
        self, write: Write, found: Version, label: str | None, evaluated: Mapping[str, tuple[str, bytes]]
    ) -> None:
        """What a later registration of the same package says beyond the first: evaluations, and a label."""
        if label is not None and found.label is not None and label != found.label:
            raise ExistsError(
                f"this package is version {found.version} of model {found.model!r} and has the label {found.label}; "
                f"relabel it (tickserve models label {found.model} {found.version} {label})",
                field="label",
            )
        if label is not None and found.label is None:
            require_free_label(write, found.model, label)
            write.update(versions, {"model": found.model, "version": found.version}, label=label)
        known = newest_attachments(write.connection, found, evaluation.KIND)
        for name, (sha256, data) in evaluated.items():
            if known.get(name) != sha256:
                self.keep(write, sha256, data)
                attach(write, found.model, found.version, evaluation.KIND, name, sha256)

    def _keep_signature(self, write: Write, digest: str, sha256: str, data: bytes) -> None:
        """A package may be signed, or signed anew, after it was registered: its digest does not cover signatures."""
        key = {"digest": digest, "name": SIGNATURE_FILE}
        place = (package_files.c.digest == digest) & (package_files.c.name == SIGNATURE_FILE)
        known = write.connection.execute(select(package_files.c.sha256).where(place)).scalar_one_or_none()
        if known != sha256:
            self.keep(write, sha256, data)
            if known is None:
                write.insert(package_files, **key, sha256=sha256)
            else:
                write.update(package_files, key, sha256=sha256)

    def keep(self, write: Write, sha256: str, data: bytes) -> None:
        """Has a row for a stored file, and the file: garbage collection may have taken it since it was stored."""
        if not self.store.has(sha256):
            self.store.put(data)
        row = write.connection.execute(select(artifacts).where(artifacts.c.sha256 == sha256)).one_or_none()
        if row is None:
            write.insert(artifacts, sha256=sha256, size_bytes=len(data))
        elif row.collected_at is not None:
            write.update(artifacts, {"sha256": sha256}, collected_at=None)


def check_attachment(kind: str, name: str) -> str:
    """Returns the name, or raises RegistryArgumentError where it could not be a part of a file's name."""
    if not _ATTACHMENT.fullmatch(name):
        raise RegistryArgumentError(
            f"{kind} {name!r} must be 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-' and start with a letter or digit",
            field="name",
        )
    return name


def attach(write: Write, model: str, version: int, kind: str, name: str, sha256: str) -> None:
    """Names a stored file as belonging to a version; a later one of the same name replaces it and keeps it."""
    check_attachment(kind, name)
    write.insert(
        attachments,
        model=model,
        version=version,
        kind=kind,
        name=name,
        sequence=write.sequence,
        sha256=sha256,
        at=write.at,
    )


def newest_attachments(connection: Connection, version: Version, kind: str) -> Mapping[str, str]:
    """SHA-256 of a version's files of one kind by name, each as it was written last."""
    rows = connection.execute(
        select(attachments.c.name, attachments.c.sha256)
        .where(
            attachments.c.model == version.model,
            attachments.c.version == version.version,
            attachments.c.kind == kind,
        )
        .order_by(attachments.c.sequence)
    )
    return {row.name: row.sha256 for row in rows}


def _registered(write: Write, package: Package) -> Version | None:
    row = write.connection.execute(
        select(versions).where(versions.c.model == package.manifest.name, versions.c.digest == package.digest)
    ).one_or_none()
    if row is None:
        return None
    found = as_version(row)
    if found.status == Status.DELETED:
        raise RegistryError(
            f"this package was version {found.version} of model {found.model!r}, which was deleted; what is deleted "
            "does not come back under another number: change the package, for example its description",
            field="digest",
        )
    return found


def _insert_package(write: Write, package: Package, files: Mapping[str, str]) -> None:
    write.insert(
        packages,
        digest=package.digest,
        model=package.manifest.name,
        manifest=package.manifest.model_dump(mode="json"),
        registered_at=write.at,
    )
    for name, sha256 in files.items():
        write.insert(package_files, digest=package.digest, name=name, sha256=sha256)


def _next_number(write: Write, model: str) -> int:
    newest = write.connection.execute(select(func.max(versions.c.version)).where(versions.c.model == model))
    # Deleted versions keep their row, so a number is never given twice.
    return (newest.scalar_one() or 0) + 1


def _insert_version(write: Write, package: Package, number: int, label: str | None, registration: Registration) -> None:
    manifest = package.manifest
    model = manifest.name
    require_free_label(write, model, label)
    write.insert(
        versions,
        model=model,
        version=number,
        digest=package.digest,
        status=Status.REGISTERED,
        label=label,
        author=check_text("author", registration.author or manifest.author or write.author.actor),
        description=registration.description or manifest.description,
        metadata=dict(registration.metadata),
        registered_at=write.at,
    )
    for name, dataset in manifest.datasets.items():
        facts = dataset.model_dump(include={"fingerprint", "rows", "first", "last"})
        write.insert(datasets, model=model, version=number, dataset=name, **facts)
    for name, figures in manifest.metrics.items():
        for metric, figure in figures.items():
            insert_metric(write, model, number, name, metric, 0, figure.value, figure.standard_error, figure.n)
    insert_run(write, model, number, registration.run or _run_of(manifest))
    # The package was verified, loaded and run before this change began.
    write.update(versions, {"model": model, "version": number}, status=Status.VALIDATED)


def require_free_label(write: Write, model: str, label: str | None) -> None:
    """Raises ExistsError where another version of the model has this label."""
    if label is None:
        return
    taken = write.connection.execute(
        select(versions.c.version).where(versions.c.model == model, versions.c.label == label)
    ).scalar_one_or_none()
    if taken is not None:
        raise ExistsError(f"version {taken} of model {model!r} has the label {label} already", field="label")


def _run_of(manifest: Manifest) -> RunFacts:
    trained_on = manifest.datasets.get("train")
    training = manifest.training
    return RunFacts(
        parameters=training.parameters,
        environment={"framework": training.framework, "estimator": training.estimator},
        code_revision=training.code_revision,
        data_fingerprint=trained_on.fingerprint if trained_on else "",
        seed=training.seed,
    )
