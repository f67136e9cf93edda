"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Compared byte by byte, whatever the database's locale.
_CODE = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("sha256", _CODE, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("collected_at", _CODE),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("at", _CODE, nullable=False),
        sa.Column("actor", _CODE, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("action", _CODE, nullable=False),
        sa.Column("model", _CODE),
        sa.Column("version", sa.BigInteger()),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("previous", _CODE, nullable=False),
        sa.Column("hash", _CODE, nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_index("audit_by_model", "audit", ["model", "sequence"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.Column("hash", _CODE, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "models",
        sa.Column("name", _CODE, nullable=False),
        sa.Column("strategy_type", _CODE, nullable=False),
        sa.Column("universe", _CODE, nullable=False),
        sa.Column("model_type", _CODE, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_at", _CODE, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("models_by_strategy_type", "models", ["strategy_type", "name"], unique=False)
    op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "server_events",
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("place", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("server", _CODE, nullable=False),
        sa.Column("event", _CODE, nullable=False),
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger()),
        sa.Column("role", _CODE, nullable=False),
        sa.Column("digest", _CODE, nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.PrimaryKeyConstraint("sequence", "place"),
    )
    op.create_index("server_events_by_model", "server_events", ["model", "at"], unique=False)
    op.create_table(
        "settings",
        sa.Column("name", _CODE, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "desired",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model"),
    )
    op.create_table(
        "desired_history",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stable", sa.BigInteger()),
        sa.Column("restores", sa.BigInteger()),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.Column("actor", _CODE, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "revision"),
    )
    op.create_index("desired_history_by_time", "desired_history", ["model", "at", "revision"], unique=False)
    op.create_table(
        "model_tags",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("tag", _CODE, nullable=False),
        sa.Column("value", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "tag"),
    )
    op.create_index("model_tags_by_tag", "model_tags", ["tag", "value"], unique=False)
    op.create_table(
        "packages",
        sa.Column("digest", _CODE, nullable=False),
        sa.Column("model", _CODE, nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("registered_at", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "package_files",
        sa.Column("digest", _CODE, nullable=False),
        sa.Column("name", _CODE, nullable=False),
        sa.Column("sha256", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"],
            ["packages.digest"],
        ),
        sa.ForeignKeyConstraint(
            ["sha256"],
            ["artifacts.sha256"],
        ),
        sa.PrimaryKeyConstraint("digest", "name"),
    )
    op.create_index("package_files_by_sha256", "package_files", ["sha256"], unique=False)
    op.create_table(
        "versions",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("digest", _CODE, nullable=False),
        sa.Column("status", _CODE, nullable=False),
        sa.Column("label", _CODE),
        sa.Column("author", _CODE, nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("registered_at", _CODE, nullable=False),
        sa.Column("deleted_at", _CODE),
        sa.ForeignKeyConstraint(
            ["digest"],
            ["packages.digest"],
        ),
        sa.ForeignKeyConstraint(
            ["model"],
            ["models.name"],
        ),
        sa.PrimaryKeyConstraint("model", "version"),
        sa.UniqueConstraint("model", "digest", name="versions_one_of_each_digest"),
        sa.UniqueConstraint("model", "label", name="versions_one_of_each_label"),
    )
    op.create_index("versions_by_digest", "versions", ["digest"], unique=False)
    op.create_table(
        "alias_history",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("alias", _CODE, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("version", sa.BigInteger()),
        sa.Column("at", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("model", "alias", "sequence"),
    )
    op.create_table(
        "aliases",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("alias", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("model", "alias"),
    )
    op.create_table(
        "approvals",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("kind", _CODE, nullable=False),
        sa.Column("actor", _CODE, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("model", "version", "sequence"),
    )
    op.create_table(
        "attachments",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("kind", _CODE, nullable=False),
        sa.Column("name", _CODE, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("sha256", _CODE, nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.ForeignKeyConstraint(
            ["sha256"],
            ["artifacts.sha256"],
        ),
        sa.PrimaryKeyConstraint("model", "version", "kind", "name", "sequence"),
    )
    op.create_index("attachments_by_sha256", "attachments", ["sha256"], unique=False)
    op.create_table(
        "datasets",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("dataset", _CODE, nullable=False),
        sa.Column("fingerprint", _CODE, nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("first", _CODE),
        sa.Column("last", _CODE),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("model", "version", "dataset"),
    )
    op.create_table(
        "gate_results",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("verdict", _CODE, nullable=False),
        sa.Column("live", sa.BigInteger()),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("model", "version", "sequence"),
    )
    op.create_table(
        "metrics",
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("dataset", _CODE, nullable=False),
        sa.Column("name", _CODE, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("value", sa.Double()),
        sa.Column("standard_error", sa.Double()),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("model", "version", "dataset", "name", "step", "sequence"),
    )
    op.create_index("metrics_by_name", "metrics", ["name", "dataset", "model", "version"], unique=False)
    op.create_table(
        "runs",
        sa.Column("run", _CODE, nullable=False),
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger()),
        sa.Column("status", _CODE, nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("code_revision", _CODE, nullable=False),
        sa.Column("data_fingerprint", _CODE, nullable=False),
        sa.Column("seed", sa.BigInteger()),
        sa.Column("started_at", _CODE),
        sa.Column("duration_s", sa.Double()),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["versions.model", "versions.version"],
        ),
        sa.PrimaryKeyConstraint("run"),
    )
    op.create_index("runs_by_version", "runs", ["model", "version"], unique=False)
    op.execute("INSERT INTO revision (id, revision) VALUES (1, 0)")
    op.execute(
        sa.text("INSERT INTO audit_head (id, sequence, at, hash) VALUES (1, 0, :at, :hash)").bindparams(
            at="1970-01-01T00:00:00.000000Z", hash="0" * 64
        )
    )
