"""Adjustments on documents."""

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


def downgrade() -> None:
    op.drop_table("adjustment_item")
