"""The heartbeat of whoever serves a site, in a row that no tick's transaction locks."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "heartbeats",
        sa.Column("site_id", sa.String(32), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.drop_column("sites", "heartbeat_at")


def downgrade() -> None:
    op.add_column("sites", sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_table("heartbeats")
