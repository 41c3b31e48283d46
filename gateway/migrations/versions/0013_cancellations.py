"""Orders that are canceled: who asked for it and why, and what was decided."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "order_cancellation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("order_id", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("four_eyes", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.String(length=32), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        info={"append_only": True},
    )
    op.create_index("ix_order_cancellation_order", "order_cancellation", ["order_id"], unique=False)
    op.create_table(
        "order_cancellation_decision",
        sa.Column("cancellation_id", sa.String(length=32), nullable=False),
        sa.Column("decision", sa.String(length=8), nullable=False),
        sa.Column("decided_by", sa.String(length=32), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cancellation_id"),
        info={"append_only": True},
    )


def downgrade() -> None:
    op.drop_table("order_cancellation_decision")
    op.drop_table("order_cancellation")
