"""The other half of the management interface: open, change, renew and close what was ordered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NoReturn, Protocol

from site_adapters.errors import Unsupported


class OrderKind(StrEnum):
    """What can be ordered at a centre."""

    CORE_HOURS = "core_hours"  # a block of core-seconds for a project: an account with a cap
    ACCOUNT = "account"  # a person's account in a project
    QUEUE_SHARE = "queue_share"  # so many cores at a time for a project, under a QOS of its own


class OpeningState(StrEnum):
    """How an order stands at the centre."""

    REQUESTED = "requested"  # waits for the centre's approval
    OPEN = "open"
    REFUSED = "refused"  # the centre said no
    FAILED = "failed"  # approved, but the scheduler did not take it; may be asked again
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted, under an id that the gateway gives once. The same id with other content is refused.

    `core_seconds` for a block, `username` for an account (the wish: the centre may give another), `cores` for a share.
    """

    order_id: str
    kind: OrderKind
    project: str
    person: str = ""
    username: str = ""
    core_seconds: int | None = None
    cores: int | None = None
    queue: str | None = None
    valid_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """What the centre made of an order: the names that jobs are run under and recognised by in its accounting."""

    order_id: str
    state: OpeningState
    kind: OrderKind
    project: str
    native_account: str = ""
    username: str = ""
    qos: str = ""
    core_seconds: int | None = None
    cores: int | None = None
    valid_until: datetime | None = None
    detail: str = ""
    changed_at: datetime | None = None


class Ordering(Protocol):
    """Every call is idempotent: the same order gives the same opening."""

    def open(self, order: Order) -> Opening:
        """Ask for it; the answer may be `requested`, until the centre's staff approve."""
        ...

    def change(self, order: Order) -> Opening:
        """Other terms for an open order of the same id and kind."""
        ...

    def renew(self, order_id: str, *, valid_until: datetime, core_seconds: int | None = None) -> Opening:
        """A later end, and (for a block) a new cap in all."""
        ...

    def close(self, order_id: str, *, reason: str = "") -> Opening:
        """Nothing more can be submitted under it; what ran stays in the accounting."""
        ...

    def opening(self, order_id: str) -> Opening:
        """How it stands; raises `NotFound`."""
        ...

    def openings(self) -> list[Opening]: ...


class NoOrders:
    """A centre at which nothing can be ordered through us."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)

        def refuse(*_args: object, **_options: object) -> NoReturn:
            raise Unsupported("orders need penstock-site at the centre, with a provisioner and its order desk")

        return refuse
