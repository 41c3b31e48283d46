"""The readings of a centre by time, and those that take another's place: comparing reads no others. What a statement
confirms, some hundreds of runs in a row."""

from itertools import groupby

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_PART = 500  # runs in a row


def upgrade() -> None:
    op.create_index("ix_usage_record_site", "usage_record", ["site_id", "end_time"], unique=False)
    some = sa.text("supersedes IS NOT NULL")
    op.create_index("ix_usage_record_supersedes", "usage_record", ["supersedes"], unique=False, sqlite_where=some,
                    postgresql_where=some)  # fmt: skip
    op.create_index("ix_charge_entry", "charge", ["entry_id"], unique=False)
    parts = op.create_table(
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
    _fill(parts)
    op.drop_table("record_confirmation")


def _fill(parts: sa.Table) -> None:
    """What was a row for each run, as parts of runs."""
    names = ("statement_id", "reconciliation_id", "usage_record_id", "line_no")
    columns: list[sa.ColumnClause[int]] = [sa.column(name) for name in names]
    rows = op.get_bind().execute(sa.select(*columns).select_from(sa.table("record_confirmation")).order_by(*columns))
    for (statement, reconciliation), found in groupby(rows, key=lambda row: (row[0], row[1])):
        runs = [[row[2], row[3]] for row in found]
        for at in range(0, len(runs), _PART):
            some = runs[at : at + _PART]
            part = {"statement_id": statement, "first_reading": some[0][0], "last_reading": some[-1][0],
                    "reconciliation_id": reconciliation, "runs": some}  # fmt: skip
            op.bulk_insert(parts, [part])
