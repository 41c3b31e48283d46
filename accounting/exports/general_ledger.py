"""The journal for an auditor: CSV, a trial balance, and plain-text books that beancount or hledger add up again."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from accounting import csv_text
from accounting.bound import kind_of, place_of
from accounting.money import MICRO

HEADER = ("entry", "date", "kind", "key", "memo", "account", "commodity", "amount")
BALANCE_HEADER = ("account", "commodity", "opening", "debit", "credit", "closing")

# Where an account of ours stands in a chart of accounts, by the first and the last part of its name.
_CHART: tuple[tuple[str, str, str], ...] = (
    ("payer", "receivable", "Assets:Receivable"),
    ("project", "usage", "Assets:Unbilled"),
    ("project", "invoiced", "Assets:Invoiced"),
    ("project", "credit", "Equity:Granted"),
    ("centre", "payable", "Liabilities:Payable"),
    ("bank", "", "Assets:Bank"),
    ("unallocated", "", "Liabilities:Unallocated"),
    ("tax", "", "Liabilities:Tax"),
    ("operator", "grants", "Equity:Grants"),
    ("operator", "tax", "Liabilities:Tax"),
    ("operator", "cash", "Assets:Cash"),
    ("operator", "credits", "Expenses:Credits"),
    ("operator", "borne", "Expenses:Borne"),
    ("operator", "bad-debt", "Expenses:BadDebt"),
    ("operator", "", "Income"),
)


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A posting with its entry, in the order of the journal."""

    entry_id: int
    at: datetime
    kind: str
    key: str
    memo: str
    account: str
    commodity: str
    amount: int


def shown(amount: int, commodity: str) -> Decimal:
    """Money (a commodity of three capital letters) in its unit; others, like core-seconds, as they are counted."""
    return Decimal(amount) / MICRO if re.fullmatch(r"[A-Z]{3}", commodity) else Decimal(amount)


def journal_csv(lines: Iterable[LedgerLine]) -> str:
    """Every posting; debits are positive."""
    return csv_text.write(HEADER, (
        (x.entry_id, x.at.isoformat(), x.kind, x.key, x.memo, x.account, x.commodity, _plain(x)) for x in lines
    ))  # fmt: skip


def trial_balance(lines: Iterable[LedgerLine], opening: dict[tuple[str, str], int]) -> str:
    """Each account's opening balance, its debits and credits, and what it closes with; all columns sum to nothing."""
    debit: dict[tuple[str, str], int] = defaultdict(int)
    credit: dict[tuple[str, str], int] = defaultdict(int)
    for x in lines:
        (debit if x.amount > 0 else credit)[x.account, x.commodity] += x.amount
    rows = []
    for key in sorted(opening.keys() | debit.keys() | credit.keys()):
        before, plus, minus = opening.get(key, 0), debit[key], credit[key]
        rows.append((*key, *(shown(a, key[1]) for a in (before, plus, minus, before + plus + minus))))
    return csv_text.write(BALANCE_HEADER, rows)


def beancount(lines: Sequence[LedgerLine]) -> str:
    """A beancount file: `bean-check` opens it, and every transaction balances."""
    names = _names(lines)
    first = min((x.at for x in lines), default=datetime(1970, 1, 1, tzinfo=UTC)).date()
    out = ['option "title" "Penstock general ledger"']
    out += [f"{first} open {name}\n  ledger-account: {_quoted(account)}" for account, name in sorted(names.items())]
    for entry in _entries(lines):
        head = entry[0]
        out.append(f"{head.at.date()} * {_quoted(head.kind)} {_quoted(head.memo)}\n  key: {_quoted(head.key)}")
        out[-1] += "".join(f"\n  {names[x.account]}  {_plain(x):f} {_of_beancount(x.commodity)}" for x in entry)
    return "\n\n".join(out) + "\n"


def hledger(lines: Sequence[LedgerLine]) -> str:
    """An hledger (or ledger) journal, with our own account names."""
    out = []
    for entry in _entries(lines):
        head = entry[0]
        what = " | ".join(_one_line(text) for text in (head.kind, head.memo))
        out.append(
            f"{head.at.date()} ({head.entry_id}) {what}  ; {_one_line(head.key)}"
            + "".join(f'\n    {_one_line(x.account)}  {_plain(x):f} "{x.commodity}"' for x in entry)
        )
    return "\n\n".join(out) + "\n"


def _entries(lines: Sequence[LedgerLine]) -> list[list[LedgerLine]]:
    found: dict[int, list[LedgerLine]] = {}
    for x in lines:
        found.setdefault(x.entry_id, []).append(x)
    return list(found.values())


def _names(lines: Sequence[LedgerLine]) -> dict[str, str]:
    """A name in beancount's alphabet for every account; two accounts never share one."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for account in sorted({x.account for x in lines}):
        name = wanted = _chart_name(account)
        n = 2
        while name in taken:
            name, n = f"{wanted}-{n}", n + 1
        names[account] = name
        taken.add(name)
    return names


def _chart_name(account: str) -> str:
    first, *rest = account.split(":")
    last = rest[-1] if rest else ""
    root = next((r for a, b, r in _CHART if a == first and b in (last, "")), "Equity:Other")
    used = {"payer", "project", "centre", "operator", "bank", "unallocated", "tax"}
    parts = [p for p in ([] if first in used else [first]) + rest if p]
    return ":".join([root, *(_component(p) for p in parts)])


def _component(part: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9-]", "-", part).lstrip("-") or "X"
    return cleaned[0].upper() + cleaned[1:]


def _plain(x: LedgerLine) -> Decimal:
    return shown(x.amount, x.commodity)


def _one_line(text: str) -> str:
    """Without what would end a line, begin a comment, or part an account from its amount."""
    return re.sub(r"[;|]|\s+", " ", "".join(c for c in text if c.isprintable() or c.isspace())).strip()


def _of_beancount(commodity: str) -> str:
    """Its names have no sign for a place: what was bought for one is counted with its kind, and the place told."""
    place = place_of(commodity)
    told = "" if place is None else f"\n    place: {_quoted(place)}"
    return f"{kind_of(commodity).upper()}{told}"


def _quoted(text: str) -> str:
    return '"' + _one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
