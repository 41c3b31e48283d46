"""Which priced order has paid for what a discount makes cost nothing: its centre has a share of that price."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("discount", sa.Column("order_id", sa.String(32), nullable=True))


def downgrade() -> None:
    op.drop_column("discount", "order_id")
