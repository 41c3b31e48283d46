"""A document that waits to be a leaf is found among a million entries that wait beside it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    documents = sa.text("body IS NOT NULL")
    op.create_index("ix_evidence_outbox_document", "evidence_outbox", ["kind", "ref"], unique=False,
                    sqlite_where=documents, postgresql_where=documents)  # fmt: skip


def downgrade() -> None:
    op.drop_index("ix_evidence_outbox_document", table_name="evidence_outbox")
