"""What was given back of a run twice over, and is charged once more for that; what became of quarantined records."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "credit_overlap",
        sa.Column("adjustment_id", sa.String(32), nullable=False),
        sa.Column("usage_record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(32), nullable=False),
        sa.Column("run_key", sa.String(100), nullable=False),
        sa.Column("part", sa.String(32), nullable=False),
        sa.Column("payer_id", sa.String(32), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("adjustment_id", "usage_record_id"),
        info={"append_only": True},
    )
    op.create_index("ix_credit_overlap_run", "credit_overlap", ["site_id", "run_key"])
    op.create_index("ix_credit_overlap_source", "credit_overlap", ["source"])
    op.create_table(
        "quarantine_reread",
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("content_sha256", "site_id", "outcome"),
        info={"append_only": True},
    )


def downgrade() -> None:
    op.drop_table("quarantine_reread")
    op.drop_table("credit_overlap")
