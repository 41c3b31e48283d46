"""What orders cost: their prices as they were divided, and the documents that they are on; the centre of an order."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("service_order", sa.Column("site_id", sa.String(length=32), nullable=True))
    op.create_table(
        "order_price",
        sa.Column("allocation_id", sa.String(length=80), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.String(length=32), nullable=False),
        sa.Column("project_id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("commodity", sa.String(length=32), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("price_micro", sa.BigInteger(), nullable=False),
        sa.Column("centre_micro", sa.BigInteger(), nullable=False),
        sa.Column("tax_micro", sa.BigInteger(), nullable=False),
        sa.Column("agreement_id", sa.String(length=32), nullable=True),
        sa.Column("agreement_version", sa.Integer(), nullable=True),
        sa.Column("payers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("service_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("service_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("allocation_id"),
        info={"append_only": True},
    )
    op.create_index("ix_order_price_project", "order_price", ["project_id"], unique=False)
    op.create_index("ix_order_price_entry", "order_price", ["entry_id"], unique=False)
    op.create_table(
        "order_item",
        sa.Column("allocation_id", sa.String(length=80), nullable=False),
        sa.Column("part", sa.String(length=32), nullable=False),
        sa.Column("document", sa.String(length=32), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("allocation_id", "part"),
        info={"append_only": True},
    )
    op.create_index("ix_order_item_document", "order_item", ["document"], unique=False)
