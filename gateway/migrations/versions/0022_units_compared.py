"""Units (shots, licences) that a line of a centre's statement names."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("centre_statement_line", sa.Column("units", sa.JSON(), nullable=True))
    named = sa.text("units IS NOT NULL")
    op.create_index("ix_centre_statement_line_units", "centre_statement_line", ["statement_id"],
                    sqlite_where=named, postgresql_where=named)  # fmt: skip


def downgrade() -> None:
    op.drop_index("ix_centre_statement_line_units", table_name="centre_statement_line")
    op.drop_column("centre_statement_line", "units")
