"""The indices by which a comparison finds runs and lines have what it asks of them; runs by their numbers there.
How far a comparison has come that is kept in several transactions."""

import sqlalchemy as sa
from alembic import op

revision = "match2"
down_revision = "0021"
branch_labels = None
depends_on = None

_INDICES = {
    "ix_usage_record_site": ("usage_record", ["site_id", "end_time"],
                             ["kind", "meter", "run_key", "cores", "core_seconds", "username", "account"]),
    "ix_centre_statement_line_key": ("centre_statement_line", ["statement_id", "run_key"],
                                     ["line_no", "core_seconds", "amount_micro", "username", "account"]),
}  # fmt: skip


def upgrade() -> None:
    for name, (table, key, more) in _INDICES.items():
        op.drop_index(name, table_name=table)
        op.create_index(name, table, key + more, unique=False)
    op.create_index("ix_usage_record_native", "usage_record", ["native_id"], unique=False)
    op.create_table(
        "comparison_stage",
        sa.Column("reconciliation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.String(length=8), nullable=False),
        sa.Column("statement_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("reconciliation_id", "stage"),
        info={"append_only": True},
    )
    op.create_index("ix_comparison_stage_statement", "comparison_stage", ["statement_id"], unique=False)


def downgrade() -> None:
    op.drop_table("comparison_stage")
    op.drop_index("ix_usage_record_native", table_name="usage_record")
    for name, (table, key, _) in _INDICES.items():
        op.drop_index(name, table_name=table)
        op.create_index(name, table, key, unique=False)
