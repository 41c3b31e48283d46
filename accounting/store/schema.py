"""The tables as Core, and the few statements that are written differently on SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, cast

from psycopg.errors import UniqueViolation
from sqlalchemy import BigInteger, ColumnElement, Connection, Select, String, Table, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import DeclarativeBase

from accounting import tables
from accounting.json_text import json_text


def core(row: type[DeclarativeBase]) -> Table:
    return cast(Table, row.__table__)


USAGE, QUARANTINE = core(tables.UsageRecordRow), core(tables.QuarantineRow)
REREADS = core(tables.QuarantineRereadRow)
PARTIES, KEYS, SIGNATURES = core(tables.PartyRow), core(tables.PartyKeyRow), core(tables.SignatureRow)
AGREEMENTS, TARIFFS = core(tables.AgreementRow), core(tables.TariffRow)
RULES, DISCOUNTS, TERMS = core(tables.PriceRuleRow), core(tables.DiscountRow), core(tables.ProjectTermsRow)
PAYERS = core(tables.ProjectPayerRow)
DISCOUNT_ENDS = core(tables.DiscountEndRow)
ORDERS, ALLOCATIONS = core(tables.OrderRow), core(tables.AllocationRow)
ALLOCATION_EVENTS = core(tables.AllocationEventRow)
DEPOSIT_REFUNDS, DEPOSIT_REFUND_DECISIONS = core(tables.DepositRefundRow), core(tables.DepositRefundDecisionRow)
CONSENTS, CONSENT_DECISIONS = core(tables.ConsentRow), core(tables.ConsentDecisionRow)
CANCELLATIONS, CANCELLATION_DECISIONS = core(tables.OrderCancellationRow), core(tables.OrderCancellationDecisionRow)
ORDER_PRICES, ORDER_ITEMS = core(tables.OrderPriceRow), core(tables.OrderItemRow)
ACCOUNTS, ENTRIES, POSTINGS = core(tables.AccountRow), core(tables.JournalEntryRow), core(tables.PostingRow)
CHARGES, REVERSALS = core(tables.ChargeRow), core(tables.ChargeReversalRow)
BALANCES, HOLDS = core(tables.BalanceRow), core(tables.HoldRow)
PERIODS, PERIOD_EVENTS = core(tables.PeriodRow), core(tables.PeriodEventRow)
TIER_COUNTS = core(tables.TierCountRow)
ACCRUALS, ACCRUAL_REVERSALS = core(tables.AccrualRow), core(tables.AccrualReversalRow)
PAYMENTS, PAYMENT_ALLOCATIONS = core(tables.PaymentRow), core(tables.PaymentAllocationRow)
TOP_UP_RECEIPTS, TRANSACTIONS = core(tables.TopUpReceiptRow), core(tables.BankTransactionRow)
TOP_UP_UNDOS, TOP_UP_UNDO_DECISIONS = core(tables.TopUpUndoRow), core(tables.TopUpUndoDecisionRow)
ADJUSTMENTS, DECISIONS = core(tables.AdjustmentRow), core(tables.AdjustmentDecisionRow)
ADJUSTMENT_ITEMS = core(tables.AdjustmentItemRow)
OVERLAPS = core(tables.CreditOverlapRow)
VOUCHERS, VOUCHER_USES = core(tables.VoucherRow), core(tables.VoucherUseRow)
BUDGETS, ALERTS = core(tables.BudgetRow), core(tables.BudgetAlertRow)

# What one statement may bind on SQLite is 32,766; with less the text of a statement stays short.
_PARAMETERS = 8000
# Beyond this many rows plain tuples go to the driver (COPY on PostgreSQL) instead of through SQLAlchemy.
_BULK = 200
_FETCHED = 5000
Row = tuple[Any, ...]


def upsert(conn: Connection, table: Table) -> Any:
    return pg_insert(table) if conn.dialect.name == "postgresql" else sqlite_insert(table)


def among(conn: Connection, column: Any, values: Collection[str] | Collection[int]) -> ColumnElement[bool]:
    """`column IN values` with one parameter, however many values there are."""
    if conn.dialect.name == "postgresql":
        kind = ARRAY(BigInteger if isinstance(column.type, BigInteger) else String)
        wanted = bindparam(None, sorted(values), type_=kind, unique=True)
        return cast(ColumnElement[bool], column == func.any(wanted))
    each = func.json_each(json.dumps(sorted(values))).table_valued("value")
    return cast(ColumnElement[bool], column.in_(select(each.c.value)))


def is_kind(commodity: Any, kind: str) -> ColumnElement[bool]:
    """The condition on a column: of this kind, for whichever place it was bought (accounting/bound.py)."""
    return cast(ColumnElement[bool], (commodity == kind) | commodity.startswith(f"{kind}@", autoescape=True))


def plain_rows(conn: Connection, query: Select[Any]) -> Iterator[list[Row]]:
    """Rows as the driver has them, of numbers and texts, some thousands at a time: for a million, SQLAlchemy's own take
    as long as the query."""
    result = conn.execute(query)
    assert result.cursor is not None
    while rows := result.cursor.fetchmany(_FETCHED):
        yield cast(list[Row], rows)
    result.close()


def new_ids(conn: Connection, table: Table, count: int) -> Sequence[int]:
    """Ids for rows that will be inserted in this transaction; on SQLite nobody else writes meanwhile."""
    if conn.dialect.name == "postgresql":
        return list(conn.execute(_NEXT, {"name": table.name, "count": count}).scalar_one() or ())
    first = int(conn.scalar(select(func.coalesce(func.max(table.c.id), 0))) or 0) + 1
    return range(first, first + count)


# The sequence is looked up once; one array comes back faster than as many rows.
_NEXT = text(
    "SELECT array_agg(nextval(sequence)) FROM generate_series(1, :count), "
    "(SELECT pg_get_serial_sequence(:name, 'id')::regclass AS sequence OFFSET 0) AS of_table"
)


def insert_new(
    conn: Connection, table: Table, names: Sequence[str], rows: Sequence[Row], *, encoded: Collection[str] = ()
) -> set[int]:
    """Insert rows, whose first column is their id, where no unique key forbids it; the ids that were inserted.

    `encoded` columns are JSON text already.
    """
    if not rows:
        return set()
    ids = {row[0] for row in rows}
    if conn.dialect.name == "sqlite":
        # Not INSERT OR IGNORE, which would pass over a missing value as well as over a key.
        done = _insert_sqlite(conn, table, names, rows, " ON CONFLICT DO NOTHING", encoded)
        if done == len(rows):
            return ids
        low, high = min(ids), max(ids)
        return set(conn.scalars(select(table.c.id).where(table.c.id.between(low, high)))) & ids
    if len(rows) <= _BULK:
        few = pg_insert(table).on_conflict_do_nothing().returning(table.c.id)
        values = [dict(zip(names, row, strict=True)) for row in rows]
        return set(conn.scalars(few, [row | {name: json.loads(row[name]) for name in encoded} for row in values]))
    try:  # no key forbids any, as good as always: into the table at once
        with conn.begin_nested():
            _copy(conn, table.name, table, names, rows, encoded)
        return ids
    except UniqueViolation:
        return _copy_new(conn, table, names, rows, encoded)


def _copy_new(
    conn: Connection, table: Table, names: Sequence[str], rows: Sequence[Row], encoded: Collection[str]
) -> set[int]:
    """Copy rows to a table beside, and from there those that no key forbids."""
    staged = f"staged_{table.name}"
    conn.exec_driver_sql(f"CREATE TEMP TABLE IF NOT EXISTS {staged} (LIKE {table.name}) ON COMMIT DELETE ROWS")
    conn.exec_driver_sql(f"TRUNCATE {staged}")
    _copy(conn, staged, table, names, rows, encoded)
    columns = ", ".join(f'"{name}"' for name in names)
    query = f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {staged} ON CONFLICT DO NOTHING RETURNING id"  # noqa: S608
    return set(conn.exec_driver_sql(query).scalars())


def insert_all(conn: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that no key forbids; any conflict is an error."""
    if rows:
        insert_rows(conn, table, tuple(rows[0]), [tuple(row.values()) for row in rows])


def insert_rows(
    conn: Connection, table: Table, names: Sequence[str], rows: Sequence[Row], *, encoded: Collection[str] = ()
) -> None:
    """The same of many rows, which hold the values of `names` in this order; `encoded` ones are JSON text already."""
    if not rows:
        return
    if conn.dialect.name == "sqlite":
        _insert_sqlite(conn, table, names, rows, "", encoded)
    elif len(rows) > _BULK or encoded:
        _copy(conn, table.name, table, names, rows, encoded)
    else:
        conn.execute(table.insert(), [dict(zip(names, row, strict=True)) for row in rows])


def _insert_sqlite(
    conn: Connection, table: Table, names: Sequence[str], rows: Sequence[Row], tail: str, encoded: Collection[str] = ()
) -> int:
    """Insert many rows by one statement each time: the interpreter's lock is free while it runs, not once for each row.

    Else another thread that computes would hold up every single row for the interpreter's switch interval (5 ms).
    """
    columns = ", ".join(f'"{name}"' for name in names)
    head = f"INSERT INTO {table.name} ({columns}) VALUES "  # noqa: S608
    marks = f"({', '.join('?' * len(names))})"
    ready = _for_driver(conn, table, names, rows, encoded)
    size = min(len(ready), _PARAMETERS // len(names))
    whole = len(ready) // size * size
    done = 0
    for at in range(0, whole, size):
        values = tuple(chain.from_iterable(ready[at : at + size]))
        done += conn.exec_driver_sql(_many(head, marks, size) + tail, values).rowcount
    if whole < len(ready):
        done += conn.exec_driver_sql(head + marks + tail, ready[whole:]).rowcount
    return done


@lru_cache(maxsize=64)
def _many(head: str, marks: str, count: int) -> str:
    return head + ", ".join([marks] * count)


def _copy(
    conn: Connection, target: str, table: Table, names: Sequence[str], rows: Sequence[Row],
    encoded: Collection[str] = (),
) -> None:  # fmt: skip
    columns = ", ".join(f'"{name}"' for name in names)
    cursor = conn.connection.cursor()
    with cursor.copy(f"COPY {target} ({columns}) FROM STDIN") as copy:
        for row in _for_driver(conn, table, names, rows, encoded):
            copy.write_row(row)
    cursor.close()


def _for_driver(
    conn: Connection, table: Table, names: Sequence[str], rows: Sequence[Row], encoded: Collection[str] = ()
) -> list[Row]:
    """Rows as the driver takes them, column by column: JSON as text, and on SQLite times as SQLAlchemy writes them."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for at, name in enumerate(names):
        kind = type(table.c[name].type).__name__
        if kind == "JSON" and name not in encoded:
            nothing = None if table.c[name].nullable else "null"
            columns[at] = [nothing if value is None else json_text(value) for value in columns[at]]
        elif kind == "UtcTime" and conn.dialect.name == "sqlite":
            columns[at] = _sqlite_times(columns[at])
    return list(zip(*columns, strict=True))


def _sqlite_times(column: Sequence[datetime | None]) -> list[str | None]:
    found: list[str | None] = []
    last: datetime | None = None
    shown: str | None = None
    for value in column:
        if value is not last:  # the moment of recording is the same in every row
            last, shown = value, _sqlite_time(value)
        found.append(shown)
    return found


def _sqlite_time(value: datetime | None) -> str | None:
    if value is None:
        return None
    text = (value if value.tzinfo is UTC else value.astimezone(UTC)).isoformat(" ", "microseconds")
    return text[:-6]


def refresh_statistics(conn: Connection, *tables: Table) -> None:
    """Tell PostgreSQL's planner how much there is now; else its own upkeep does so, up to some minutes later.

    `tables`: those that grew; none: those that a look at a centre's log fills.
    """
    if conn.dialect.name == "postgresql":
        for table in tables or (USAGE, CHARGES, ENTRIES, POSTINGS):
            conn.exec_driver_sql(f"ANALYZE {table.name}")


def lock(conn: Connection, names: Collection[str], *, shared: bool = False) -> None:
    """Hold these names until the transaction ends; on SQLite the writer is alone anyway."""
    if conn.dialect.name != "postgresql" or not names:
        return
    function = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    numbers = sorted({int.from_bytes(hashlib.sha256(n.encode()).digest()[:8], signed=True) for n in names})
    # In one order everywhere, so that no two wait for each other; a plain scan of an array keeps its order.
    conn.exec_driver_sql(f"SELECT {function}(number) FROM unnest(%s::bigint[]) AS number", (numbers,))  # noqa: S608


def lock_projects(conn: Connection, project_ids: Collection[str]) -> None:
    """Hold off other readings of these projects' jobs, by a few locks for however many."""
    lock(conn, {f"readings:{bucket(project_id)}" for project_id in project_ids})


@lru_cache(maxsize=4096)
def bucket(project_id: str) -> int:
    """The number, below 64, of the lock that a project shares with others."""
    return hashlib.sha256(project_id.encode()).digest()[0] % 64
