"""What vouchers in money are still worth, and what of each an invoice has taken.

A voucher is money that the operator gives: it pays what was billed of the project that redeemed it, whoever is billed.
Of what it pays, the net was used (and so is drawn from it already), and the tax is taken beside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from accounting.store.allocations import keep_event
from accounting.store.schema import ALLOCATION_EVENTS, ALLOCATIONS

_TOOK = "paid"  # what of an allocation's event has paid a document: `used` of net, `amount` beside it


@dataclass(frozen=True, slots=True)
class Worth:
    """What of a voucher may still pay a document, in micro-units."""

    allocation_id: str
    micro: int


def worth(conn: Connection, project_id: str, currency: str) -> list[Worth]:
    """The project's vouchers of a currency with something left, those that end first before others.

    The caller holds the locks of receivables and of allocations.
    """
    mine = (ALLOCATIONS.c.project_id == project_id, ALLOCATIONS.c.commodity == currency,
            ALLOCATIONS.c.source == "voucher")  # fmt: skip
    gone: dict[str, int] = defaultdict(int)
    events = select(ALLOCATION_EVENTS).join(ALLOCATIONS, ALLOCATIONS.c.id == ALLOCATION_EVENTS.c.allocation_id)
    for event in conn.execute(events.where(*mine)):
        amount, used = int(event.amount), int(event.used)
        gone[event.allocation_id] += amount - used if event.kind == "expired" else amount
        gone[event.allocation_id] += used if event.kind == _TOOK else 0
    rows = conn.execute(select(ALLOCATIONS.c.id, ALLOCATIONS.c.amount, ALLOCATIONS.c.expires_at).where(*mine)).all()
    rows = sorted(rows, key=lambda row: (row.expires_at is None, row.expires_at, row.id))
    return [Worth(row.id, left) for row in rows if (left := int(row.amount) - gone[row.id]) > 0]


def shared_out(vouchers: Sequence[Worth], micro: int, net_micro: int) -> Iterator[tuple[str, int, int]]:
    """(voucher, what it pays, what of that was usage) until `micro` is paid; the last one has what cuts have left."""
    rest, net_rest = micro, net_micro
    for voucher in vouchers:
        part = min(rest, voucher.micro)
        if part <= 0:
            return
        net = net_rest if part == rest else net_micro * part // micro
        yield voucher.allocation_id, part, net
        rest, net_rest = rest - part, net_rest - net


def keep_taken(conn: Connection, entry_id: int, voucher: str, part: int, net: int, *, now: datetime) -> None:
    """What an entry has taken of a voucher: the net is used of it already, the rest of the part is taken beside."""
    keep_event(conn, entry_id, voucher, _TOOK, part - net, net, now)
