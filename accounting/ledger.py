"""The ledger: balanced entries over commodities (currencies and core-seconds). An unbalanced entry cannot be built.

A charge: Dr the project's usage (and the operator's own, of what it bears); Cr the centre, tax, the operator's revenue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from accounting import usage
from accounting.agreement import Agreement
from accounting.errors import UnbalancedEntry
from accounting.meter import Bears
from accounting.price import split

CORE_SECONDS = "core-seconds"
GPU_SECONDS = "gpu-seconds"
# Storage is a unit like others (`unit:storage-mib-hours`); people count it in GiB-months of 730 hours.
STORAGE = "storage-mib-hours"
PER_GIB_MONTH = 1024 * 730
# What people count a commodity in, and how many of its own units that is; others are counted as they are.
PEOPLE_COUNT = {CORE_SECONDS: ("core-hours", 3600), GPU_SECONDS: ("gpu-hours", 3600),
                STORAGE: ("GiB-months", PER_GIB_MONTH)}  # fmt: skip

# The operator's own accounts.
REVENUE = "operator:revenue"
USED = "operator:usage"  # of resources: what was delivered
GRANTS = "operator:grants"
BORNE = "operator:borne"  # what payers were let off at the operator's cost
DIFFERENCES = "operator:reconciliation"  # what centres' figures come to beyond ours, as both sides agreed
CREDITS = "operator:credits"  # what payers were given back of bills, as far as the operator bears it
ADJUSTED = "operator:adjustments"
BAD_DEBT = "operator:bad-debt"
CASH = "operator:cash"
TAX = "operator:tax"
EXPIRED = "operator:expired"
ACCRUED = "operator:accrued"

DIFFERENCE = "reconciliation"  # the kind of the entry of such a difference (reconciling/difference.py)


DIFFERENCE_KEY = "recon:"  # before the number of the break


def difference_key(break_id: int) -> str:
    """The key of the entry that books the money of a break."""
    return f"{DIFFERENCE_KEY}{break_id}"


def receivable(project_id: str, payer_id: str | None = None) -> str:
    """The account of what a project has used and owes; with a payer, that payer's part of it."""
    return f"project:{project_id}:usage" + (f":{payer_id}" if payer_id else "")


def credit(project_id: str) -> str:
    """The account of what a project was given to use."""
    return f"project:{project_id}:credit"


def paid(project_id: str) -> str:
    """The account of what was paid for a project."""
    return f"project:{project_id}:paid"


def unallocated(payer_id: str) -> str:
    """Money of a payer that is for no project yet."""
    return f"payer:{payer_id}:unallocated"


def accrued(project_id: str) -> str:
    """What runs that had not ended at the end of a period had cost until then."""
    return f"project:{project_id}:accrued"


def payable(centre_id: str) -> str:
    """The account of what a centre has earned."""
    return f"centre:{centre_id}:payable"


def commodity_of(resource: str) -> str | None:
    """The commodity that a resource is granted in: `core-seconds`, `gpu-seconds`, a unit's name; None for others."""
    if resource.startswith("unit:"):
        return resource.removeprefix("unit:")
    return {usage.CORE_SECONDS: CORE_SECONDS, usage.GPU_SECONDS: GPU_SECONDS}.get(resource)


def resource_of(commodity: str) -> str:
    """The resource that a commodity grants: `commodity_of` the other way round."""
    known = {CORE_SECONDS: usage.CORE_SECONDS, GPU_SECONDS: usage.GPU_SECONDS}
    return known.get(commodity, f"unit:{commodity}")


class Posting(Struct, frozen=True, gc=False):
    """`amount` (micro-units, or units of a resource) to one account; debits are positive."""

    account: str
    commodity: str
    amount: int


class Entry(Struct, frozen=True, gc=False):
    """What happened, once: `idem_key` is unique in the books for ever.

    `service_at`: when the work was, if that is not when it counts. `linked_entry_id`: what it goes with or takes back.
    """

    idem_key: str
    kind: str
    effective_at: datetime
    postings: tuple[Posting, ...]
    memo: str = ""
    service_at: datetime | None = None
    linked_entry_id: int | None = None
    tenant: str = "operator"

    def __post_init__(self) -> None:
        sums: dict[str, int] = {}
        for posting in self.postings:
            sums[posting.commodity] = sums.get(posting.commodity, 0) + posting.amount
        if any(sums.values()) or not sums:
            off = {commodity: total for commodity, total in sums.items() if total}
            raise UnbalancedEntry(f"{self.idem_key}: {off or 'no postings'}")

    @property
    def content_sha256(self) -> str:
        text = "\n".join(f"{p.account}\t{p.commodity}\t{p.amount}" for p in self.postings)
        return hashlib.sha256(f"{self.kind}\n{text}".encode()).hexdigest()


class Division(Struct, frozen=True, gc=False):
    """The price of a run, divided: `amount` the project owes, `borne` the operator bears, `centre` and `tax` get."""

    gross: int
    amount: int
    borne: int
    centre: int
    tax: int

    def less(self, other: Division) -> Division:
        """By how much this is more than another."""
        return Division(self.gross - other.gross, self.amount - other.amount, self.borne - other.borne,
                        self.centre - other.centre, self.tax - other.tax)  # fmt: skip


NOTHING = Division(0, 0, 0, 0, 0)


def divide(gross: int, bears: Bears, agreement: Agreement | None, *, charged: int | None = None) -> Division:
    """Divide the price of a run among those who bear it and those who earn it; each sum is exact.

    `charged`: what the payer's price is of it, where the operator gave some off: it bears the rest of the payer's part.
    """
    if bears.payer and not (bears.centre or bears.operator):
        amount, unearned, borne = gross, 0, 0
    else:
        amount, unearned, borne = split(gross, (bears.payer, bears.centre, bears.operator))
    if charged is not None and charged != gross:
        owed = split(charged, (bears.payer, bears.centre, bears.operator))[0]
        amount, borne = owed, borne + amount - owed
    if agreement is None:
        return Division(gross, amount, borne, 0, 0)
    earned = gross - unearned
    tax = agreement.tax.within(earned)
    shares = agreement.shares.split(earned - tax)
    return Division(gross, amount, borne, shares.get(agreement.centre_id, 0), tax)


def parts_of(amount: int, payers: Sequence[tuple[str, int]]) -> dict[str, int]:
    """What each payer owes of an amount, by weights; what rounding leaves goes to the first."""
    total = sum(weight for _, weight in payers)
    sign = -1 if amount < 0 else 1
    parts = {payer: sign * (abs(amount) * weight // total) for payer, weight in payers}
    parts[payers[0][0]] += amount - sum(parts.values())
    return parts


def usage_postings(
    project_id: str,
    *,
    currency: str,
    division: Division,
    used: Mapping[str, int],
    centre_id: str | None = None,
    payers: Mapping[str, int] | None = None,
) -> tuple[Posting, ...]:
    """A charge (or, with differences, its correction): the project owes, centre, tax and operator earn."""
    owes = receivable(project_id)
    if payers is None:
        lines = [Posting(owes, currency, division.amount)]
    else:
        lines = [Posting(receivable(project_id, payer), currency, part) for payer, part in payers.items()]
    if division.borne:
        lines.append(Posting(BORNE, currency, division.borne))
    if centre_id is not None:
        lines.append(Posting(payable(centre_id), currency, -division.centre))
    if division.tax:
        lines.append(Posting(TAX, currency, -division.tax))
    rest = division.amount + division.borne - division.tax - (division.centre if centre_id is not None else 0)
    lines.append(Posting(REVENUE, currency, -rest))
    for commodity, quantity in used.items():
        lines += (Posting(owes, commodity, quantity), Posting(USED, commodity, -quantity))
    return tuple(lines)


def grant_postings(project_id: str, *, commodity: str, amount: int) -> tuple[Posting, ...]:
    """A grant of credit: the project may use it, the operator has promised it."""
    return (Posting(credit(project_id), commodity, -amount), Posting(GRANTS, commodity, amount))
