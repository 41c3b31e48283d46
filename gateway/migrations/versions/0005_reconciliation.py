"""Centres' statements, comparisons and breaks."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "centre_statement",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=32), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("number", sa.String(length=100), nullable=False),
        sa.Column("format", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("signer", sa.String(length=200), nullable=False),
        sa.Column("signature_refused", sa.String(length=500), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("problems", sa.BigInteger(), nullable=False),
        sa.Column("core_seconds", sa.BigInteger(), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=True),
        sa.Column("said_lines", sa.BigInteger(), nullable=True),
        sa.Column("said_core_seconds", sa.BigInteger(), nullable=True),
        sa.Column("said_amount_micro", sa.BigInteger(), nullable=True),
        sa.Column("received_by", sa.String(length=100), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("site_id", "sha256", name="uq_centre_statement_bytes"),
    )
    with op.batch_alter_table("centre_statement", schema=None) as batch_op:
        batch_op.create_index("ix_centre_statement_period", ["site_id", "period", "currency"], unique=False)

    op.create_table(
        "centre_statement_line",
        sa.Column("statement_id", sa.BigInteger(), nullable=False),
        sa.Column("line_no", sa.BigInteger(), nullable=False),
        sa.Column("run_key", sa.String(length=100), nullable=False),
        sa.Column("native_id", sa.String(length=64), nullable=False),
        sa.Column("task", sa.Integer(), nullable=True),
        sa.Column("username", sa.String(length=64), nullable=False),
        sa.Column("account", sa.String(length=100), nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("nodes", sa.Integer(), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=True),
        sa.Column("ended", sa.BigInteger(), nullable=True),
        sa.Column("elapsed_s", sa.BigInteger(), nullable=False),
        sa.Column("suspended_s", sa.BigInteger(), nullable=False),
        sa.Column("core_seconds", sa.BigInteger(), nullable=False),
        sa.Column("gpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=True),
        sa.Column("raw", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("statement_id", "line_no"),
    )
    with op.batch_alter_table("centre_statement_line", schema=None) as batch_op:
        batch_op.create_index("ix_centre_statement_line_key", ["statement_id", "run_key"], unique=False)

    op.create_table(
        "centre_statement_problem",
        sa.Column("statement_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("line_no", sa.BigInteger(), nullable=False),
        sa.Column("raw", sa.String(), nullable=False),
        sa.Column("why", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("statement_id", "ordinal"),
    )
    op.create_table(
        "recon_break",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("break_key", sa.String(length=120), nullable=False),
        sa.Column("reconciliation_id", sa.BigInteger(), nullable=False),
        sa.Column("statement_id", sa.BigInteger(), nullable=False),
        sa.Column("site_id", sa.String(length=32), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("category", sa.String(length=3), nullable=False),
        sa.Column("tier", sa.String(length=2), nullable=False),
        sa.Column("line_no", sa.BigInteger(), nullable=True),
        sa.Column("usage_record_id", sa.BigInteger(), nullable=True),
        sa.Column("native_id", sa.String(length=64), nullable=False),
        sa.Column("username", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=True),
        sa.Column("project_id", sa.String(length=32), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("ours_core_seconds", sa.BigInteger(), nullable=False),
        sa.Column("theirs_core_seconds", sa.BigInteger(), nullable=False),
        sa.Column("ours_micro", sa.BigInteger(), nullable=True),
        sa.Column("theirs_micro", sa.BigInteger(), nullable=True),
        sa.Column("causes", sa.JSON(), nullable=False),
        sa.Column("explanation", sa.String(length=1000), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("break_key", name="uq_recon_break_key"),
    )
    with op.batch_alter_table("recon_break", schema=None) as batch_op:
        batch_op.create_index("ix_recon_break_site", ["site_id", "period"], unique=False)
        batch_op.create_index("ix_recon_break_statement", ["statement_id"], unique=False)

    op.create_table(
        "recon_break_event",
        sa.Column("break_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("act", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("by", sa.String(length=100), nullable=False),
        sa.Column("note", sa.String(length=1000), nullable=False),
        sa.Column("resolution", sa.String(length=8), nullable=False),
        sa.Column("entry_key", sa.String(length=200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("break_id", "seq"),
    )
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("statement_id", sa.BigInteger(), nullable=False),
        sa.Column("site_id", sa.String(length=32), nullable=False),
        sa.Column("period", sa.String(length=10), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("by", sa.String(length=100), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("reconciliation", schema=None) as batch_op:
        batch_op.create_index("ix_reconciliation_statement", ["statement_id"], unique=False)
