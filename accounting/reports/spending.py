"""What was spent, by project, user, site, queue, state and period, also as it was known on an earlier day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any

from sqlalchemy import BigInteger, Connection, String, case, column, func, or_, select, values

from accounting.calendar import days, month_of, months
from accounting.store.schema import CHARGES, REVERSALS, USAGE
from accounting.tables import UtcTime

BUCKETS_MAX = 400


class By(StrEnum):
    """What a report can be broken down by."""

    PROJECT = "project"
    USER = "user"
    SITE = "site"
    QUEUE = "queue"
    STATE = "state"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose work is seen: everything, or some projects and one's own."""

    everything: bool
    project_ids: tuple[str, ...] = ()
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """Work that ended in [start, end), as the books stood at `as_of` (None: now). Empty filters: all."""

    by: tuple[By, ...]
    start: datetime
    end: datetime
    zone: str
    project_ids: tuple[str, ...] = ()
    site_ids: tuple[str, ...] = ()
    user_ids: tuple[str, ...] = ()
    as_of: datetime | None = None

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError("a report ends after it begins")
        if len(set(self.by)) != len(self.by) or {By.DAY, By.MONTH} <= set(self.by):
            raise ValueError("each breakdown is named once, and a period by day or by month")


@dataclass(frozen=True, slots=True)
class Spent:
    """One row. `provisional_micro` of `amount_micro` waits for the centre's record."""

    keys: tuple[str, ...]
    currency: str
    runs: int
    core_seconds: int
    amount_micro: int
    provisional_micro: int


def spent(conn: Connection, question: Question, scope: Scope) -> list[Spent]:
    """Sums by every wanted key; periods ascending, the rest by amount."""
    base = CHARGES.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    base = base.outerjoin(REVERSALS, _reversed_by(question.as_of))
    keys: list[Any] = []
    for by in question.by:
        if by in (By.DAY, By.MONTH):
            period = _periods(question, by)
            base = base.join(period, (USAGE.c.end_time >= period.c.first) & (USAGE.c.end_time < period.c.last))
            keys.append(period.c.name)
        else:
            keys.append(_COLUMNS[by])
    provisional = case((CHARGES.c.meter == "gateway", CHARGES.c.amount_micro), else_=0)
    query = (
        select(*keys, CHARGES.c.currency, func.count().label("runs"),
               func.sum(CHARGES.c.core_seconds, type_=BigInteger).label("core_seconds"),
               func.sum(CHARGES.c.amount_micro, type_=BigInteger).label("amount_micro"),
               func.sum(provisional, type_=BigInteger).label("provisional_micro"))
        .select_from(base)
        .where(REVERSALS.c.charge_id.is_(None), USAGE.c.end_time >= question.start, USAGE.c.end_time < question.end,
               *_filters(question, scope))
        .group_by(*keys, CHARGES.c.currency)
    )  # fmt: skip
    n = len(keys)
    found = [
        Spent(tuple(str(k or "") for k in r[:n]), r[n], int(r[n + 1]), int(r[n + 2]), int(r[n + 3]), int(r[n + 4]))
        for r in conn.execute(query)
    ]
    dated = [i for i, by in enumerate(question.by) if by in (By.DAY, By.MONTH)]
    return sorted(found, key=lambda s: (*(s.keys[i] for i in dated), -s.amount_micro, s.keys))


# Schedulers write one state in capitals and small letters.
_COLUMNS = {
    By.PROJECT: CHARGES.c.project_id, By.USER: func.coalesce(USAGE.c.user_id, ""), By.SITE: USAGE.c.site_id,
    By.QUEUE: USAGE.c.queue, By.STATE: func.upper(USAGE.c.state),
}  # fmt: skip


def _reversed_by(as_of: datetime | None) -> Any:
    """A reversal counts only if it was known then."""
    known = REVERSALS.c.charge_id == CHARGES.c.id
    return known if as_of is None else known & (REVERSALS.c.recorded_at <= as_of)


def _filters(question: Question, scope: Scope) -> Sequence[Any]:
    wanted: list[Any] = []
    if question.as_of is not None:
        wanted.append(CHARGES.c.recorded_at <= question.as_of)
    for column_, ids in ((CHARGES.c.project_id, question.project_ids), (USAGE.c.site_id, question.site_ids),
                         (USAGE.c.user_id, question.user_ids)):  # fmt: skip
        if ids:
            wanted.append(column_.in_(ids))
    if not scope.everything:
        wanted.append(or_(CHARGES.c.project_id.in_(scope.project_ids), USAGE.c.user_id == scope.user_id))
    return wanted


def _periods(question: Question, by: By) -> Any:
    """Days or months of the zone as a table of half-open intervals."""
    each = months if by is By.MONTH else days
    found = list(islice(each(question.start, question.end, question.zone), BUCKETS_MAX + 1))
    if len(found) > BUCKETS_MAX:
        raise ValueError(f"more than {BUCKETS_MAX} periods: ask by month, or for less time")
    table = values(column("name", String), column("first", UtcTime), column("last", UtcTime), name="period")
    return table.data([(p.name, p.start, p.end) for p in found]).cte(
        "period"
    )  # SQLite names the columns of VALUES only so


def default_span(now: datetime, zone: str) -> tuple[datetime, datetime]:
    """The month that runs, up to its end."""
    found = month_of(now, zone)
    return found.start, found.end
