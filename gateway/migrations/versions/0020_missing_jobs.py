"""Since when a job is missed, and when a change that its centre refused for now is asked again."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("change_refusals", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("change_due_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for column in ("missing_since", "change_refusals", "change_due_at"):
        op.drop_column("jobs", column)
