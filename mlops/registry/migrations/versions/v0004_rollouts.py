"""Rollouts with their decisions and progress, and the lease of who may decide."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Compared byte by byte, whatever the database's locale.
_CODE = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("rollout", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("model", _CODE, nullable=False),
        sa.Column("canary", sa.BigInteger(), nullable=False),
        sa.Column("stable", sa.BigInteger(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("salt", _CODE, nullable=False),
        sa.Column("actor", _CODE, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("started_at", _CODE, nullable=False),
        sa.Column("ended_at", _CODE),
        sa.ForeignKeyConstraint(["model", "canary"], ["versions.model", "versions.version"]),
        sa.ForeignKeyConstraint(["model", "stable"], ["versions.model", "versions.version"]),
        sa.PrimaryKeyConstraint("rollout"),
    )
    op.create_index("rollouts_by_model", "rollouts", ["model", "rollout"])
    op.create_table(
        "rollout_decisions",
        sa.Column("rollout", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("event", _CODE, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("share_bp", sa.Integer(), nullable=False),
        sa.Column("actor", _CODE, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.rollout"]),
        sa.PrimaryKeyConstraint("rollout", "sequence", "place"),
    )
    op.create_table(
        "rollout_progress",
        sa.Column("rollout", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("sha256", _CODE, nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.rollout"]),
        sa.PrimaryKeyConstraint("rollout"),
    )
    op.create_table(
        "leases",
        sa.Column("name", _CODE, nullable=False),
        sa.Column("holder", _CODE, nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
