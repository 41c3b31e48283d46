"""The readings of a centre by time, and those that take another's place: comparing reads no others. What a statement
confirms, some hundreds of runs in a row."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_usage_record_site", "usage_record", ["site_id", "end_time"], unique=False)
    some = sa.text("supersedes IS NOT NULL")
    op.create_index("ix_usage_record_supersedes", "usage_record", ["supersedes"], unique=False, sqlite_where=some,
                    postgresql_where=some)  # fmt: skip
    op.create_index("ix_charge_entry", "charge", ["entry_id"], unique=False)
    op.drop_table("record_confirmation")
    op.create_table(
        "confirmed_part",
        sa.Column("statement_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_reading", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_reading", sa.BigInteger(), nullable=False),
        sa.Column("reconciliation_id", sa.BigInteger(), nullable=False),
        sa.Column("runs", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("statement_id", "first_reading"),
        info={"append_only": True},
    )
    op.create_index("ix_confirmed_part_reading", "confirmed_part", ["last_reading", "first_reading"], unique=False)
