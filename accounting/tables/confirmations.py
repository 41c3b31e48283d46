"""Which readings a centre has put its name to: by the lines of a statement that it signed."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base


class ConfirmedPartRow(Base):
    """Some hundreds of readings that agreed with lines of a signed statement when they were compared.

    `runs`: (reading, line of the statement), ascending by reading. A month has a million of them: a row for each would
    be most of what a comparison writes.
    """

    __tablename__ = "confirmed_part"
    __table_args__ = (Index("ix_confirmed_part_reading", "last_reading", "first_reading"), HISTORY)

    statement_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    first_reading: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last_reading: Mapped[int] = mapped_column(BigInteger)
    reconciliation_id: Mapped[int] = mapped_column(BigInteger)
    runs: Mapped[list[list[int]]] = mapped_column(JSON)
