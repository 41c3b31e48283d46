"""Tick: tell a centre what is to be opened, changed and closed there, and keep what it answers.

Every call bears the opening's own id and may be repeated, so a worker that is killed between the call and its answer
leaves nothing but a call that is made again. No transaction is open during a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from accounting.store import openings
from accounting.store.openings import Answered
from gateway.jobs import repository
from gateway.services import Lease, Services
from site_adapters.errors import NotFound, Refused, SiteError, Unsupported
from site_adapters.orders import Opening, OpeningState, Order, Ordering, OrderKind

log = structlog.get_logger()

_STATES = {
    OpeningState.REQUESTED: "asked", OpeningState.FAILED: "approved", OpeningState.OPEN: "opened",
    OpeningState.REFUSED: "refused", OpeningState.CLOSED: "closed",
}  # fmt: skip


@dataclass(slots=True)
class _Centre:
    """One centre's order desk during one run; its list is asked for at most once."""

    ordering: Ordering
    _listed: Mapping[str, Opening] | None = field(default=None)

    def listed(self, opening_id: str) -> Opening | None:
        if self._listed is None:
            self._listed = {opening.order_id: opening for opening in self.ordering.openings()}
        return self._listed.get(opening_id)


def open_orders(services: Services, lease: Lease, now: datetime) -> int:
    """How many openings were answered."""
    with services.db.read() as conn:
        rows = openings.due(conn, lease.site_id, now=now)
    if not rows:
        return 0
    centre = _Centre(services.sites[lease.site_id].ordering)
    count = 0
    for row in rows:
        answer: Answered | None = None
        why = ""
        try:
            answer = _ask(centre, row)
        except SiteError as exc:
            why = str(exc)
            log.warning("opening_not_answered", site=lease.site_id, opening=row.id, why=why)
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            if answer is None:
                openings.not_reached(conn, row.id, why, now=now)
            else:
                openings.answered(conn, row.id, answer, now=now)
                count += 1
    return count


def _ask(centre: _Centre, row: Any) -> Answered:
    """One call; raises `SiteError` where it must be made again later."""
    if row.closing:
        return _close(centre, row)
    if row.told == row.revision:
        found = centre.listed(row.id)
        if found is not None:
            return _answer(row, found)
    try:
        return _answer(row, _told(centre.ordering, row))
    except (Refused, Unsupported) as exc:
        # A change that is refused leaves what is open as it is.
        return Answered(row.revision, "refused" if row.told == 0 else row.state, str(exc))


def _told(ordering: Ordering, row: Any) -> Opening:
    """Open, or change what the centre may know by this id already (an answer that was lost, or newer terms)."""
    order = order_of(row)
    if row.told:
        try:
            return ordering.change(order)
        except NotFound:
            return ordering.open(order)  # the centre has lost what it knew
    try:
        return ordering.open(order)
    except Refused as exc:
        if exc.code != "order_content":
            raise
        return ordering.change(order)


def _close(centre: _Centre, row: Any) -> Answered:
    try:
        return _answer(row, centre.ordering.close(row.id, reason=row.close_reason))
    except (NotFound, Unsupported):
        return Answered(row.revision, "closed", row.close_reason)  # it never came there


def order_of(row: Any) -> Order:
    """A row as the centre is told it."""
    return Order(row.id, OrderKind(row.kind), row.project_id, row.person_id, row.username, row.core_seconds, row.cores,
                 row.queue, row.valid_until)  # fmt: skip


def _answer(row: Any, opening: Opening) -> Answered:
    username = opening.username if opening.state is OpeningState.OPEN else ""
    return Answered(row.revision, _STATES[opening.state], opening.detail, opening.native_account, username, opening.qos)
