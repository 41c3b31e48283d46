"""The entry of a break: its money, divided as its charge was, less what breaks have booked of the run before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, String, cast, func, literal, select

from accounting.agreement import Agreement, Bills
from accounting.ledger import DIFFERENCE, DIFFERENCE_KEY, Entry, difference_key
from accounting.meter import PAYER
from accounting.reconciling import difference
from accounting.reconciling.breaks import Refused
from accounting.reconciling.statement_store import LINES, statement_row
from accounting.reconciling.store import BREAKS, rules_of_break
from accounting.reconciling.terms import COLUMN
from accounting.store.contracts import contracts, in_force
from accounting.store.schema import ACCOUNTS, CHARGES, ENTRIES, POSTINGS, USAGE

_MOMENT = timedelta(microseconds=1)


def entry_of(conn: Connection, row: Any, line: Any | None, *, now: datetime) -> Entry | None:
    """The entry that books a break's money (`line`: of the statement); None where nothing (more) is due.

    Raises `Refused` where nobody signed an agreement that says whom it is owed to.
    """
    if _names_no_money(line):
        return None
    ours, theirs = row.ours_micro or 0, row.theirs_micro or 0
    statement = statement_row(conn, row.statement_id)
    assert statement is not None  # a break is of one
    ends_at, charge = statement.ends_at, _charge(conn, row)
    theirs = ours + _not_paid_with_an_order(charge, theirs - ours)
    ended = _ended(charge, line) or ends_at - _MOMENT
    agreement = _agreement(conn, charge, row.site_id, ended, ends_at, now)
    if agreement is None:
        if ours == theirs:
            return None
        raise Refused(f"no signed agreement says whom money for {row.site_id} is owed to: sign it first, or waive this")
    if rules_of_break(conn, row)["basis"] == COLUMN[Bills.GROSS]:
        bears = PAYER if charge is None else difference.bears_of(charge)
        apart = difference.of_list_price(ours, theirs, agreement, bears)
    else:
        apart = difference.of_share(ours, theirs, agreement)
    postings = difference.postings_of(apart, agreement, row.currency, _booked_before(conn, row, line))
    if not postings:
        return None
    memo = f"break {row.id} ({row.category}) of statement {row.statement_id}: {row.explanation}"
    return Entry(difference_key(row.id), DIFFERENCE, now, postings, memo[:500], service_at=min(ended, now),
                 linked_entry_id=None if charge is None else charge.entry_id)  # fmt: skip


def why_nothing(conn: Connection, row: Any, line: Any | None) -> str:
    """Why a break that is agreed moves no money."""
    if _names_no_money(line):
        return "agreed without money: the statement names no amount for it, so that nothing is owed for it"
    if (row.ours_micro or 0) == (row.theirs_micro or 0):
        return "agreed without money: it is the same amount on both sides"
    if not _not_paid_with_an_order(_charge(conn, row), (row.theirs_micro or 0) - (row.ours_micro or 0)):
        return "agreed without money: an order paid for the run, and the centre has its share of that price"
    return "agreed: breaks about it that were posted before have booked its money"


def _names_no_money(line: Any | None) -> bool:
    """Whether the centre lists it and says nothing of money: then it claims none, and gives none back."""
    return line is not None and line.amount_micro is None


def _not_paid_with_an_order(charge: Any | None, apart: int) -> int:
    """What of a difference is of the part of a run that no order paid for; of the other the centre has its share."""
    if charge is None or not charge.list_gross_micro:
        return apart
    return apart * int(charge.gross_micro) // int(charge.list_gross_micro)


def _charge(conn: Connection, row: Any) -> Any | None:
    """The charge that the break's run had when it was compared, with the end of the run."""
    if row.usage_record_id is None:
        return None
    query = select(CHARGES, USAGE.c.end_time).join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    return conn.execute(query.where(USAGE.c.id == row.usage_record_id)).one_or_none()


def _ended(charge: Any | None, line: Any | None) -> datetime | None:
    """When the work was that a break is about, as far as it is about one run."""
    if charge is not None:
        found: datetime | None = charge.end_time
        return found
    return None if line is None or line.ended is None else datetime.fromtimestamp(line.ended, UTC)


def _agreement(
    conn: Connection, charge: Any | None, site_id: str, ended: datetime, ends_at: datetime, now: datetime
) -> Agreement | None:
    """By which the charge was divided; without a charge the one of the moment of the work, of the period's end, now."""
    if charge is not None and charge.agreement_id is not None:
        of_charge = (charge.agreement_id, charge.agreement_version)
        signed = (i.agreement for i in in_force(conn))
        return next((a for a in signed if (a.id, a.version) == of_charge), None)
    known = contracts(conn)
    moments = (ended, ends_at - _MOMENT, now)
    return next((a for at in moments if (a := known.agreement(site_id, at)) is not None), None)


def _booked_before(conn: Connection, row: Any, line: Any | None) -> Mapping[str, int]:
    """By account, what the posted breaks about the same run have booked: of another statement that bills it once more,
    or of another look at this one."""
    of_break = literal(DIFFERENCE_KEY) + cast(BREAKS.c.id, String)
    query = (
        select(ACCOUNTS.c.code, func.sum(POSTINGS.c.amount))
        .select_from(BREAKS)
        .join(ENTRIES, ENTRIES.c.idem_key == of_break)
        .join(POSTINGS, POSTINGS.c.entry_id == ENTRIES.c.id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(BREAKS.c.site_id == row.site_id, BREAKS.c.currency == row.currency, BREAKS.c.id != row.id,
               ACCOUNTS.c.commodity == row.currency)
        .group_by(ACCOUNTS.c.code)
    )  # fmt: skip
    if row.usage_record_id is not None:
        run_key = select(USAGE.c.run_key).where(USAGE.c.id == row.usage_record_id).scalar_subquery()
        same = select(USAGE.c.id).where(USAGE.c.site_id == row.site_id, USAGE.c.run_key == run_key)
        query = query.where(BREAKS.c.usage_record_id.in_(same))
    elif line is not None and (line.run_key or line.native_id):
        of_line = (LINES.c.statement_id == BREAKS.c.statement_id) & (LINES.c.line_no == BREAKS.c.line_no)
        names = ("run_key", "native_id", "task", "started")
        said = [LINES.c[name].is_not_distinct_from(getattr(line, name)) for name in names]
        other = BREAKS.c.statement_id != row.statement_id
        query = query.join(LINES, of_line).where(BREAKS.c.usage_record_id.is_(None), other, *said)
    else:
        return {}
    return {code: int(amount) for code, amount in conn.execute(query)}
