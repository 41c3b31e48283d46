"""Books: which money of the bank a top-up is."""

import sqlalchemy as sa
from alembic import op

revision = "books"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "top_up_receipt",
        sa.Column("payment_id", sa.String(length=32), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("how", sa.String(length=200), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("payment_id"),
        info={"append_only": True},
    )
    op.create_index("ix_top_up_receipt_transaction", "top_up_receipt", ["transaction_id"], unique=False)
