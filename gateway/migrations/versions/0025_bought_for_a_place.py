"""What was bought for a place is a commodity of its own, with a longer name; a ratio says what is drawn by it.
A charge has what it would have been, had no order paid for it. Credits and disputes name runs of their line."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_TABLES = ("account", "balance", "hold", "allocation")
_LISTED = ("list_gross_micro", "list_centre_micro")


def upgrade() -> None:
    for table in _TABLES:
        with op.batch_alter_table(table) as batch_op:
            batch_op.alter_column(
                "commodity", existing_type=sa.String(32), type_=sa.String(80), existing_nullable=False
            )
    op.add_column("discount", sa.Column("draws", sa.String(80), nullable=True))
    for column in _LISTED:
        op.add_column("charge", sa.Column(column, sa.BigInteger(), nullable=True))
    op.create_table(
        "credited_run",
        sa.Column("source", sa.String(96), nullable=False),
        sa.Column("charge_id", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("source", "charge_id"),
    )


def downgrade() -> None:
    op.drop_table("credited_run")
    for column in _LISTED:
        op.drop_column("charge", column)
    op.drop_column("discount", "draws")
    for table in _TABLES:
        with op.batch_alter_table(table) as batch_op:
            batch_op.alter_column(
                "commodity", existing_type=sa.String(80), type_=sa.String(32), existing_nullable=False
            )
