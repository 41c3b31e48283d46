"""Which money of the bank a top-up is; which readings a centre has put its name to; alarms of the meters; the
names of the evidence log."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
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
    op.add_column("usage_record", sa.Column("ordered_grade", sa.String(length=32), nullable=True))
    op.add_column("usage_record", sa.Column("statement_id", sa.BigInteger(), nullable=True))
    op.add_column("usage_record", sa.Column("signed_by", sa.String(length=32), nullable=True))
    op.create_table(
        "record_confirmation",
        sa.Column("usage_record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("statement_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("line_no", sa.BigInteger(), nullable=False),
        sa.Column("reconciliation_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("usage_record_id", "statement_id"),
        info={"append_only": True},
        sqlite_with_rowid=False,
    )
    op.create_index("ix_record_confirmation_statement", "record_confirmation", ["statement_id"], unique=False)
    op.create_table(
        "meter_alarm",
        sa.Column("site_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("text", sa.String(length=500), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "kind", "day", "n"),
        info={"append_only": True},
    )
    op.create_table(
        "evidence_origin",
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("before", sa.String(length=200), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("started_at"),
        info={"append_only": True},
    )
