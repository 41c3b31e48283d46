"""An invoice: lines of metered usage for a payer, totals rounded once, and the snapshot that is kept for ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from accounting.invoicing.tax import TaxKind, TaxRule, taxed

# Why a month's document is a credit note; `texts.py` says it in each language.
CORRECTIONS = "corrections of earlier periods"


class DocumentKind(StrEnum):
    """What a numbered document is."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


class LineKind(StrEnum):
    """Why a line is there."""

    USAGE = "usage"  # of the invoice's own period
    CORRECTION = "correction"  # a late or changed record of an earlier period
    CREDIT = "credit"  # given back by decision
    ORDER = "order"  # the price of a block, or of a month of a subscription
    ADJUSTMENT = "adjustment"  # what somebody decided, with a reason, that is owed more or less


@dataclass(frozen=True, slots=True)
class LegalEntity:
    """Who issues or pays: what must stand on an invoice. `prefix` begins the numbers of an issuer, and is its own."""

    id: str
    legal_name: str
    address: str = ""
    country: str = ""
    tax_id: str = ""
    bank_details: str = ""
    language: str = "en"
    zone: str = "Asia/Shanghai"
    payment_days: int = 30
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a line is the price of: `quantity` of a commodity, in its unit, that an order gave as one allocation."""

    order_id: str
    allocation_id: str
    kind: str
    commodity: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Item:
    """Usage of one person at one site in one service period, summed from charges; negative where it was corrected. Or
    what was ordered, or the adjustment that is named."""

    site_id: str
    user_id: str
    service_start: datetime
    service_end: datetime
    runs: int
    core_seconds: int
    amount_micro: int
    ordered: Ordered | None = None
    adjusts: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A numbered line. `amount_micro` is exact, `net_minor` and `tax_minor` are its parts of the rounded totals."""

    number: int
    kind: LineKind
    site_id: str
    user_id: str
    user: str
    service_start: datetime
    service_end: datetime
    runs: int
    core_seconds: int
    amount_micro: int
    net_minor: int
    tax_minor: int
    text: str = ""
    ordered: Ordered | None = None


@dataclass(frozen=True, slots=True)
class Unbilled:
    """Runs of the period that wait for the centre's record: named on the invoice, never billed silently."""

    runs: int = 0
    amount_micro: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """An invoice or credit note as it was issued. Amounts are signed minor units: a credit note's are negative."""

    number: str
    kind: DocumentKind
    issuer: LegalEntity
    payer: LegalEntity
    project_id: str
    project: str
    currency: str
    period_start: datetime
    period_end: datetime
    issued_at: datetime
    due_at: datetime
    tax: TaxRule
    lines: tuple[Line, ...]
    net_minor: int
    tax_minor: int
    gross_minor: int
    rounding_micro: int
    corrects: str = ""
    reason: str = ""
    unbilled: Unbilled = Unbilled()

    def __post_init__(self) -> None:
        net, tax = sum(line.net_minor for line in self.lines), sum(line.tax_minor for line in self.lines)
        if (net, tax, net + tax) != (self.net_minor, self.tax_minor, self.gross_minor):
            raise ValueError(f"{self.number}: the lines do not sum to the totals")

    @property
    def snapshot(self) -> str:
        """Canonical JSON (RFC 8785 for what it holds): sorted keys, no spaces, integers as text, times in UTC."""
        said = asdict(self)
        for line in said["lines"]:
            if line["ordered"] is None:
                del line["ordered"]  # lines of usage say what they always said
        return json.dumps(_plain(said), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.snapshot.encode()).hexdigest()


def document(
    *, number: str, kind: DocumentKind, issuer: LegalEntity, payer: LegalEntity, project_id: str, project: str,
    currency: str, period: tuple[datetime, datetime], issued_at: datetime, due_at: datetime, tax: TaxRule,
    items: Sequence[tuple[LineKind, Item, str, str]], reason: str = "", corrects: str = "",
    unbilled: Unbilled = Unbilled(),
) -> Document:  # fmt: skip
    """Number the lines, round their sum once and share it out. An item comes with its kind, person's name and text."""
    totals = taxed([item.amount_micro for _, item, _, _ in items], tax, currency)
    lines = tuple(
        Line(n, kind_, item.site_id, item.user_id, user, item.service_start, item.service_end, item.runs,
             item.core_seconds, item.amount_micro, totals.line_net[n - 1], totals.line_tax[n - 1], text,
             item.ordered)
        for n, (kind_, item, user, text) in enumerate(items, 1)
    )  # fmt: skip
    return Document(
        number, kind, issuer, payer, project_id, project, currency, *period, issued_at, due_at, tax, lines,
        totals.net, totals.tax, totals.gross, totals.rounding_micro, corrects, reason, unbilled,
    )  # fmt: skip


def from_snapshot(text: str) -> Document:
    """The document of a snapshot: what a snapshot says is what was issued."""
    found = json.loads(text)
    tax = _typed(found.pop("tax"), ("valid_from", "valid_to"), ("rate_ppm",))
    lines = [_typed(x, ("service_start", "service_end"), _LINE_NUMBERS) for x in found.pop("lines")]
    issuer, payer = (_typed(found.pop(who), (), ("payment_days",)) for who in ("issuer", "payer"))
    unbilled = _typed(found.pop("unbilled"), (), ("runs", "amount_micro"))
    rest = _typed(found, ("period_start", "period_end", "issued_at", "due_at"), _TOTALS)
    return Document(
        **{**rest, "kind": DocumentKind(rest["kind"])},
        issuer=LegalEntity(**issuer), payer=LegalEntity(**payer), unbilled=Unbilled(**unbilled),
        tax=TaxRule(**{**tax, "kind": TaxKind(tax["kind"])}),
        lines=tuple(
            Line(**{**line, "kind": LineKind(line["kind"]), "ordered": _ordered(line.get("ordered"))}) for line in lines
        ),
    )  # fmt: skip


def _ordered(said: dict[str, Any] | None) -> Ordered | None:
    return None if said is None else Ordered(**_typed(said, (), ("quantity",)))


_LINE_NUMBERS = ("number", "runs", "core_seconds", "amount_micro", "net_minor", "tax_minor")
_TOTALS = ("net_minor", "tax_minor", "gross_minor", "rounding_micro")


def _typed(found: dict[str, Any], times: Sequence[str], numbers: Sequence[str]) -> dict[str, Any]:
    made = dict(found)
    made |= {name: datetime.fromisoformat(found[name]) for name in times if found[name] is not None}
    return made | {name: int(found[name]) for name in numbers}


def _plain(value: Any) -> Any:
    """Integers as text: a reader with IEEE doubles must not lose any of them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
