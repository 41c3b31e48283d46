"""An agreement: what operator and centre signed, as one document whose canonical bytes both signatures cover.

A new version of the same `id` takes the place of the older one from its `valid_from` on; nothing is edited.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any

from pydantic import AwareDatetime, TypeAdapter

from accounting.meter import CENTRE, OPERATOR, Bears, MeteringPolicy


class Model(StrEnum):
    """How the operator stands between payer and centre."""

    AGENCY = "agency"  # the centre sells, the operator brings customers and takes a commission
    ECOMMERCE = "ecommerce"  # the centre sells in the operator's shop, the operator collects and passes on
    RESALE = "resale"  # the operator buys from the centre and sells as its own


class TaxKind(StrEnum):
    """How prices stand to tax."""

    NONE = "none"
    INCLUSIVE = "inclusive"  # the price contains it: the charge has a leg of its own for it
    EXCLUSIVE = "exclusive"  # added on the invoice, not in the charge


@dataclass(frozen=True, slots=True)
class Share:
    """`numerator` of the shares' denominator to a party's account."""

    party_id: str
    numerator: int


@dataclass(frozen=True, slots=True)
class Shares:
    """How the net amount of a charge is split, in ratios of integers; what rounding leaves goes to `remainder_to`."""

    denominator: int
    parts: tuple[Share, ...]
    remainder_to: str

    def __post_init__(self) -> None:
        if self.denominator <= 0 or any(p.numerator < 0 for p in self.parts):
            raise ValueError("shares are ratios of non-negative integers")
        if sum(p.numerator for p in self.parts) != self.denominator:
            raise ValueError("the shares must make up the whole")
        if self.remainder_to not in {p.party_id for p in self.parts}:
            raise ValueError(f"{self.remainder_to!r} takes the remainder and has no share")

    def split(self, micro: int) -> dict[str, int]:
        """Each party's part, cut towards zero; the named party takes what is left, so that the sum is exact."""
        sign = -1 if micro < 0 else 1
        found: dict[str, int] = {}
        for part in self.parts:
            found[part.party_id] = found.get(part.party_id, 0) + sign * (
                abs(micro) * part.numerator // self.denominator
            )
        found[self.remainder_to] += micro - sum(found.values())
        return found


@dataclass(frozen=True, slots=True)
class Tax:
    """The tax of the charges under an agreement: `numerator`/`denominator` of the net price."""

    kind: TaxKind = TaxKind.NONE
    name: str = ""
    numerator: int = 0
    denominator: int = 100

    def within(self, gross: int) -> int:
        """The tax that an inclusive gross amount contains, half up by magnitude; nothing of other kinds."""
        if self.kind is not TaxKind.INCLUSIVE:
            return 0
        whole = self.numerator + self.denominator
        sign = -1 if gross < 0 else 1
        return sign * ((2 * abs(gross) * self.numerator + whole) // (2 * whole))


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Differences that are no break in reconciliation."""

    seconds_per_boundary: int = 1  # × cores
    quantity_ppm: int = 100
    line_micro: int = 1
    statement_minor_units: int = 1
    clock_skew_s: int = 2


@dataclass(frozen=True, slots=True)
class PostingLimits:
    """What may be posted without a person, in micro-units: a line, a statement, any increase; four eyes above."""

    line_micro: int = 100_000_000
    statement_micro: int = 1_000_000_000
    increase_micro: int = 0
    four_eyes_micro: int = 1_000_000_000


class Bills(StrEnum):
    """What the amounts of a centre's statements are."""

    GROSS = "gross"  # the list price: the centre sells
    SHARE = "share"  # what the operator owes it: the operator sells


@dataclass(frozen=True, slots=True)
class StatementTerms:
    """What a centre's statements bill, whether they must be signed, and the causes of a difference that stand without
    a person (None: those where the centre's meter is the reference). `own_accounts`: the accounts on their lines are
    names of the centre's books and none of its scheduler, and are not compared."""

    bills: Bills = Bills.GROSS
    must_be_signed: bool = False
    auto_causes: tuple[str, ...] | None = None
    own_accounts: bool = False


@dataclass(frozen=True, slots=True)
class ShareTier:
    """What the centre gets of the part of a period's net amount beyond `from_micro`: `numerator` of the shares'
    denominator, in place of its share."""

    from_micro: int
    numerator: int


@dataclass(frozen=True, slots=True)
class Payout:
    """How a centre is paid: tiers of its share (none: its share), tax withheld at source, the currency it is paid in
    (empty: the agreement's)."""

    tiers: tuple[ShareTier, ...] = ()
    withheld_name: str = ""
    withheld_numerator: int = 0
    withheld_denominator: int = 100
    currency: str = ""

    def __post_init__(self) -> None:
        begins = [tier.from_micro for tier in self.tiers]
        if begins and (begins[0] != 0 or any(a >= b for a, b in pairwise(begins))):
            raise ValueError("tiers ascend, and the first begins at 0")
        if not 0 <= self.withheld_numerator <= self.withheld_denominator or self.withheld_denominator == 0:
            raise ValueError("what is withheld is a part of the whole")


class PartialMonths(StrEnum):
    """What of a subscription's month is given and owed that it has only in part."""

    BY_DAY = "by_day"  # the part of its days; of a canceled one the days that are left go back, as far as it is unused
    WHOLE = "whole"  # all of it, and what has begun stays


@dataclass(frozen=True, slots=True)
class Agreement:
    """Operator and centre, from `valid_from` on. `grades`: queue (`*`: any) → service grade."""

    id: str
    version: int
    operator_id: str
    centre_id: str
    site_ids: tuple[str, ...]
    model: Model
    seller_of_record: str
    brand: str
    collector: str
    currency: str
    shares: Shares
    valid_from: AwareDatetime
    valid_to: AwareDatetime | None = None
    fees: tuple[Share, ...] = ()  # per million of the net amount, kept from the centre's share at settlement
    metering: MeteringPolicy = field(default_factory=MeteringPolicy)
    tolerances: Tolerances = field(default_factory=Tolerances)
    limits: PostingLimits = field(default_factory=PostingLimits)
    tax: Tax = field(default_factory=Tax)
    grades: Mapping[str, str] = field(default_factory=dict)
    payout: Payout = field(default_factory=Payout)
    statements: StatementTerms = field(default_factory=StatementTerms)
    zone: str = "Asia/Shanghai"  # of the billing calendar
    no_rise_after_days: int | None = None  # no bill rises later than this after the work; None: whenever
    # Who bears a credit note that a dispute ended with. The centre's part was never earned: each loses its share of it.
    credits_borne: Bears = CENTRE
    # Of the price of what is unused of a block or a month that has begun, so many millionths go back if it is canceled.
    unused_back_ppm: int = 0
    partial_months: PartialMonths = PartialMonths.WHOLE
    # Who bears what the operator gives off the list price (discounts, trials, own prices). `centre`: each loses its
    # share of that part; `operator`: the centre's share is of the price before it.
    discounts_borne: Bears = OPERATOR

    def __post_init__(self) -> None:
        if {self.seller_of_record, self.collector} - {self.operator_id, self.centre_id}:
            raise ValueError("seller and collector are parties of the agreement")
        if {p.party_id for p in self.shares.parts} - {self.operator_id, self.centre_id}:
            raise ValueError("charges are shared between the parties of the agreement")
        if self.credits_borne.payer or not self.credits_borne.centre + self.credits_borne.operator:
            raise ValueError("what a payer is given back the centre or the operator bears")
        if self.discounts_borne.payer:
            raise ValueError("what a payer is let off the centre or the operator bears")
        if not 0 <= self.unused_back_ppm <= 10**6:
            raise ValueError("what goes back of an order is a part of the whole")
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError("an agreement ends after it begins")

    def borne_of_discount(self, given_micro: int) -> int:
        """What the operator bears of what was given off the list price; the rest nobody has earned."""
        weights = self.discounts_borne
        return given_micro - given_micro * weights.centre // (weights.centre + weights.operator)

    def grade_of(self, queue: str) -> str:
        return self.grades.get(queue) or self.grades.get("*", "")

    def valid_at(self, at: datetime) -> bool:
        return self.valid_from <= at and (self.valid_to is None or at < self.valid_to)

    @property
    def payload(self) -> bytes:
        """The canonical bytes that both sides sign."""
        said = _AGREEMENT.dump_python(self, mode="json")
        if not self.statements.own_accounts:
            del said["statements"]["own_accounts"]  # as those of `_LATER`
        return canonical({name: value for name, value in said.items() if (name, value) not in _LATER})

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()


_AGREEMENT = TypeAdapter(Agreement)
# Terms that came later are left out where they change nothing: what was signed before keeps its bytes.
_LATER = (("unused_back_ppm", 0), ("partial_months", PartialMonths.WHOLE.value),
          ("discounts_borne", {"payer": 0, "centre": 0, "operator": 1}))  # fmt: skip


def agreement_of(payload: bytes | str | Mapping[str, Any]) -> Agreement:
    """The agreement of its canonical bytes, or of plain values; ValueError says what is wrong."""
    if isinstance(payload, bytes | str):
        return _AGREEMENT.validate_json(payload)
    return _AGREEMENT.validate_json(json.dumps(payload))


def canonical(value: Any) -> bytes:
    """RFC 8785 for what our documents hold: sorted ASCII keys, text, booleans and integers below 2^53."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
