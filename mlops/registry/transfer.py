"""Moving a version from one registry to another: its package, its figures, and the audit rows that tell its history."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from pydantic import ValidationError
from sqlalchemy import or_, select

from mlops.package import read_package
from mlops.package._files import read_file, sync_folder
from mlops.package.manifest import Count, Frozen, explain
from mlops.registry import evaluation
from mlops.registry.database import Database
from mlops.registry.fetch import Fetcher
from mlops.registry.figures import insert_metric, read_metrics
from mlops.registry.journal import Author, Journal, Write, plain, row_hash
from mlops.registry.lookup import require_version
from mlops.registry.register import Registrar, Registration, attach, check_attachment, newest_attachments
from mlops.registry.schema import attachments, audit, load_json, models, versions
from mlops.registry.search import read_model
from mlops.registry.values import ModelFacts, Version
from tickserve.errors import DamagedPackageError

HISTORY_FILE = "history.json"
#: The kind of attachment that an imported history is stored as.
KIND = "history"
_FORMAT = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 256 << 20


class _Facts(Frozen):
    strategy_type: str
    universe: str
    model_type: str
    description: str
    tags: dict[str, str]


class _Figure(Frozen):
    dataset: str
    name: str
    step: Count
    value: float | None
    standard_error: float | None
    n: Count


class _History(Frozen):
    """The form of history.json."""

    format: int
    digest: str
    model: str
    version: Count
    label: str | None
    status: str
    author: str
    description: str
    metadata: dict[str, Any]
    facts: _Facts
    metrics: list[_Figure]
    audit: list[dict[str, Any]]
    evaluations: dict[str, str]
    hash: str


@dataclass(frozen=True)
class Exporter:
    """Writes versions of one registry into folders."""

    database: Database
    fetcher: Fetcher

    def export(self, version: Version, out: Path) -> Path:
        """Writes `out/<model>-<version>/` with the package under its digest, evaluations and history.json."""
        folder = out / f"{version.model}-{version.version}"
        self.fetcher.export(version, folder)
        with self.database.read() as connection:
            rows = connection.execute(
                select(audit)
                .where(
                    audit.c.model == version.model, or_(audit.c.version == version.version, audit.c.version.is_(None))
                )
                .order_by(audit.c.sequence)
            ).mappings()
            history: dict[str, Any] = {
                "format": _FORMAT,
                "digest": version.digest,
                "model": version.model,
                "version": version.version,
                "label": version.label,
                "status": version.status,
                "author": version.author,
                "description": version.description,
                "metadata": dict(version.metadata),
                "facts": _facts(read_model(connection, version.model).facts),
                "metrics": [
                    {name: getattr(row, name) for name in ("dataset", "name", "step", "value", "standard_error", "n")}
                    for row in read_metrics(connection, version.model, version.version)
                ],
                "audit": [plain(dict(row)) for row in rows],
            }
        tables = {name: evaluation.write_table(table) for name, table in self.fetcher.evaluations(version).items()}
        for name, data in tables.items():
            (folder / _table_file(name)).write_bytes(data)
        history["evaluations"] = {name: hashlib.sha256(data).hexdigest() for name, data in tables.items()}
        (folder / HISTORY_FILE).write_bytes(rfc8785.dumps(history | {"hash": _hash(history)}))
        sync_folder(folder)
        return folder


@dataclass(frozen=True)
class Importer:
    """Registers exported versions in one registry."""

    journal: Journal
    registrar: Registrar

    def import_version(self, folder: Path, author: Author) -> Version:
        """Registers an exported package under a number of this registry, with its figures and its history beside it.

        The same import again changes nothing. It has to be approved here: who approved it elsewhere is told by its
        history only.

        Raises
        ------
        DamagedPackageError
            Where the history, one of its rows or an evaluation is not as it was exported.
        PackageError
            As `Registrar.register`.
        """
        data = read_file(folder / HISTORY_FILE, _MAX_BYTES)
        history = _read(data)
        tables = dict(_read_tables(folder, history["evaluations"]))
        package = read_package(folder / history["digest"])
        if package.manifest.name != history["model"]:
            raise DamagedPackageError(
                f"{HISTORY_FILE} is of model {history['model']!r}, the package of {package.manifest.name!r}",
                field=HISTORY_FILE,
            )
        with self.journal.database.read() as connection:
            is_new = connection.execute(select(models.c.name).where(models.c.name == history["model"])).first() is None
            evaluated = set(
                connection.execute(
                    select(attachments.c.name)
                    .join(
                        versions,
                        (attachments.c.model == versions.c.model) & (attachments.c.version == versions.c.version),
                    )
                    .where(versions.c.digest == history["digest"], attachments.c.kind == evaluation.KIND)
                ).scalars()
            )
        origin = {"imported_from": {name: history[name] for name in ("model", "version", "status", "label")}}
        found = self.registrar.register(
            folder / history["digest"],
            author,
            Registration(
                # What a known model is for is said here, not elsewhere.
                facts=ModelFacts(**history["facts"]) if is_new else None,
                author=history["author"],
                description=history["description"],
                metadata=history["metadata"] | origin,
                evaluations={name: table for name, table in tables.items() if name not in evaluated},
            ),
        )
        sha256 = self.registrar.store.put(data)

        def change(write: Write) -> Version:
            known = {
                (row.dataset, row.name, row.step) for row in read_metrics(write.connection, found.model, found.version)
            }
            for row in history["metrics"]:
                if (row["dataset"], row["name"], row["step"]) not in known:
                    insert_metric(write, found.model, found.version, **row)
            if newest_attachments(write.connection, found, KIND).get(HISTORY_FILE) != sha256:
                self.registrar.keep(write, sha256, data)
                attach(write, found.model, found.version, KIND, HISTORY_FILE, sha256)
            return require_version(write.connection, found.model, found.version)

        return self.journal.write("import", author, change, model=found.model, version=found.version)


def _table_file(name: str) -> str:
    return f"evaluation-{name}.npz"


def _read_tables(folder: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, evaluation.Table]]:
    for name, sha256 in sorted(wanted.items()):
        file = _table_file(check_attachment(evaluation.KIND, name))
        data = read_file(folder / file, _MAX_BYTES)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedPackageError(f"{file} is damaged: it is not as it was exported", field=file)
        yield name, evaluation.read_table(data, file)


def _hash(history: Mapping[str, Any]) -> str:
    return hashlib.sha256(rfc8785.dumps({name: history[name] for name in history if name != "hash"})).hexdigest()


def _facts(facts: ModelFacts) -> dict[str, Any]:
    return {
        "strategy_type": facts.strategy_type,
        "universe": facts.universe,
        "model_type": facts.model_type,
        "description": facts.description,
        "tags": dict(facts.tags),
    }


def _read(data: bytes) -> dict[str, Any]:
    try:
        history: dict[str, Any] = load_json(data.decode())
        is_ours = history["format"] == _FORMAT and rfc8785.dumps(history) == data and history["hash"] == _hash(history)
        edited = [row["sequence"] for row in history["audit"] if row_hash(row) != row["hash"]]
        _History.model_validate(history)
    except ValidationError as error:
        raise DamagedPackageError(explain(error, HISTORY_FILE).message, field=HISTORY_FILE) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedPackageError(f"{HISTORY_FILE} is malformed: {error}", field=HISTORY_FILE) from None
    if not is_ours or not _DIGEST.fullmatch(str(history["digest"])):
        raise DamagedPackageError(f"{HISTORY_FILE} is not as it was exported", field=HISTORY_FILE)
    if edited:
        raise DamagedPackageError(f"{HISTORY_FILE}: audit row {edited[0]} was edited", field=HISTORY_FILE)
    return history
