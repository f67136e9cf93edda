"""The tables of the registry, the same on SQLite and PostgreSQL.

Times are text in UTC of one fixed width and structured values are canonical JSON, so that both back ends hold the same
bytes and sort them in the same order, and an edit shows in a comparison of the text alone.
"""

import json
from datetime import UTC, datetime
from typing import Any

import rfc8785
from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from mlops.package.manifest import MAX_INTEGER
from tickserve.errors import RegistryArgumentError


def time_text(when: datetime) -> str:
    """A timezone-aware time as stored: `2026-01-31T09:30:00.000000Z`."""
    if when.tzinfo is None:
        raise RegistryArgumentError(f"time {when.isoformat()} has no time zone; give one, such as +00:00", field="time")
    try:
        # strftime would not pad years below 1000, and text would no longer sort as time does.
        return when.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    except OverflowError:
        raise RegistryArgumentError(
            f"time {when.isoformat()} lies outside of the years 1 to 9999", field="time"
        ) from None


def parse_time(text: str) -> datetime:
    """The time that `time_text` wrote."""
    return datetime.fromisoformat(text)


def load_json(text: str) -> Any:
    """What canonical JSON was made from: RFC 8785 writes no integer beyond 2^53, so a longer one was a float."""
    return json.loads(text, parse_int=_number)


def _number(digits: str) -> int | float:
    value = int(digits)
    return value if -MAX_INTEGER <= value <= MAX_INTEGER else float(digits)


class UtcTime(TypeDecorator[datetime]):
    """A timezone-aware time to the microsecond, stored as text that sorts as time does."""

    impl = String(27)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_text(dialect))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else time_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else parse_time(value)


class CanonicalJson(TypeDecorator[Any]):
    """A structured value, stored as RFC 8785 JSON."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else rfc8785.dumps(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else load_json(value)


class Code(TypeDecorator[str]):
    """Text that is compared byte by byte, whatever the database's locale."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_text(dialect))


def _text(dialect: Dialect) -> String:
    return String(collation="C") if dialect.name == "postgresql" else String()


metadata = MetaData()

#: One row. Servers poll it; only writes of desired state raise it.
revision = Table(
    "revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)

#: The end of the audit log, in one row. Whoever holds its lock is the one writer.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("hash", Code, nullable=False),
)

#: Every change: who, when, why, and every row written, chained by SHA-256.
audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", Code, nullable=False),
    Column("reason", Text, nullable=False),
    Column("action", Code, nullable=False),
    Column("model", Code),
    Column("version", BigInteger),
    Column("body", Text, nullable=False),
    Column("previous", Code, nullable=False),
    Column("hash", Code, nullable=False),
    Index("audit_by_model", "model", "sequence"),
)

models = Table(
    "models",
    metadata,
    Column("name", Code, primary_key=True),
    Column("strategy_type", Code, nullable=False),
    Column("universe", Code, nullable=False),
    Column("model_type", Code, nullable=False),
    Column("description", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index("models_by_strategy_type", "strategy_type", "name"),
)

model_tags = Table(
    "model_tags",
    metadata,
    Column("model", Code, ForeignKey("models.name"), primary_key=True),
    Column("tag", Code, primary_key=True),
    Column("value", Code, nullable=False),
    Index("model_tags_by_tag", "tag", "value"),
)

#: Stored files by SHA-256. One whose content was collected has `collected_at`.
artifacts = Table(
    "artifacts",
    metadata,
    Column("sha256", Code, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("collected_at", UtcTime),
)

packages = Table(
    "packages",
    metadata,
    Column("digest", Code, primary_key=True),
    Column("model", Code, ForeignKey("models.name"), nullable=False),
    Column("manifest", CanonicalJson, nullable=False),
    Column("registered_at", UtcTime, nullable=False),
)

package_files = Table(
    "package_files",
    metadata,
    Column("digest", Code, ForeignKey("packages.digest"), primary_key=True),
    Column("name", Code, primary_key=True),
    Column("sha256", Code, ForeignKey("artifacts.sha256"), nullable=False),
    Index("package_files_by_sha256", "sha256"),
)

versions = Table(
    "versions",
    metadata,
    Column("model", Code, ForeignKey("models.name"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", Code, ForeignKey("packages.digest"), nullable=False),
    Column("status", Code, nullable=False),
    Column("label", Code),
    Column("author", Code, nullable=False),
    Column("description", Text, nullable=False),
    Column("metadata", CanonicalJson, nullable=False),
    Column("registered_at", UtcTime, nullable=False),
    Column("deleted_at", UtcTime),
    UniqueConstraint("model", "digest", name="versions_one_of_each_digest"),
    UniqueConstraint("model", "label", name="versions_one_of_each_label"),
    Index("versions_by_digest", "digest"),
)


def _of_version() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"])


#: Which rows a version was made and measured on.
datasets = Table(
    "datasets",
    metadata,
    Column("model", Code, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("dataset", Code, primary_key=True),
    Column("fingerprint", Code, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("first", Code),
    Column("last", Code),
    _of_version(),
)

runs = Table(
    "runs",
    metadata,
    Column("run", Code, primary_key=True),
    Column("model", Code, nullable=False),
    Column("version", BigInteger),
    Column("status", Code, nullable=False),
    Column("parameters", CanonicalJson, nullable=False),
    Column("environment", CanonicalJson, nullable=False),
    Column("code_revision", Code, nullable=False),
    Column("data_fingerprint", Code, nullable=False),
    Column("seed", BigInteger),
    Column("started_at", UtcTime),
    Column("duration_s", Double),
    _of_version(),
    Index("runs_by_version", "model", "version"),
)

#: Append-only: of one name, data set and step the row of the highest sequence counts. No value means undefined.
metrics = Table(
    "metrics",
    metadata,
    Column("model", Code, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("dataset", Code, primary_key=True),
    Column("name", Code, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Double),
    Column("standard_error", Double),
    Column("n", BigInteger, nullable=False),
    Column("at", UtcTime, nullable=False),
    _of_version(),
    Index("metrics_by_name", "name", "dataset", "model", "version"),
)

#: Files that belong to a version beside its package: per-row evaluations by data set, and others.
attachments = Table(
    "attachments",
    metadata,
    Column("model", Code, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Code, primary_key=True),
    Column("name", Code, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", Code, ForeignKey("artifacts.sha256"), nullable=False),
    Column("at", UtcTime, nullable=False),
    _of_version(),
    Index("attachments_by_sha256", "sha256"),
)

#: What is meant to be served now, one row a model.
desired = Table(
    "desired",
    metadata,
    Column("model", Code, ForeignKey("models.name"), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("state", CanonicalJson, nullable=False),
)

#: What was meant to be served, every revision of every model. `restores` is the revision that a rollback went back to.
desired_history = Table(
    "desired_history",
    metadata,
    Column("model", Code, ForeignKey("models.name"), primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("state", CanonicalJson, nullable=False),
    Column("stable", BigInteger),
    Column("restores", BigInteger),
    Column("sequence", BigInteger, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", Code, nullable=False),
    Column("reason", Text, nullable=False),
    Index("desired_history_by_time", "model", "at", "revision"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", Code, primary_key=True),
    Column("alias", Code, primary_key=True),
    Column("version", BigInteger, nullable=False),
    _of_version(),
)

#: Every setting and removal (no version) of every alias.
alias_history = Table(
    "alias_history",
    metadata,
    Column("model", Code, primary_key=True),
    Column("alias", Code, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger),
    Column("at", UtcTime, nullable=False),
    _of_version(),
)

#: What servers say that they did: installed or drained a version, or stopped. `at` is the server's own clock.
server_events = Table(
    "server_events",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("server", Code, nullable=False),
    Column("event", Code, nullable=False),
    Column("model", Code, nullable=False),
    Column("version", BigInteger),
    Column("role", Code, nullable=False),
    Column("digest", Code, nullable=False),
    Column("at", UtcTime, nullable=False),
    Index("server_events_by_model", "model", "at"),
)

#: What each server said of itself last. Replaced every few seconds, so neither audited nor replayed.
server_status = Table(
    "server_status",
    metadata,
    Column("server", Code, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("status", CanonicalJson, nullable=False),
)

#: What a model's version answered in one role, by key bucket, in a window of one server; written by its sidecar. Many a
#: minute and kept for a day, so neither audited nor replayed; nor are the two that follow.
window_counts = Table(
    "window_counts",
    metadata,
    Column("reporter", Code, primary_key=True),
    Column("boot", Code, primary_key=True),
    Column("model", Code, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("role", Integer, primary_key=True, autoincrement=False),
    Column("edge_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("start_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("window_ns", BigInteger, nullable=False),
    Column("share_bp", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("window_counts_by_time", "model", "start_ns"),
)

#: Distributions of the outputs and latencies that the prediction log holds of the same.
window_outputs = Table(
    "window_outputs",
    metadata,
    Column("reporter", Code, primary_key=True),
    Column("boot", Code, primary_key=True),
    Column("model", Code, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("role", Integer, primary_key=True, autoincrement=False),
    Column("start_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("window_ns", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("window_outputs_by_time", "model", "start_ns"),
)

#: How far each sidecar is with each life of a server, and where it goes on from (`state`).
reporters = Table(
    "reporters",
    metadata,
    Column("reporter", Code, primary_key=True),
    Column("boot", Code, primary_key=True),
    Column("model", Code, primary_key=True),
    Column("server", Code, nullable=False),
    Column("writer", Code, nullable=False),
    Column("complete_to_ns", BigInteger, nullable=False),
    Column("outputs_to_ns", BigInteger, nullable=False),
    Column("window_ns", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Index("reporters_by_model", "model"),
)

#: Every evaluation of gates, whole, whatever it led to.
gate_results = Table(
    "gate_results",
    metadata,
    Column("model", Code, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("verdict", Code, nullable=False),
    Column("live", BigInteger),
    Column("report", CanonicalJson, nullable=False),
    Column("at", UtcTime, nullable=False),
    _of_version(),
)

#: Who let a version be promoted (`version`), and who let it although a gate could not decide (`inconclusive`).
approvals = Table(
    "approvals",
    metadata,
    Column("model", Code, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Code, nullable=False),
    Column("actor", Code, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    _of_version(),
)

settings = Table(
    "settings",
    metadata,
    Column("name", Code, primary_key=True),
    Column("value", CanonicalJson, nullable=False),
)

#: Every rollout: which version is tried beside which, how (`spec`), under which salt, and until when.
rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout", BigInteger, primary_key=True, autoincrement=False),
    Column("model", Code, nullable=False),
    Column("canary", BigInteger, nullable=False),
    Column("stable", BigInteger, nullable=False),
    Column("spec", CanonicalJson, nullable=False),
    Column("salt", Code, nullable=False),
    Column("actor", Code, nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    ForeignKeyConstraint(["model", "canary"], ["versions.model", "versions.version"]),
    ForeignKeyConstraint(["model", "stable"], ["versions.model", "versions.version"]),
    Index("rollouts_by_model", "model", "rollout"),
)

#: Every decision of every rollout with its evidence (`facts`). `revision` is the model's desired revision after it.
rollout_decisions = Table(
    "rollout_decisions",
    metadata,
    Column("rollout", BigInteger, ForeignKey("rollouts.rollout"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("event", Code, nullable=False),
    Column("step", Integer, nullable=False),
    Column("share_bp", Integer, nullable=False),
    Column("actor", Code, nullable=False),
    Column("reason", Text, nullable=False),
    Column("facts", CanonicalJson, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("at", UtcTime, nullable=False),
)

#: How far each rollout is. It changes with every window, so neither audited nor replayed; `sha256` is of the body.
rollout_progress = Table(
    "rollout_progress",
    metadata,
    Column("rollout", BigInteger, ForeignKey("rollouts.rollout"), primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("sha256", Code, nullable=False),
)

#: Who may act in a name, until when by the database's clock. `token` rises with every holder; not audited.
leases = Table(
    "leases",
    metadata,
    Column("name", Code, primary_key=True),
    Column("holder", Code, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
)
