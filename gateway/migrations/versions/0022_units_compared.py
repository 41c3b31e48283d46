"""Units (shots, licences) that a line of a centre's statement names."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("centre_statement_line", sa.Column("units", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("centre_statement_line", "units")
