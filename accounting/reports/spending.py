"""What was spent, by project, user, site, queue, state, kind and period, also as it was known on an earlier day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, String, case, column, func, or_, select, values

from accounting.calendar import days, month_of, months
from accounting.store.schema import ADJUSTMENTS, CHARGES, DECISIONS, ENTRIES, ORDER_PRICES, REVERSALS, USAGE
from accounting.tables import UtcTime

BUCKETS_MAX = 400


class By(StrEnum):
    """What a report can be broken down by."""

    PROJECT = "project"
    USER = "user"
    SITE = "site"
    QUEUE = "queue"
    STATE = "state"
    KIND = "kind"  # run, block, subscription, adjustment
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose work is seen: everything, or some projects, one's own, and what was done at some sites."""

    everything: bool
    project_ids: tuple[str, ...] = ()
    user_id: str = ""
    site_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """Work that ended, orders whose price was booked and adjustments, in [start, end), as the books stood at `as_of`
    (None: now). Empty filters: all."""

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
    """One row. Of `amount_micro`, `provisional_micro` waits for the centre's record, and `ordered_micro` is the price
    of orders (booked in the span, whenever what they gave is used)."""

    keys: tuple[str, ...]
    currency: str
    runs: int
    core_seconds: int
    amount_micro: int
    provisional_micro: int
    orders: int = 0
    ordered_micro: int = 0

    def plus(self, other: Spent) -> Spent:
        """Both together, under this one's keys."""
        return Spent(
            self.keys, self.currency, self.runs + other.runs, self.core_seconds + other.core_seconds,
            self.amount_micro + other.amount_micro, self.provisional_micro + other.provisional_micro,
            self.orders + other.orders, self.ordered_micro + other.ordered_micro,
        )  # fmt: skip


def spent(conn: Connection, question: Question, scope: Scope) -> list[Spent]:
    """Sums by every wanted key, runs and what was ordered; periods ascending, the rest by amount."""
    found: dict[tuple[tuple[str, ...], str], Spent] = {}
    for row in (*_runs(conn, question, scope), *_ordered(conn, question, scope), *_adjusted(conn, question, scope)):
        key = (row.keys, row.currency)
        found[key] = found[key].plus(row) if key in found else row
    dated = [i for i, by in enumerate(question.by) if by in (By.DAY, By.MONTH)]
    return sorted(found.values(), key=lambda s: (*(s.keys[i] for i in dated), -s.amount_micro, s.keys))


def _runs(conn: Connection, question: Question, scope: Scope) -> Iterator[Spent]:
    """Live charges of work that ended in the span."""
    base = CHARGES.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    base = base.outerjoin(REVERSALS, _reversed_by(question.as_of))
    provisional = case((CHARGES.c.meter == "gateway", CHARGES.c.amount_micro), else_=0)
    sums = [CHARGES.c.core_seconds, CHARGES.c.amount_micro, provisional]
    query = _grouped(question, base, _OF_RUNS, USAGE.c.end_time, CHARGES.c.currency, func.count(), sums)
    query = query.where(REVERSALS.c.charge_id.is_(None), *_filters(question, scope))
    for *keys, currency, runs, core_seconds, amount, waits in conn.execute(query):
        yield Spent(_keyed(question, _OF_RUNS, keys), currency, int(runs), int(core_seconds), int(amount), int(waits))


def _ordered(conn: Connection, question: Question, scope: Scope) -> Iterator[Spent]:
    """Prices of orders that count in the span; nobody's in particular, so that a filter on users leaves them out."""
    if question.user_ids:
        return
    base = ORDER_PRICES.join(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id)
    seen = or_(ORDER_PRICES.c.project_id.in_(scope.project_ids), ORDER_PRICES.c.site_id.in_(scope.site_ids))
    wanted: list[Any] = [] if scope.everything else [seen]
    if question.as_of is not None:
        wanted.append(ORDER_PRICES.c.recorded_at <= question.as_of)
    for column_, ids in ((ORDER_PRICES.c.project_id, question.project_ids),
                         (ORDER_PRICES.c.site_id, question.site_ids)):  # fmt: skip
        if ids:
            wanted.append(column_.in_(ids))
    prices = func.sum(case((ORDER_PRICES.c.price_micro > 0, 1), else_=0))  # what went back is no order of its own
    query = _grouped(question, base, _OF_ORDERS, ENTRIES.c.effective_at, ORDER_PRICES.c.currency, prices,
                     [ORDER_PRICES.c.price_micro])  # fmt: skip
    for *keys, currency, orders, amount in conn.execute(query.where(*wanted)):
        yield Spent(_keyed(question, _OF_ORDERS, keys), currency, 0, 0, int(amount), 0, int(orders), int(amount))


def _adjusted(conn: Connection, question: Question, scope: Scope) -> Iterator[Spent]:
    """What somebody decided in the span that is owed more or less, as it comes on the bill; of no site and nobody's."""
    if question.user_ids or question.site_ids:
        return
    base = ADJUSTMENTS.join(DECISIONS, DECISIONS.c.adjustment_id == ADJUSTMENTS.c.id)
    base = base.join(ENTRIES, ENTRIES.c.id == DECISIONS.c.entry_id)
    wanted: list[Any] = []
    if not scope.everything:
        wanted.append(ADJUSTMENTS.c.project_id.in_(scope.project_ids))
    if question.as_of is not None:
        wanted.append(DECISIONS.c.recorded_at <= question.as_of)
    if question.project_ids:
        wanted.append(ADJUSTMENTS.c.project_id.in_(question.project_ids))
    owed = case((ADJUSTMENTS.c.kind == "write_off", -ADJUSTMENTS.c.amount_micro), else_=ADJUSTMENTS.c.amount_micro)
    query = _grouped(question, base, _OF_ADJUSTMENTS, ENTRIES.c.effective_at, ADJUSTMENTS.c.currency, func.count(),
                     [owed])  # fmt: skip
    for *keys, currency, _, amount in conn.execute(query.where(*wanted)):
        yield Spent(_keyed(question, _OF_ADJUSTMENTS, keys), currency, 0, 0, int(amount), 0)


def _grouped(
    question: Question, base: Any, columns: Mapping[By, Any], at: Any, currency: Any, counted: Any, sums: Sequence[Any]
) -> Select[Any]:
    """A query for the keys that are columns, the currency, a count, and sums of what counts in the span by `at`."""
    keys: list[Any] = []
    for by in question.by:
        if by in (By.DAY, By.MONTH):
            period = _periods(question, by)
            base = base.join(period, (at >= period.c.first) & (at < period.c.last))
            keys.append(period.c.name)
        elif not isinstance(columns[by], str):
            keys.append(columns[by])
    each = [func.sum(column_, type_=BigInteger) for column_ in sums]
    query = select(*keys, currency, counted, *each).select_from(base)
    return query.where(at >= question.start, at < question.end).group_by(*keys, currency)


def _keyed(question: Question, columns: Mapping[By, Any], found: Sequence[Any]) -> tuple[str, ...]:
    """The keys of a row: those that are the same for all of its kind are no columns of its query."""
    rest = iter(found)
    return tuple(same if isinstance(same := columns.get(by), str) else str(next(rest) or "") for by in question.by)


# Schedulers write one state in capitals and small letters.
_OF_RUNS = {
    By.PROJECT: CHARGES.c.project_id, By.USER: func.coalesce(USAGE.c.user_id, ""), By.SITE: USAGE.c.site_id,
    By.QUEUE: USAGE.c.queue, By.STATE: func.upper(USAGE.c.state), By.KIND: "run",
}  # fmt: skip
# A text is the same for every order.
_OF_ORDERS = {
    By.PROJECT: ORDER_PRICES.c.project_id, By.USER: "", By.SITE: ORDER_PRICES.c.site_id, By.QUEUE: "", By.STATE: "",
    By.KIND: ORDER_PRICES.c.kind,
}  # fmt: skip
_OF_ADJUSTMENTS = {
    By.PROJECT: ADJUSTMENTS.c.project_id, By.USER: "", By.SITE: "", By.QUEUE: "", By.STATE: "", By.KIND: "adjustment",
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
        wanted.append(or_(CHARGES.c.project_id.in_(scope.project_ids), USAGE.c.user_id == scope.user_id,
                          USAGE.c.site_id.in_(scope.site_ids)))  # fmt: skip
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
