"""Which readings a centre has put its name to: by a line of a statement that it signed."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base


class RecordConfirmationRow(Base):
    """A reading that agreed with a line of a signed statement when they were compared."""

    __tablename__ = "record_confirmation"
    __table_args__ = (
        Index("ix_record_confirmation_statement", "statement_id"),
        {"sqlite_with_rowid": False, **HISTORY},
    )

    usage_record_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    statement_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    line_no: Mapped[int] = mapped_column(BigInteger)
    reconciliation_id: Mapped[int] = mapped_column(BigInteger)
