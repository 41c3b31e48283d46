"""Signatures under centres' statements."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "centre_statement_signature",
        sa.Column("statement_id", sa.BigInteger(), nullable=False),
        sa.Column("party_id", sa.String(length=32), nullable=False),
        sa.Column("key_id", sa.String(length=200), nullable=False),
        sa.Column("jws", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("statement_id", "party_id"),
    )
