"""What each server said of itself last, outside of the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Compared byte by byte, whatever the database's locale.
_CODE = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "server_status",
        sa.Column("server", _CODE, nullable=False),
        sa.Column("at", _CODE, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("server"),
    )
