"""Does what a bank says of a payer fit who owes an invoice? By account where we know whose it is, else by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from accounting.payments.payment import BankTransaction, OpenDocument, squeezed

# Banks write them without their marks: ZUERICH, ZURICH.
_AS_BANKS = (("ä", "a"), ("ö", "o"), ("ü", "u"), ("ß", "ss"), ("ae", "a"), ("oe", "o"), ("ue", "u"))
_SHORT = 3


def contradicts(transaction: BankTransaction, document: OpenDocument, owners: Collection[str]) -> bool:
    """Whether the payer on the bank's line is somebody else. `owners`: who is known to pay from that account.

    Nothing said contradicts nothing: many banks pass no name on.
    """
    if owners:
        return document.payer_id not in owners
    return bool(squeezed(transaction.payer_name)) and not alike(transaction.payer_name, document.payer_name)


def alike(one: str, other: str) -> bool:
    """One name has all words of the other, in any order, or begins with it: banks cut names, drop marks and cases.

    Words of one or two letters say nothing alone (`AG`). Names without spaces (Chinese) by containment.
    """
    first, second = _words(one), _words(other)
    less, more = sorted((first, second), key=len)
    if any(len(word) >= _SHORT for word in less) and less <= more:
        return True
    plain, longer = sorted(("".join(_listed(one)), "".join(_listed(other))), key=len)
    if not plain.isascii():
        return len(plain) > 1 and plain in longer
    return len(plain) > _SHORT and longer.startswith(plain)


def _words(name: str) -> frozenset[str]:
    return frozenset(_listed(name))


def _listed(name: str) -> list[str]:
    text = unicodedata.normalize("NFKC", name).casefold()
    for mark, plain in _AS_BANKS:
        text = text.replace(mark, plain)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", text)
