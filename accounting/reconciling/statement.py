"""A centre's statement of one period: its header, its lines, and whether they agree with each other and are signed.

Pure. Readers of the formats are in `statement_formats`; the signature check is a function that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct

from accounting.calendar import Period
from accounting.money import format_micro
from accounting.reconciling.breaks import Category


@dataclass(frozen=True, slots=True)
class Header:
    """What the centre says of the whole. A total that it does not give is None. Money in micro-units."""

    period: Period
    currency: str
    lines: int | None = None
    core_seconds: int | None = None
    amount_micro: int | None = None
    number: str = ""


class Line(Struct, frozen=True, gc=False):
    """One run (or, without any id, one sum) as the centre bills it. Times are epoch seconds in UTC."""

    line_no: int
    core_seconds: int
    run_key: str = ""
    native_id: str = ""
    task: int | None = None
    username: str = ""
    account: str = ""
    queue: str = ""
    state: str = ""
    cores: int = 0
    nodes: int = 0
    started: int | None = None
    ended: int | None = None
    elapsed_s: int = 0
    suspended_s: int = 0
    gpu_seconds: int = 0
    amount_micro: int | None = None
    units: Mapping[str, int] | None = None  # None: it names none, so that nothing is compared
    raw: Mapping[str, str] = {}

    @property
    def is_sum(self) -> bool:
        """A sum over runs: it can only be compared with sums."""
        return not self.run_key and not self.native_id and not (self.username and self.started)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be read, kept whole."""

    line_no: int
    raw: str
    why: str


class Lines(Protocol):
    """The lines that were read, as rows to be stored, with their sums; `amount_micro` None: no line has an amount."""

    lines: int
    core_seconds: int
    amount_micro: int | None

    def batches(self) -> Iterator[list[tuple[Any, ...]]]: ...


@dataclass(frozen=True, slots=True)
class Statement:
    """What was received: `sha256` is of the very bytes."""

    site_id: str
    header: Header
    read: Lines
    problems: tuple[BadLine, ...]
    format: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Signed:
    """The outcome of a signature check: `signer` is the party that signed, `refused` what is wrong (empty: nothing)."""

    signer: str = ""
    refused: str = ""
    key_id: str = ""
    jws: str = ""
    public: bytes = b""


# Given the document's bytes and the detached signature's: raises nothing.
Verify = Callable[[bytes, bytes], Signed]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a statement as a whole."""

    category: Category
    text: str
    delta_core_seconds: int = 0
    delta_micro: int = 0


# A sum of amounts may differ by the rounding of each line's last unit, never more than this in all.
MONEY_SLACK_MICRO = 10_000


def check(
    statement: Statement, document: bytes, signature: bytes | None, *, verify: Verify | None, must_be_signed: bool
) -> tuple[Signed, list[Finding]]:
    """Signature and control totals, before any line is looked at."""
    signed, findings = Signed(), []
    if signature is not None and verify is not None:
        signed = verify(document, signature)
        if signed.refused:
            findings.append(Finding(Category.SIGNATURE, signed.refused))
    elif must_be_signed:
        findings.append(
            Finding(Category.SIGNATURE, "the agreement asks for a signed statement, and this is not signed")
        )
    read = statement.read
    totals = check_totals(statement.header, read.lines, read.core_seconds, read.amount_micro or 0, statement.problems)
    return signed, findings + totals


def check_totals(
    header: Header,
    lines: int,
    core_seconds: int,
    amount_micro: int,
    problems: Sequence[BadLine],
    *,
    slack_micro: int = MONEY_SLACK_MICRO,
) -> list[Finding]:
    """Where the header's totals and the sums of its lines part."""
    found = []
    read = lines + len(problems)
    if header.lines is not None and header.lines != read:
        found.append(Finding(Category.CONTROL_TOTAL, f"it says {header.lines} lines, and has {read}"))
    if problems:
        text = f"{len(problems)} lines cannot be read; the first is line {problems[0].line_no}: {problems[0].why}"
        found.append(Finding(Category.CONTROL_TOTAL, text))
    if header.core_seconds is not None and header.core_seconds != core_seconds:
        text = f"it says {header.core_seconds} core-seconds, and its lines sum to {core_seconds}"
        found.append(Finding(Category.CONTROL_TOTAL, text, delta_core_seconds=header.core_seconds - core_seconds))
    if header.amount_micro is not None and abs(header.amount_micro - amount_micro) > slack_micro:
        bills, sums_to = format_micro(header.amount_micro), format_micro(amount_micro)
        text = f"it bills {bills} {header.currency}, and its lines sum to {sums_to}"
        found.append(Finding(Category.CONTROL_TOTAL, text, delta_micro=header.amount_micro - amount_micro))
    return found
