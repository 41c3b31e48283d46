"""What a bundle is about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


class NothingToShow(Exception):
    """There is no checkpoint yet, or nothing of this in the log."""


@dataclass(frozen=True, slots=True)
class About:
    """Charges of a project, or of a centre, or both, whose runs ended in [start, end); or what a settlement settles; or
    what a payer was billed for that time (of one project; or by one document, with the credit notes about it)."""

    start: datetime
    end: datetime
    project_id: str | None = None
    site_id: str | None = None
    settlement_id: str | None = None
    payer_id: str | None = None
    document: str | None = None

    @property
    def billed(self) -> bool:
        """Whether the bill is the documents that were issued."""
        return self.payer_id is not None or self.document is not None
