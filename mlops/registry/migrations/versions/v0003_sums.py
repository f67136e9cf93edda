"""Counts and outputs by window from every server's sidecar, and how far each is, outside of the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Compared byte by byte, whatever the database's locale.
_CODE = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "window_counts",
        sa.Column("reporter", _CODE, nullable=False),
        sa.Column("boot", _CODE, nullable=False),
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("role", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("edge_ns", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("window_ns", sa.BigInteger(), nullable=False),
        sa.Column("share_bp", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("reporter", "boot", "model", "version", "role", "edge_ns", "start_ns"),
    )
    op.create_index("window_counts_by_time", "window_counts", ["model", "start_ns"], unique=False)
    op.create_table(
        "window_outputs",
        sa.Column("reporter", _CODE, nullable=False),
        sa.Column("boot", _CODE, nullable=False),
        sa.Column("model", _CODE, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("role", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("window_ns", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("reporter", "boot", "model", "version", "role", "start_ns"),
    )
    op.create_index("window_outputs_by_time", "window_outputs", ["model", "start_ns"], unique=False)
    op.create_table(
        "reporters",
        sa.Column("reporter", _CODE, nullable=False),
        sa.Column("boot", _CODE, nullable=False),
        sa.Column("model", _CODE, nullable=False),
        sa.Column("server", _CODE, nullable=False),
        sa.Column("writer", _CODE, nullable=False),
        sa.Column("complete_to_ns", sa.BigInteger(), nullable=False),
        sa.Column("outputs_to_ns", sa.BigInteger(), nullable=False),
        sa.Column("window_ns", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("reporter", "boot", "model"),
    )
    op.create_index("reporters_by_model", "reporters", ["model"], unique=False)
