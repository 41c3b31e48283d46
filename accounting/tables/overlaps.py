"""What was given back of a run by a person and again by its record, and is charged once more for that."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class CreditOverlapRow(Base):
    """`amount_micro` of an adjustment that the books made by themselves: so much of what `source` (`credit note:line`,
    or an adjustment) gave back a changed record of the run gave back too; negative where a later record undoes that.

    `part`: whose part of the run as of billing_item; `payer_id`: who is billed the adjustment, empty: who pays then.
    """

    __tablename__ = "credit_overlap"
    __table_args__ = (Index("ix_credit_overlap_run", "site_id", "run_key"), Index("ix_credit_overlap_source", "source"),
                      HISTORY)  # fmt: skip

    adjustment_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    usage_record_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    source: Mapped[str] = mapped_column(String(64))
    site_id: Mapped[str] = mapped_column(String(32))
    run_key: Mapped[str] = mapped_column(String(100))
    part: Mapped[str] = mapped_column(String(32))
    payer_id: Mapped[str] = mapped_column(String(32))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
