"""The account that a payment came from: whose it is says more than a name. What a whole month of a subscription is."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bank_transaction", sa.Column("payer_account", sa.String(64), nullable=False, server_default=""))
    op.add_column("order_price", sa.Column("month_quantity", sa.BigInteger(), nullable=True))
    op.add_column("order_price", sa.Column("month_micro", sa.BigInteger(), nullable=True))
    op.add_column("order_price", sa.Column("month_zone", sa.String(64), nullable=True))


def downgrade() -> None:
    for name in ("month_zone", "month_micro", "month_quantity"):
        op.drop_column("order_price", name)
    op.drop_column("bank_transaction", "payer_account")
