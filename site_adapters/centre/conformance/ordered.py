"""The centre's orders, tried on a copy of its order desk: nothing is opened."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from site_adapters.centre.audit import AuditLog
from site_adapters.centre.conformance.kit import Check, Failed, Ran, Target, expect
from site_adapters.centre.journal import Store
from site_adapters.centre.opening import OrderDesk
from site_adapters.errors import NotFound, Refused, SiteError
from site_adapters.orders import Opening, OpeningState, Order, OrderKind
from site_adapters.types import AccountFacts

_CENTRE = frozenset({"centre"})
_NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def checks(_target: Target) -> Iterator[Check]:
    orders = "Look at docking.yaml: orders, and at the provisioner's login."
    for name, proves, desk_act in (
        ("orders/wait", "what is ordered waits until the centre approves", _order_waits),
        ("orders/approve", "an approved order is opened", _order_approved),
        ("orders/refuse", "a refused order is refused with its reason", _order_refused),
        ("orders/twice", "the same order twice is opened once", _order_twice),
        ("orders/other content", "an order's id is not used for something else", _order_other),
        ("orders/unsound", "an order that lacks what is ordered is refused", _order_unsound),
        ("orders/close", "closing takes back what was opened, once", _order_close),
        ("orders/change", "a change waits for approval as well", _order_change),
        ("orders/renew", "renewing moves the end", _order_renew),
        ("orders/runs out", "what has run out is closed", _order_ends),
        ("orders/unknown", "an order that nobody gave is not found", _order_unknown),
        ("orders/scheduler fails", "an opening that the scheduler did not take is failed, and may be tried again",
         _order_fails),
    ):  # fmt: skip
        yield Check(name, proves, orders, _with_desk(desk_act), needs=_CENTRE)


@dataclass(slots=True)
class _Ledger:
    """A provisioner that writes down what it is told, and may fail."""

    told: list[str] = field(default_factory=list)
    broken: bool = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def note(*args: Any, **options: Any) -> str:
            if self.broken:
                raise SiteError("the scheduler's database is away")
            self.told.append(name)
            return str(args[0]) if name == "login_of" else f"pn_{args[0]}"

        return note


@dataclass(slots=True)
class _Desk:
    desk: OrderDesk
    ledger: _Ledger
    now: list[datetime]

    def order(self, order_id: str = "order-1", **changes: Any) -> Order:
        order = Order(
            order_id, OrderKind.CORE_HOURS, "project", core_seconds=36000, valid_until=_NOW + timedelta(days=9)
        )
        return replace(order, **changes)

    def opened(self, order: Order | None = None) -> Opening:
        order = order or self.order()
        self.desk.open(order)
        return self.desk.approve(order.order_id, by="the kit")


def _with_desk(act: Callable[[_Desk], None]) -> Callable[[Target, Mapping[str, Ran]], None]:
    def judge(_target: Target, _jobs: Mapping[str, Ran]) -> None:
        ledger, now = _Ledger(), [_NOW]
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "orders.sqlite")
            desk = OrderDesk(store, ledger, AuditLog(Path(folder) / "audit.jsonl"), lambda: now[0],
                             lambda name: AccountFacts(name, 1, "/"))  # fmt: skip
            try:
                act(_Desk(desk, ledger, now))
            finally:
                store.close()

    return judge


def _state(opening: Opening, state: OpeningState) -> None:
    expect(opening.state is state, f"it is {opening.state.value}, not {state.value}: {opening.detail}")


def _order_waits(d: _Desk) -> None:
    _state(d.desk.open(d.order()), OpeningState.REQUESTED)
    expect(not d.ledger.told and len(d.desk.waiting()) == 1, f"{d.ledger.told}")


def _order_approved(d: _Desk) -> None:
    _state(d.opened(), OpeningState.OPEN)
    expect("open_project" in d.ledger.told, f"{d.ledger.told}")


def _order_refused(d: _Desk) -> None:
    d.desk.open(d.order())
    opening = d.desk.refuse("order-1", by="the kit", reason="not now")
    _state(opening, OpeningState.REFUSED)
    expect(opening.detail == "not now" and not d.ledger.told, f"{opening.detail}")


def _order_twice(d: _Desk) -> None:
    d.opened()
    again = d.desk.open(d.order())
    d.desk.approve("order-1", by="the kit")
    _state(again, OpeningState.OPEN)
    expect(d.ledger.told.count("open_project") == 1, f"{d.ledger.told}")


def _raises(act: Callable[[], object], *kinds: type[SiteError]) -> None:
    try:
        found = act()
    except kinds:
        return
    raise Failed(f"it was taken: {found}")


def _order_other(d: _Desk) -> None:
    d.desk.open(d.order())
    _raises(lambda: d.desk.open(d.order(core_seconds=1)), Refused)


def _order_unsound(d: _Desk) -> None:
    for order in (d.order(core_seconds=None), d.order(project=""), d.order(kind=OrderKind.ACCOUNT, username=""),
                  d.order(kind=OrderKind.QUEUE_SHARE, cores=0)):  # fmt: skip
        _raises(lambda order=order: d.desk.open(order), Refused)  # type: ignore[misc]


def _order_close(d: _Desk) -> None:
    d.opened()
    for _ in range(2):
        _state(d.desk.close("order-1", reason="done"), OpeningState.CLOSED)
    expect(d.ledger.told.count("close_project") == 1, f"{d.ledger.told}")


def _order_change(d: _Desk) -> None:
    d.opened()
    _state(d.desk.change(d.order(core_seconds=72000)), OpeningState.REQUESTED)
    opening = d.desk.approve("order-1", by="the kit")
    expect(opening.core_seconds == 72000, f"{opening.core_seconds}")


def _order_renew(d: _Desk) -> None:
    d.opened()
    end = _NOW + timedelta(days=90)
    d.desk.renew("order-1", valid_until=end)
    opening = d.desk.approve("order-1", by="the kit")
    expect(opening.valid_until == end, f"{opening.valid_until}")


def _order_ends(d: _Desk) -> None:
    d.opened()
    d.now[0] += timedelta(days=10)
    d.desk.close_ended()
    _state(d.desk.opening("order-1"), OpeningState.CLOSED)


def _order_unknown(d: _Desk) -> None:
    _raises(lambda: d.desk.opening("nothing"), NotFound)
    _raises(lambda: d.desk.change(d.order("nothing")), NotFound)


def _order_fails(d: _Desk) -> None:
    d.ledger.broken = True
    _state(d.opened(), OpeningState.FAILED)
    d.ledger.broken = False
    _state(d.desk.approve("order-1", by="the kit"), OpeningState.OPEN)
