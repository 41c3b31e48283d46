"""What of a document's line can still be given back: not what credit notes, changed records and adjustments of its
runs have given back already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from sqlalchemy import Connection, func, select

from accounting.errors import AccountingError, InvoiceRefused
from accounting.invoicing.credit_notes import Credited, left_of_line
from accounting.invoicing.invoice import Document, Line, LineKind, from_snapshot
from accounting.store.given_back import back_by_other_ways, left_of_runs
from accounting.store.orders import CANCELED
from accounting.store.schema import ORDER_PRICES
from accounting.store.settled import DOCUMENTS


def credited(conn: Connection, invoice_number: str) -> dict[int, Credited]:
    """What credit notes gave back of each line so far: positive minor units."""
    sums: dict[int, Credited] = defaultdict(Credited)
    texts = conn.scalars(select(DOCUMENTS.c.snapshot).where(DOCUMENTS.c.corrects == invoice_number))
    for note in map(from_snapshot, texts):
        for line in note.lines:
            before = sums[line.number]
            sums[line.number] = Credited(before.net_minor - line.net_minor, before.tax_minor - line.tax_minor)
    return dict(sums)


def beside(conn: Connection, document: Document, numbers: Collection[int]) -> Mapping[int, int]:
    """Net minor units of lines that were given back otherwise than by credit notes; a part of a coin counts whole."""
    found = {}
    for line in document.lines:
        if line.number in numbers and line.amount_micro > 0 and (back := _beside_micro(conn, document, line)):
            found[line.number] = min(line.net_minor, -(-back * line.net_minor // line.amount_micro))
    return found


def left(conn: Connection, document: Document, number: int, charges: Collection[int] = ()) -> Credited:
    """What a credit note of a line (of these runs on it, where charges are named) can still give back, in minor units;
    nothing where it has no such line. Raises `InvoiceRefused` where a charge is not on it."""
    line = next((x for x in document.lines if x.number == number), None)
    if line is None:
        return Credited()
    before = credited(conn, document.number).get(number, Credited())
    rest = left_of_line(line, before, beside(conn, document, {number}).get(number, 0))
    if not charges or not rest.net_minor:
        return rest
    if line.ordered is not None or line.kind is LineKind.ADJUSTMENT:
        raise InvoiceRefused(f"line {number} of {document.number} is of no runs that could be named")
    try:
        micro = left_of_runs(conn, (document.number, line.site_id, line.user_id, line.service_start), charges)
    except AccountingError as exc:
        raise InvoiceRefused(str(exc)) from exc
    of_runs = -(-micro * line.net_minor // line.amount_micro)
    return left_of_line(line, before, line.net_minor - before.net_minor - min(of_runs, rest.net_minor))


def _beside_micro(conn: Connection, document: Document, line: Line) -> int:
    if line.ordered is not None:
        of_rest = ORDER_PRICES.c.allocation_id == f"{line.ordered.allocation_id}{CANCELED}"
        return -int(conn.scalar(select(func.coalesce(func.sum(ORDER_PRICES.c.price_micro), 0)).where(of_rest)) or 0)
    if line.kind is LineKind.ADJUSTMENT:
        return 0
    return back_by_other_ways(conn, (document.number, line.site_id, line.user_id, line.service_start))
