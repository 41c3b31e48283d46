"""Read ISO 20022 camt.053 bank statements, any version: elements are found by name, whatever their namespace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from accounting.errors import PaymentRefused
from accounting.minor_units import plain
from accounting.payments.bank_csv import minor_of
from accounting.payments.payment import WENT_OUT, BankStatement, BankTransaction, LeftOut, Problem
from accounting.payments.references import NONE, own_of, referenced, told_apart

# Bank transaction codes (ISO 20022 external code set) of debits that undo a credit: unpaid, reversed or recalled direct
# debits, returned credit transfers.
_RETURNED = frozenset({"UPDD", "PRDD", "RCDD", "RRTN"})


def read_camt(data: bytes) -> BankStatement:
    """Booked credits, and returned payments as negative ones; raises `PaymentRefused` for what is no camt.053.

    A statement whose balances and entries do not add up is refused whole (control total).
    """
    try:
        root = fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as exc:
        raise PaymentRefused(f"the file is no XML that can be read safely: {type(exc).__name__}") from exc
    statements = [s for s in root.iter() if _name(s) == "Stmt"]
    if _name(root) != "Document" or not statements:
        raise PaymentRefused("the file is no camt.053 statement (Document/BkToCstmrStmt/Stmt)")
    found: list[BankTransaction] = []
    problems: list[Problem] = []
    left_out: list[LeftOut] = []
    for number, statement in enumerate(statements, 1):
        account = _account(statement)
        problems += _control(statement, number)
        here: list[BankTransaction] = []
        for n, entry in enumerate(_children(statement, "Ntry"), 1):
            where = f"statement {number}, entry {n}"
            try:
                transactions = _entry(entry, account)
                left_out += [] if transactions else [_left_out(entry, where)]
            except (PaymentRefused, ValueError) as exc:
                problems.append(Problem(where, str(exc)))
                continue
            here += transactions
        found += told_apart(here)
    return BankStatement(tuple(referenced(found)), tuple(problems), tuple(left_out))


def _left_out(entry: Element, where: str) -> LeftOut:
    """An entry of which `_entry` makes no transaction."""
    booked = _status(entry) == "BOOK"
    minor, currency = _signed(entry)
    details = [t for d in _children(entry, "NtryDtls") for t in _children(d, "TxDtls")]
    said = next((text for t in details if (text := _detail(t, currency)[3])), _text(entry, "AddtlNtryInf"))
    return LeftOut(where, WENT_OUT if booked else "not booked yet", minor, currency, said[:1000])


def _account(statement: Element) -> str:
    account = _text(statement, "Acct", "Id", "IBAN") or _text(statement, "Acct", "Id", "Othr", "Id")
    if not account:
        raise PaymentRefused("a statement names no account")
    return account[:64]


def _control(statement: Element, number: int) -> list[Problem]:
    """Opening balance + entries = closing balance, where the bank gives both."""
    balances = {_text(b, "Tp", "CdOrPrtry", "Cd"): b for b in _children(statement, "Bal")}
    first = balances.get("OPBD", balances.get("PRCD"))
    last = balances.get("CLBD")
    if first is None or last is None:
        return []
    try:
        moved = sum(_signed(e)[0] for e in _children(statement, "Ntry") if _status(e) == "BOOK")
        off = _signed(last)[0] - _signed(first)[0] - moved
        currency = _signed(last)[1]
    except ValueError as exc:
        return [Problem(f"statement {number}", str(exc))]
    if off == 0:
        return []
    why = f"opening balance and entries differ from the closing balance by {plain(off, currency)} {currency}"
    return [Problem(f"statement {number}", why)]


def _entry(entry: Element, account: str) -> list[BankTransaction]:
    """The entry's transactions; none for debits and for what is not booked yet."""
    if _status(entry) != "BOOK":
        return []
    minor, currency = _signed(entry)
    details = [t for d in _children(entry, "NtryDtls") for t in _children(d, "TxDtls")]
    if minor < 0 and not _returned(entry, details):
        return []
    booked = _day(_text(entry, "BookgDt", "Dt") or _text(entry, "BookgDt", "DtTm"))
    reference = own_of(_text(entry, "AcctSvcrRef"))
    parts = [_detail(t, currency) for t in details]
    if len(parts) < 2 or any(amount is None for amount, *_ in parts):
        _, own, payer, remittance, payer_account = parts[0] if parts else (None, "", "", "", "")
        if not remittance:
            remittance = _text(entry, "AddtlNtryInf")
        return [BankTransaction(account, reference or own or NONE, booked, currency, minor, payer[:200],
                                remittance[:1000], "camt.053", payer_account)]  # fmt: skip
    if sum(amount or 0 for amount, *_ in parts) != abs(minor):
        raise PaymentRefused("the transactions of a batch do not sum to its entry")
    sign = -1 if minor < 0 else 1
    named = [own for _, own, *_ in parts if own]
    if len(set(named)) < len(named):  # each repeats that of the batch
        reference, parts = reference or named[0], [(part[0], "", *part[2:]) for part in parts]
    return [
        BankTransaction(account, own or (f"{reference}/{n}" if reference else NONE), booked, currency,
                        sign * (amount or 0), payer[:200], remittance[:1000], "camt.053", payer_account)
        for n, (amount, own, payer, remittance, payer_account) in enumerate(parts, 1)
    ]  # fmt: skip


def _returned(entry: Element, details: Sequence[Element]) -> bool:
    """Whether a debit is a payment of a customer that went back. Few banks set the indicator: most give the reason of
    the return, or its code."""
    if _text(entry, "RvslInd").lower() in ("true", "1"):
        return True
    codes = {_text(e, "BkTxCd", "Domn", "Fmly", "SubFmlyCd") for e in (entry, *details)}
    return bool(codes & _RETURNED) or any(_children(d, "RtrInf") for d in details)


def _detail(detail: Element, currency: str) -> tuple[int | None, str, str, str, str]:
    """Amount, the bank's own reference, payer, purpose and the payer's account of one transaction."""
    amount = next((e for path in (("Amt",), ("AmtDtls", "TxAmt", "Amt")) for e in _path(detail, *path)), None)
    minor = None
    if amount is not None and amount.get("Ccy", currency) == currency:
        minor = minor_of(amount.text or "", currency)
    payer = _text(detail, "RltdPties", "Dbtr", "Nm") or _text(detail, "RltdPties", "Dbtr", "Pty", "Nm")
    account = _text(detail, "RltdPties", "DbtrAcct", "Id", "IBAN")
    account = account or _text(detail, "RltdPties", "DbtrAcct", "Id", "Othr", "Id")
    purpose = [e.text or "" for e in _path(detail, "RmtInf", "Ustrd")]
    purpose += [e.text or "" for e in _path(detail, "RmtInf", "Strd", "CdtrRefInf", "Ref")]
    purpose += [e.text or "" for e in _path(detail, "RmtInf", "Strd", "RfrdDocInf", "Nb")]
    end_to_end = _text(detail, "Refs", "EndToEndId")
    if end_to_end and end_to_end != "NOTPROVIDED":
        purpose.append(end_to_end)
    return (
        minor,
        own_of(_text(detail, "Refs", "AcctSvcrRef")),
        payer,
        " ".join(p.strip() for p in purpose if p.strip()),
        account[:64],
    )


def _signed(element: Element) -> tuple[int, str]:
    """Minor units (negative for a debit) and currency of an entry or a balance."""
    amount = next(iter(_children(element, "Amt")), None)
    side = _text(element, "CdtDbtInd")
    if amount is None or side not in ("CRDT", "DBIT"):
        raise ValueError("no amount, or neither credit nor debit")
    currency = amount.get("Ccy", "")
    if len(currency) != 3 or not currency.isascii() or not currency.isupper():
        raise ValueError(f"{currency!r} is no currency code")
    minor = minor_of(amount.text or "", currency)
    return (minor if side == "CRDT" else -minor), currency


def _status(entry: Element) -> str:
    return _text(entry, "Sts", "Cd") or _text(entry, "Sts")


def _day(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"{text!r} is no booking date") from exc


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _children(element: Element, name: str) -> list[Element]:
    return [child for child in element if _name(child) == name]


def _path(element: Element, *names: str) -> list[Element]:
    found = [element]
    for name in names:
        found = [child for parent in found for child in _children(parent, name)]
    return found


def _text(element: Element, *names: str) -> str:
    return next(((e.text or "").strip() for e in _path(element, *names)), "")
