"""Settle a centre's period: from what its runs earned to what it is paid, in exact integers.

earned = amount owed by payers + what the operator bears = centre's share + tax + operator's share, as it was posted
run by run. On the whole period come tiers of the share, fees and tax withheld, each cut towards zero; whatever cutting
leaves stays with the centre. What it gets is paid in whole coins of the currency of payment, once exchanged; what is
less than a coin is carried forward to the next statement, in the agreement's currency, on an account of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from accounting.agreement import Agreement, Payout, Shares
from accounting.evidence.canonical import canonical
from accounting.evidence.documents import stamp
from accounting.ledger import CASH, REVENUE, Posting, payable
from accounting.minor_units import divide, micro_per_minor

FX_CLEARING = "operator:fx-clearing"
FX_RESULT = "operator:fx-gain-loss"
WITHHELD = "operator:withheld"
_PER_MILLION = 1_000_000


def settled(centre_id: str) -> str:
    """The account of what was agreed to be paid to a centre and is not paid yet."""
    return f"centre:{centre_id}:settled"


def carried(centre_id: str) -> str:
    """The account of what a centre has earned that is less than a coin: the next statement takes it up."""
    return f"centre:{centre_id}:carried"


def fees_of(party_id: str) -> str:
    """The account of the fees that a party keeps."""
    return f"party:{party_id}:fees"


@dataclass(frozen=True, slots=True)
class Rate:
    """`num`/`den` units of `quote` for one of `base` on a day, as `source` published it."""

    base: str
    quote: str
    day: date
    num: int
    den: int
    source: str

    def __post_init__(self) -> None:
        if self.num <= 0 or self.den <= 0 or self.base == self.quote:
            raise ValueError("a rate is a positive ratio between two currencies")

    def coins(self, micro: int) -> int:
        """Micro-units of whole coins of `quote` that micro-units of `base` are enough for, cut towards zero, once."""
        coin = micro_per_minor(self.quote)
        return cut(micro, self.num, self.den * coin) * coin

    def worth(self, micro: int) -> int:
        """Micro-units of `base` that micro-units of `quote` are worth, rounded half away from zero."""
        return divide(micro * self.den, self.num)


@dataclass(frozen=True, slots=True)
class Sums:
    """What items come to, in micro-units: `earned` = `centre` + `tax` + `operator`, `runs` and core-seconds beside."""

    earned: int = 0
    borne: int = 0
    centre: int = 0
    tax: int = 0
    operator: int = 0
    core_seconds: int = 0
    entries: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.earned + other.earned, self.borne + other.borne, self.centre + other.centre,
                    self.tax + other.tax, self.operator + other.operator, self.core_seconds + other.core_seconds,
                    self.entries + other.entries)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Legs:
    """Where the earned amount goes: with tax they sum to it exactly (I9)."""

    tier_adjustment: int
    fees: Mapping[str, int]
    withheld: int
    net: int
    operator: int

    def total(self, tax: int) -> int:
        return sum(self.fees.values()) + self.withheld + self.net + self.operator + tax


@dataclass(frozen=True, slots=True)
class Payment:
    """What of a centre's net amount is paid: `pay` in whole coins of the currency of payment, which is `worth` in the
    agreement's; `carried` is left of it and of what was carried before: less than a coin."""

    pay: int
    worth: int
    carried: int


def payment(net: int, carried_before: int, currency: str, rate: Rate | None) -> Payment:
    """Divide what is due into coins and the rest; over many statements nothing is lost: worth and rest sum to it."""
    due = net + carried_before
    if rate is None:
        pay = worth = cut(due, 1, micro_per_minor(currency)) * micro_per_minor(currency)
    else:
        pay = rate.coins(due)
        worth = rate.worth(pay)
    return Payment(pay, worth, due - worth)


def legs(sums: Sums, agreement: Agreement) -> Legs:
    """Divide a period's earnings among centre, fees, tax withheld and operator."""
    base = sums.earned - sums.tax
    share = _tiered(base, agreement.payout, agreement.shares) if agreement.payout.tiers else sums.centre
    fees: dict[str, int] = {}
    for fee in agreement.fees:
        fees[fee.party_id] = fees.get(fee.party_id, 0) + cut(base, fee.numerator, _PER_MILLION)
    rest = share - sum(fees.values())
    withheld = cut(rest, agreement.payout.withheld_numerator, agreement.payout.withheld_denominator)
    adjustment = share - sums.centre
    return Legs(adjustment, fees, withheld, rest - withheld, sums.operator - adjustment)


def cut(amount: int, numerator: int, denominator: int) -> int:
    """A part of an amount, cut towards zero."""
    sign = -1 if amount < 0 else 1
    return sign * (abs(amount) * numerator // denominator)


def _tiered(base: int, payout: Payout, shares: Shares) -> int:
    bounds = [tier.from_micro for tier in payout.tiers[1:]] + [None]
    total = 0
    for tier, bound in zip(payout.tiers, bounds, strict=True):
        part = (base if bound is None else min(base, bound)) - tier.from_micro
        if part > 0 or (part < 0 and tier.from_micro == 0):
            total += cut(part, tier.numerator, shares.denominator)
    return total


@dataclass(frozen=True, slots=True)
class Held:
    """An entry that is in dispute: carried forward, not paid yet."""

    entry: str
    centre: int
    reason: str


@dataclass(frozen=True, slots=True)
class Draft:
    """Everything that a statement says. `grades`: earned in the period itself; `late`: corrections of earlier ones."""

    id: str
    revision: int
    agreement: Agreement
    start: datetime
    end: datetime
    currency: str
    grades: Mapping[str, Sums]
    late: Mapping[str, Sums]
    disputed: Sequence[Held]
    credits: int
    opening: int
    paid: int
    carried_before: int
    rate: Rate | None
    items_sha256: str
    drawn_at: datetime

    @property
    def sums(self) -> Sums:
        return sum((*self.grades.values(), *self.late.values()), Sums())

    @property
    def payment(self) -> Payment:
        return payment(legs(self.sums, self.agreement).net, self.carried_before, self.currency, self.rate)

    @property
    def pay_currency(self) -> str:
        return self.agreement.payout.currency or self.currency


def statement(draft: Draft) -> dict[str, Any]:
    """The statement as it is signed; each total names the accounts whose movement it is (I10)."""
    a, sums, parts = draft.agreement, draft.sums, legs(draft.sums, draft.agreement)
    due = draft.payment
    return {
        "v": 1, "t": "settlement", "id": draft.id, "revision": draft.revision, "operator": a.operator_id,
        "centre": a.centre_id, "sites": list(a.site_ids), "agreement": f"{a.id}/{a.version}",
        "agreement_sha256": a.sha256, "currency": draft.currency, "from": stamp(draft.start), "to": stamp(draft.end),
        "zone": a.zone, "drawn_at": stamp(draft.drawn_at),
        "opening": str(draft.opening), "paid": str(draft.paid),
        "grades": [_sums_json(name, s) for name, s in sorted(draft.grades.items())],
        "corrections_of_earlier_periods": [_sums_json(name, s) for name, s in sorted(draft.late.items())],
        "credits": str(draft.credits), **_sums_json("all", sums),
        "tier_adjustment": str(parts.tier_adjustment),
        "fees": [{"party": party, "amount": str(amount)} for party, amount in sorted(parts.fees.items())],
        "withheld": {"name": a.payout.withheld_name, "amount": str(parts.withheld)},
        "operator_keeps": str(parts.operator), "net": str(parts.net),
        "rate": None if draft.rate is None else _rate_json(draft.rate),
        "pay_currency": draft.pay_currency, "pay": str(due.pay), "closing": str(draft.opening - draft.paid + due.pay),
        "carried_before": str(draft.carried_before), "pay_worth": str(due.worth), "carried": str(due.carried),
        "disputed": [{"entry": h.entry, "centre": str(h.centre), "reason": h.reason} for h in draft.disputed],
        "items_sha256": draft.items_sha256,
        "movements": [[p.account, p.commodity, str(p.amount)] for p in postings(draft)],
    }  # fmt: skip


def _sums_json(grade: str, s: Sums) -> dict[str, str]:
    return {
        "grade": grade, "entries": str(s.entries), "core_seconds": str(s.core_seconds), "earned": str(s.earned),
        "borne": str(s.borne), "centre_share": str(s.centre), "tax": str(s.tax), "operator_share": str(s.operator),
    }  # fmt: skip


def _rate_json(rate: Rate) -> dict[str, str]:
    return {"base": rate.base, "quote": rate.quote, "day": rate.day.isoformat(), "num": str(rate.num),
            "den": str(rate.den), "source": rate.source}  # fmt: skip


def payload(said: Mapping[str, Any]) -> bytes:
    """The bytes that both sides sign."""
    return canonical(said)


def postings(draft: Draft) -> tuple[Posting, ...]:
    """The entry that is booked when both have signed: the centre's earnings become what it is paid."""
    centre, parts, commodity = draft.agreement.centre_id, legs(draft.sums, draft.agreement), draft.currency
    lines = [Posting(payable(centre), commodity, draft.sums.centre), Posting(REVENUE, commodity, parts.tier_adjustment)]
    lines += [Posting(fees_of(party), commodity, -amount) for party, amount in sorted(parts.fees.items())]
    due = draft.payment
    lines += (Posting(WITHHELD, commodity, -parts.withheld),
              Posting(carried(centre), commodity, draft.carried_before - due.carried))  # fmt: skip
    if draft.rate is None:
        lines.append(Posting(settled(centre), commodity, -due.pay))
    else:
        lines += (
            Posting(FX_CLEARING, commodity, -due.worth), Posting(FX_CLEARING, draft.rate.quote, due.pay),
            Posting(settled(centre), draft.rate.quote, -due.pay),
        )  # fmt: skip
    return tuple(line for line in lines if line.amount) or (Posting(payable(centre), commodity, 0),)


def payment_postings(
    centre_id: str, *, currency: str, pay: int, cost: int, cost_currency: str, carried: int
) -> tuple[Posting, ...]:
    """Money leaves for a centre. Paid in another currency, `carried` is what it stood at in ours by the rate of the
    settlement and `cost` what the bank took: the difference is gain or loss, and the clearing accounts are even."""
    lines = [Posting(settled(centre_id), currency, pay)]
    if cost_currency == currency:
        return (*lines, Posting(CASH, currency, -pay))
    lines += (
        Posting(FX_CLEARING, currency, -pay), Posting(FX_CLEARING, cost_currency, carried),
        Posting(CASH, cost_currency, -cost), Posting(FX_RESULT, cost_currency, cost - carried),
    )  # fmt: skip
    return tuple(line for line in lines if line.amount)
