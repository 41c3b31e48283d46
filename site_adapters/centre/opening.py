"""Orders at the centre: asked for by the gateway, approved by the centre's staff, executed by its provisioner."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from site_adapters.centre.audit import AuditLog
from site_adapters.centre.journal import Store
from site_adapters.errors import NotFound, Refused, SiteError, Unsupported
from site_adapters.if2.codec import decode, encode
from site_adapters.if2.keys import digest
from site_adapters.orders import Opening, OpeningState, Order, OrderKind
from site_adapters.types import AccountFacts

_S = OpeningState


class Provisioner(Protocol):
    """What the scheduler can be told about accounts and limits; each call may be repeated."""

    def account_name(self, project: str) -> str:
        """The charge account that a project has here."""
        ...

    def open_project(self, project: str, *, core_seconds: int | None, users: Sequence[str]) -> str:
        """An account with a cap, and who may charge it; its name."""
        ...

    def open_user(self, project: str, username: str) -> str:
        """A login may charge the project's account; the account's name."""
        ...

    def open_share(self, project: str, *, cores: int, queue: str | None, order_id: str) -> str:
        """A QOS with so many cores at a time, for the project's account; its name."""
        ...

    def close_project(self, project: str) -> None: ...

    def close_user(self, project: str, username: str) -> None: ...

    def close_share(self, project: str, order_id: str) -> None: ...

    def shut_login(self, username: str, *, shut: bool) -> None:
        """No (or again some) submissions by this login, under whatever account."""
        ...

    def login_of(self, username: str, project: str) -> str:
        """The login exists after this (the centre's own command makes it); its name."""
        ...


class NoProvisioner:
    """A centre that opens accounts by other means."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)

        def refuse(*_args: object, **_options: object) -> None:
            raise Unsupported("this centre has no provisioner: it opens accounts itself")

        return refuse


@dataclass(slots=True)
class OrderDesk:
    """The centre's approval queue. `approve_unasked` names the kinds that need no word of the staff."""

    store: Store
    provisioner: Provisioner
    audit: AuditLog
    clock: Callable[[], datetime]
    probe: Callable[[str], AccountFacts]
    approve_unasked: frozenset[OrderKind] = frozenset()

    # ------------------------------------------------------------ what the gateway may ask

    def open(self, order: Order) -> Opening:
        _sound(order)
        row = self._row(order.order_id)
        if row is not None:
            if row[0] != _digest(order):
                raise Refused(f"order {order.order_id} was given with other content", code="order_content")
            return row[1] if row[1].state is not _S.FAILED else self._ask(order, "open")
        return self._ask(order, "open")

    def change(self, order: Order) -> Opening:
        _sound(order)
        row = self._row(order.order_id)
        if row is None:
            raise NotFound(f"there is no order {order.order_id}")
        if row[1].kind is not order.kind or row[1].project != order.project:
            raise Refused("an order keeps its kind and its project", code="order_content")
        if row[1].state in (_S.CLOSED, _S.REFUSED):
            raise Refused(f"the order is {row[1].state.value}", code="order_state")
        return row[1] if row[0] == _digest(order) and row[1].state is _S.OPEN else self._ask(order, "change")

    def renew(self, order_id: str, *, valid_until: datetime, core_seconds: int | None = None) -> Opening:
        order = self._order(order_id)
        more = order.core_seconds if core_seconds is None else core_seconds
        return self.change(replace(order, valid_until=valid_until, core_seconds=more))

    def close(self, order_id: str, *, reason: str = "") -> Opening:
        """At once and without approval: it only takes away."""
        opening = self.opening(order_id)
        if opening.state is _S.OPEN:
            self._take_away(self._order(order_id), opening)
        if opening.state is not _S.CLOSED:
            opening = replace(opening, state=_S.CLOSED, detail=reason[:500], changed_at=self.clock())
            self._keep(opening)
        return opening

    def opening(self, order_id: str) -> Opening:
        row = self._row(order_id)
        if row is None:
            raise NotFound(f"there is no order {order_id}")
        return row[1]

    def openings(self) -> list[Opening]:
        rows = self.store.read("SELECT opening FROM orders ORDER BY asked_at")
        return [decode(Opening, json.loads(row["opening"])) for row in rows]

    # ------------------------------------------------------------ accounts

    def provision(self, username: str, project: str) -> AccountFacts:
        """An account for a person in a project, by an order of its own; raises `Refused` until it is approved."""
        opening = self.open(Order(f"account:{project}:{username}", OrderKind.ACCOUNT, project, username=username))
        if opening.state is not _S.OPEN:
            raise Refused(f"the account is {opening.state.value}: {opening.detail}", code=opening.state.value)
        return self.probe(opening.username)

    def suspend(self, username: str) -> None:
        self.provisioner.shut_login(username, shut=True)
        self._account(username, "suspended")

    def revoke(self, username: str) -> None:
        """Every opening of this login is closed, and it is used no more."""
        for opening in self.openings():
            if opening.kind is OrderKind.ACCOUNT and opening.username == username and opening.state is _S.OPEN:
                self.close(opening.order_id, reason="access revoked")
        self.provisioner.shut_login(username, shut=True)
        self._account(username, "revoked")

    def given(self, username: str) -> bool | None:
        """Whether an order gave us this login: True, False where it was taken back, None where none is known."""
        rows = self.store.read("SELECT state FROM opened_accounts WHERE username = ?", username)
        return None if not rows else rows[0]["state"] == "open"

    # ------------------------------------------------------------ what the centre's staff decide

    def waiting(self) -> list[Opening]:
        return [o for o in self.openings() if o.state is _S.REQUESTED]

    def approve(self, order_id: str, *, by: str) -> Opening:
        """Open what was asked for; an account that `stop` has shut is opened again."""
        opening = self.opening(order_id)
        shut = opening.kind is OrderKind.ACCOUNT and self.given(opening.username) is False
        if opening.state not in (_S.REQUESTED, _S.FAILED) and not (opening.state is _S.OPEN and shut):
            return opening
        self.audit.append("order", sync=True, order=order_id, decision="approved", by=by)
        return self._execute(self._order(order_id), by)

    def refuse(self, order_id: str, *, by: str, reason: str) -> Opening:
        opening = self.opening(order_id)
        if opening.state is not _S.REQUESTED:
            raise Refused(f"the order is {opening.state.value}", code="order_state")
        self.audit.append("order", sync=True, order=order_id, decision="refused", by=by, reason=reason)
        refused = replace(opening, state=_S.REFUSED, detail=reason[:500], changed_at=self.clock())
        self._keep(refused, by)
        return refused

    def close_ended(self) -> list[Opening]:
        """Close what has run out; called by the service every minute."""
        now = self.clock()
        ended = [o for o in self.openings() if o.state is _S.OPEN and o.valid_until is not None and o.valid_until < now]
        return [self.close(o.order_id, reason="its time is over") for o in ended]

    # ------------------------------------------------------------ parts

    def _ask(self, order: Order, wanted: str) -> Opening:
        now = self.clock()
        opening = Opening(order.order_id, _S.REQUESTED, order.kind, order.project, username=order.username,
                          core_seconds=order.core_seconds, cores=order.cores, valid_until=order.valid_until,
                          detail="waits for the centre's approval", changed_at=now)  # fmt: skip
        with self.store.write() as db:
            db.execute(
                "INSERT INTO orders (order_id, digest, terms, opening, wanted, asked_at) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (order_id) DO UPDATE SET digest = excluded.digest, terms = excluded.terms,"
                " opening = excluded.opening, wanted = excluded.wanted",
                (order.order_id, _digest(order), json.dumps(encode(Order, order)),
                 json.dumps(encode(Opening, opening)), wanted, now.timestamp()),
            )  # fmt: skip
        return self._execute(order, "the centre's rules") if order.kind in self.approve_unasked else opening

    def _execute(self, order: Order, by: str) -> Opening:
        opening = self.opening(order.order_id)
        try:
            opened = self._give(order, opening)
        except SiteError as exc:
            opened = replace(opening, state=_S.FAILED, detail=str(exc)[:500], changed_at=self.clock())
        self._keep(opened, by)
        return opened

    def _give(self, order: Order, opening: Opening) -> Opening:
        p, now = self.provisioner, self.clock()
        opened = replace(opening, state=_S.OPEN, detail="", changed_at=now)
        match order.kind:
            case OrderKind.CORE_HOURS:
                users = [o.username for o in self._open_accounts() if o.project == order.project]
                account = p.open_project(order.project, core_seconds=order.core_seconds, users=users)
                return replace(opened, native_account=account)
            case OrderKind.ACCOUNT:
                username = p.login_of(order.username, order.project)
                p.shut_login(username, shut=False)
                account = p.open_user(order.project, username)
                self._account(username, "open", order.project)
                return replace(opened, native_account=account, username=username)
            case OrderKind.QUEUE_SHARE:
                assert order.cores is not None  # `_sound` has seen to it
                qos = p.open_share(order.project, cores=order.cores, queue=order.queue, order_id=order.order_id)
                return replace(opened, native_account=p.account_name(order.project), qos=qos)

    def _take_away(self, order: Order, opening: Opening) -> None:
        match order.kind:
            case OrderKind.CORE_HOURS:
                self.provisioner.close_project(order.project)
            case OrderKind.ACCOUNT:
                self.provisioner.close_user(order.project, opening.username)
                same = [o for o in self._open_accounts() if o.username == opening.username]
                if all(o.order_id == order.order_id for o in same):
                    self._account(opening.username, "closed", order.project)
            case OrderKind.QUEUE_SHARE:
                self.provisioner.close_share(order.project, order.order_id)

    def _open_accounts(self) -> list[Opening]:
        return [o for o in self.openings() if o.kind is OrderKind.ACCOUNT and o.state is _S.OPEN]

    def _account(self, username: str, state: str, project: str = "") -> None:
        with self.store.write() as db:
            db.execute(
                "INSERT INTO opened_accounts (username, project, state, opened_at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (username) DO UPDATE SET state = excluded.state",
                (username, project, state, self.clock().timestamp()),
            )

    def _row(self, order_id: str) -> tuple[str, Opening] | None:
        rows = self.store.read("SELECT digest, opening FROM orders WHERE order_id = ?", order_id)
        return (rows[0]["digest"], decode(Opening, json.loads(rows[0]["opening"]))) if rows else None

    def _order(self, order_id: str) -> Order:
        rows = self.store.read("SELECT terms FROM orders WHERE order_id = ?", order_id)
        if not rows:
            raise NotFound(f"there is no order {order_id}")
        order: Order = decode(Order, json.loads(rows[0]["terms"]))
        return order

    def _keep(self, opening: Opening, by: str = "") -> None:
        with self.store.write() as db:
            db.execute("UPDATE orders SET opening = ?, decided_by = ? WHERE order_id = ?",
                       (json.dumps(encode(Opening, opening)), by, opening.order_id))  # fmt: skip


def _digest(order: Order) -> str:
    return digest(json.dumps(encode(Order, order), sort_keys=True).encode())


def _sound(order: Order) -> None:
    """What each kind needs; raises `Refused`."""
    if not order.order_id or not order.project:
        raise Refused("an order has an id and a project", code="order_content")
    lacks = {
        OrderKind.CORE_HOURS: order.core_seconds is None or order.core_seconds <= 0,
        OrderKind.ACCOUNT: not order.username,
        OrderKind.QUEUE_SHARE: order.cores is None or order.cores <= 0,
    }[order.kind]
    if lacks:
        raise Refused(f"an order of {order.kind.value} lacks what is ordered", code="order_content")
