"""Adjustments on documents; credit notes set off against invoices; invoices that are written off."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adjustment_item",
        sa.Column("adjustment_id", sa.String(length=32), nullable=False),
        sa.Column("part", sa.String(length=32), nullable=False),
        sa.Column("document", sa.String(length=32), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("adjustment_id", "part"),
        info={"append_only": True},
    )
    op.create_index("ix_adjustment_item_document", "adjustment_item", ["document"], unique=False)
    op.create_table(
        "set_off",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("document", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        info={"append_only": True},
    )
    op.create_index("ix_set_off_document", "set_off", ["document"], unique=False)
    op.create_index("ix_set_off_source", "set_off", ["source"], unique=False)
    op.add_column("adjustment", sa.Column("document", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("adjustment", "document")
    op.drop_table("set_off")
    op.drop_table("adjustment_item")
