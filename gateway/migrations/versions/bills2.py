"""The account that a payment came from: whose it is says more than a name."""

import sqlalchemy as sa
from alembic import op

revision = "bills2"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bank_transaction", sa.Column("payer_account", sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("bank_transaction", "payer_account")
