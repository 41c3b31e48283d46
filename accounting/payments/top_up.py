"""Is this money of the bank a top-up that a person recorded already? A reference decides, an amount only hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from accounting.payments.payment import BankTransaction, mention, squeezed

# Without its reference, money of the same amount may be the same money for so long.
NEAR = timedelta(days=30)
# A shorter reference stands in free text by chance; as the bank's own key it counts.
_MENTIONED_MIN = 4


@dataclass(frozen=True, slots=True)
class TopUp:
    """Money that a person recorded and no imported transaction accounts for yet."""

    id: str
    payer_id: str
    currency: str
    amount_minor: int
    received_at: datetime
    reference: str


@dataclass(frozen=True, slots=True)
class Recognised:
    """`top_up`: this one for certain. `perhaps`: a person must say; then nothing is matched by itself."""

    top_up: TopUp | None = None
    perhaps: tuple[TopUp, ...] = ()


def recognise(transaction: BankTransaction, waiting: Sequence[TopUp]) -> Recognised:
    """The top-up that a transaction brings.

    Certain is the only one whose reference the bank gives (as its key, or in the purpose) with the same amount.
    Another amount under that reference, several of it, or only the same amount near in time: perhaps.
    """
    if transaction.amount_minor < 0:
        return Recognised()
    referred = [t for t in waiting if refers(transaction, t.reference)]
    if len(referred) == 1 and _same_amount(transaction, referred[0]):
        return Recognised(referred[0])
    if referred:
        return Recognised(perhaps=tuple(referred))
    near = [
        t for t in waiting
        if _same_amount(transaction, t) and abs(transaction.booked_on - t.received_at) <= NEAR
    ]  # fmt: skip
    return Recognised(perhaps=tuple(near))


def refers(transaction: BankTransaction, reference: str) -> bool:
    """Whether the bank gives this reference for a transaction."""
    plain = squeezed(reference)
    if not plain:
        return False
    if squeezed(transaction.bank_ref) == plain:
        return True
    if len(plain) < _MENTIONED_MIN:
        return False
    if not plain.isascii():
        return plain in squeezed(transaction.remittance)
    return mention(reference, transaction.remittance) is not None


def _same_amount(transaction: BankTransaction, top_up: TopUp) -> bool:
    return (transaction.currency, transaction.amount_minor) == (top_up.currency, top_up.amount_minor)
