"""What comes in and goes out at /billing/{statements,reconciliations,breaks}."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from accounting.reconciling.breaks import Cause
from gateway.api.answers import _Out
from gateway.api.schemas import Currency, Plain, _In, _whole

Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=2**53)]
Month = Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]
Words = Annotated[Plain, Field(max_length=200)]
Why = Annotated[Plain, Field(min_length=1, max_length=1000)]
Format = Literal["csv", "json", "ogf-ur", "sacct", "pbs-log", "lsb.acct", "condor", "apel", "sunway-report"]


class ProfileIn(_In):
    """How this centre writes its CSV: our field → its column."""

    columns: dict[Words, Words]
    quantity_unit: Literal["core_seconds", "core_minutes", "core_hours", "core_days"] = "core_seconds"
    zone: Words = "UTC"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: Literal["utf-8-sig", "utf-8", "gb18030", "latin-1"] = "utf-8-sig"
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ",", ".", " ", "'"] = ""
    total_marker: Words = ""
    states: dict[Words, Words] = Field(default_factory=dict, max_length=200)


class StatementTotalsIn(_In):
    """What the centre says of the whole, beside the file."""

    lines: Whole | None = None
    core_seconds: Whole | None = None
    amount: Annotated[Plain, Field(max_length=24)] | None = None


class StatementIn(_In):
    """A centre's statement of one month."""

    site: Words
    period: Month
    currency: Currency
    format: Format
    content: Annotated[Plain, Field(max_length=64 * 2**20)] = ""
    content_base64: Annotated[str, Field(max_length=90 * 2**20)] = ""
    packed: Literal["gzip"] | None = None
    profile: ProfileIn | None = None
    totals: StatementTotalsIn | None = None
    number: Annotated[Plain, Field(max_length=100)] = ""
    signature: Annotated[str, Field(max_length=90 * 2**20, pattern=r"^[A-Za-z0-9_.-]*$",
                                    description="JWS over the file's bytes by a key of the centre")] = ""  # fmt: skip


class ReconcileIn(_In):
    """Compare a statement with the books, by the signed agreement. What is given here may only narrow what it allows:
    fewer causes, lower limits (money in decimal), a signature."""

    statement: Whole
    skew_s: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=3600)] | None = None
    auto_causes: list[Cause] | None = None
    auto_break: Annotated[Plain, Field(max_length=24)] | None = None
    auto_statement: Annotated[Plain, Field(max_length=24)] | None = None
    increase: Annotated[Plain, Field(max_length=24)] | None = None
    must_be_signed: bool = False


class BreakActIn(_In):
    """Why; a proposal also says whether the difference is to be posted or waived."""

    note: Why
    resolution: Literal["post", "waive"] | None = None


class StatementHead(_Out):
    """A statement as it was received, and how far it is settled."""

    id: int
    site: str
    period: str
    currency: str
    number: str
    format: str
    sha256: str
    signer: str
    signature_refused: str
    received_by: str
    received_at: str
    lines: int
    unreadable: int
    core_seconds: int
    amount: str | None
    agreed: int
    open_breaks: int
    open_amount: str
    oldest_days: int
    by_category: dict[str, int]
    signed_off: bool
    replaced: bool
    late: int
    quarantined: int


class StatementHeads(_Out):
    """Statements, newest first."""

    items: list[StatementHead]


class UnreadableLine(_Out):
    """A line that could not be read, as it came."""

    line: int
    raw: str
    why: str


class StatementReceived(StatementHead):
    """What became of a document; `new` false: these bytes were received before."""

    new: bool
    findings: list[str]
    unreadable_lines: list[UnreadableLine]


class Reconciliation(_Out):
    """One comparison and what it found."""

    id: int
    statement: int
    site: str
    period: str
    counts: dict[str, int]
    rules: dict[str, Any]
    by: str
    at: str


class ReconciliationDone(Reconciliation):
    """A comparison that was just made; `posted` breaks stood by the contract."""

    posted: int


class Reconciliations(_Out):
    """Comparisons, newest first."""

    items: list[Reconciliation]


class Break(_Out):
    """One difference. Deltas are the centre's figure minus ours."""

    id: int
    statement: int
    site: str
    period: str
    category: str
    kind: str
    state: str
    causes: list[str]
    explanation: str
    tier: str
    line: int | None
    job: str | None
    native_id: str
    username: str
    currency: str
    ours_core_seconds: int
    theirs_core_seconds: int
    ours_amount: str | None
    theirs_amount: str | None
    delta_amount: str
    opened_at: str
    age_days: int


class BreakEvent(_Out):
    """What was done to a break."""

    act: str
    state: str
    by: str
    at: str
    note: str
    resolution: str


class BreakShown(Break):
    """A break with its history and the centre's own line."""

    history: list[BreakEvent]
    raw: dict[str, Any] | None


class Breaks(_Out):
    """Breaks, oldest first."""

    items: list[Break]
    cursor: str | None


class MeterAlarm(_Out):
    """Something wrong with a centre's meter; kind: not_read, gap, control_total, run_twice; state: raised, over."""

    site: str
    kind: str
    day: str | None
    state: str
    text: str
    figures: dict[str, str]
    since: str


class MeterAlarms(_Out):
    """Alarms, the newest day first."""

    items: list[MeterAlarm]


class StillUnread(_Out):
    """Why records cannot be read, and how many."""

    why: str
    count: int


class Reread(_Out):
    """What became of records in quarantine: booked, told by the centre since (known), of nobody here, no run."""

    booked: int
    known: int
    nobody: int
    no_run: int
    still: list[StillUnread]


class DayOfMeters(_Out):
    """A day by both meters; `missing`: jobs without a record of the centre, the sums are of the others."""

    day: str
    jobs: int
    missing: int
    gateway_core_seconds: int
    centre_core_seconds: int
    slack: int
    agrees: bool


class ControlTotals(_Out):
    """Days, the newest first."""

    items: list[DayOfMeters]
