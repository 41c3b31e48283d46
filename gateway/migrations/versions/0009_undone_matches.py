"""Statements arrive in many short transactions; a top-up that was matched to the wrong money is let go again."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "centre_statement_arrival",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("site_id", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        info={"append_only": True},
    )
    # A top-up has one receipt for each time that money was matched to it, or taken off again.
    op.drop_index("ix_top_up_receipt_transaction", table_name="top_up_receipt")
    op.rename_table("top_up_receipt", "top_up_receipt_once")
    op.create_table(
        "top_up_receipt",
        sa.Column("entry_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("payment_id", sa.String(length=32), nullable=False),
        sa.Column("transaction_id", sa.BigInteger(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("how", sa.String(length=200), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("entry_id"),
        info={"append_only": True},
    )
    names = "entry_id, payment_id, transaction_id, amount_minor, how, recorded_at"
    op.execute(f"INSERT INTO top_up_receipt ({names}) SELECT {names} FROM top_up_receipt_once")  # noqa: S608
    op.drop_table("top_up_receipt_once")
    op.create_index("ix_top_up_receipt_transaction", "top_up_receipt", ["transaction_id"], unique=False)
    op.create_index("ix_top_up_receipt_payment", "top_up_receipt", ["payment_id"], unique=False)
    op.create_table(
        "top_up_undo",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("payment_id", sa.String(length=32), nullable=False),
        sa.Column("receipt_entry_id", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("four_eyes", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.String(length=32), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        info={"append_only": True},
    )
    op.create_index("ix_top_up_undo_payment", "top_up_undo", ["payment_id"], unique=False)
    op.create_table(
        "top_up_undo_decision",
        sa.Column("undo_id", sa.String(length=32), nullable=False),
        sa.Column("decision", sa.String(length=8), nullable=False),
        sa.Column("decided_by", sa.String(length=32), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("undo_id"),
        info={"append_only": True},
    )
    op.create_index("ix_recon_break_run", "recon_break", ["usage_record_id"], unique=False)
