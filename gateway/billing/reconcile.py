"""Compare a centre's statement with our books, and post what the contract (or two people) let stand.

A quantity is posted as a new revision of the run's reading, so that it is priced, divided and explained like any other;
a difference of money alone is posted between the centre and the operator. Nothing is edited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from msgspec import structs
from sqlalchemy import Connection, func, select

from accounting import store as books
from accounting.calendar import month
from accounting.errors import AccountingError
from accounting.ledger import difference_key
from accounting.reconciling import booking, confirmed, keeping, statement_store
from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import FINAL, Act, Category, Event, Refused, State
from accounting.reconciling.drafts import Known, Rules, apart_micro
from accounting.reconciling.statement import Header, Signed, Statement, Verify, check
from accounting.reconciling.statement_formats import Profile, read_statement
from accounting.reconciling.statement_store import sign_statement, signer_of
from accounting.reconciling.store import BreakNow, Compared
from accounting.store import USAGE, contracts
from accounting.store.schema import CHARGES, REVERSALS, refresh_statistics
from accounting.usage import Kind, Meter, UsageRecord
from gateway.billing import told_again
from gateway.billing.cycles import no_search_for_cycles
from gateway.billing.names import Names
from gateway.billing.recon_rules import agreement_between
from gateway.billing.signing import by_keys_of
from gateway.db import Database, table_of
from gateway.identity import vault
from gateway.identity.tables import CentreStaffRow, UserRow
from gateway.services import Services

_T = TypeVar("_T")
_USERS, _STAFF = table_of(UserRow), table_of(CentreStaffRow)

# Lines of a statement that are kept in one transaction: some 30 ms on SQLite (DESIGN: at most 50).
_AT_ONCE = 2_000

# Breaks that are posted in one transaction: each is a reading or an entry of its own.
_POSTED_AT_ONCE = 15

# So many lines change what the database has to expect.
_MANY = 10_000

# A break of these is about how much was used; the others are about money for the same quantity.
_OF_QUANTITY = frozenset({Category.QUANTITY, Category.STATE_POLICY})


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a document: the statement's id, whether it is new, who signed it, what cannot be read."""

    statement_id: int
    new: bool
    signed: Signed
    problems: int
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What one comparison did."""

    reconciliation_id: int
    counts: Mapping[str, int]
    posted: int


@no_search_for_cycles()
def receive(
    services: Services, document: bytes, *, site_id: str, period: str, currency: str, format_name: str, by: str,
    profile: Profile | None = None, totals: Header | None = None, signature: bytes | None = None,
    verify: Verify | None = None, number: str = "",
) -> Received:  # fmt: skip
    """Read and keep a statement; signature and totals are checked before any line. Raises `Unreadable`, ValueError.

    `period` is a month of the agreement's zone (without an agreement: of UTC).
    `signature` is a JWS by a key of the centre; it may come later, with the same bytes. `verify`: in place of that.
    """
    now = services.clock()
    with services.db.read() as conn:
        agreement = agreement_between(conn, site_id, month(period).end, now=now)
        centre = "" if agreement is None else agreement.centre_id
        keys = contracts.keys_of(conn, centre)
    with services.db.write() as conn:
        names = Names(services, conn, site_id, make=now)
    whole = month(period) if agreement is None else month(period, agreement.zone)
    header = replace(totals or Header(whole, currency, number=number), period=whole)
    statement: Statement = read_statement(
        document, site_id=site_id, format_name=format_name, header=header, profile=profile,
        keeper=lambda digest: names.keeper(f"{site_id}/{digest}"),
    )  # fmt: skip
    signed, findings = check(
        statement, document, signature, verify=verify or by_keys_of(centre, keys, now=now),
        must_be_signed=agreement is not None and agreement.statements.must_be_signed,
    )  # fmt: skip
    kept = names.problems(statement)
    with services.db.write() as conn:
        known = statement_store.known_statement(conn, kept)
        kept_as = statement_store.arrive(conn, kept, now=now) if known is None else known
    if known is None:
        _keep_lines(services.db, kept_as, kept)
    with services.db.write() as conn:
        statement_id, new = (kept_as, False) if known is not None else statement_store.complete(
            conn, kept_as, kept, document, signed, by=by, now=now)  # fmt: skip
        if signed.signer:
            sign_statement(conn, statement_id, signed, now=now)
    texts = tuple(f"{f.category}: {f.text}" for f in findings)
    return Received(statement_id, new, signed, len(statement.problems), texts)


def _keep_lines(db: Database, number: int, kept: Statement) -> None:
    """Every line, a few thousand in each transaction: other writers wait no longer for a month of a big centre than for
    anybody else. Names are sealed between the transactions, not in them."""
    for rows in kept.read.batches():
        for at in range(0, len(rows), _AT_ONCE):
            with db.write() as conn:
                statement_store.save_lines(conn, number, rows[at : at + _AT_ONCE])
    for at in range(0, len(kept.problems), _AT_ONCE):
        with db.write() as conn:
            statement_store.save_problems(conn, number, kept.problems[at : at + _AT_ONCE], first=at + 1)
    if kept.read.lines >= _MANY:
        with db.write() as conn:
            refresh_statistics(conn, statement_store.LINES)


@no_search_for_cycles()
def reconcile(services: Services, statement_id: int, *, rules: Rules, by: str) -> Reconciled:
    """Compare, keep the breaks, and post what the contract lets stand. A second call finds nothing new to do."""
    now = services.clock()
    compared = look(services.db, statement_id, rules, known=partial(_known, services))
    found = keeping.keyed(compared)
    number = _keep(services.db, compared, found, rules, by=by, now=now)
    with services.db.write() as conn:
        confirmed.confirm(conn, compared.row, compared.matched.agreeing, compared.confirmation, run_id=number)
    posted = _settle(services, number, compared.row, found, rules, now=now)
    return Reconciled(number, compared.counts, posted)


def _keep(db: Database, compared: Compared, found: keeping.Keyed, rules: Rules, *, by: str, now: datetime) -> int:
    """Some hundred breaks in each transaction: whoever books waits for no more than that. It counts at the end."""
    with db.write() as conn:
        number = keeping.begin(conn, compared.row.id, now=now)
    for some in _cut(list(found.items()), keeping.AT_ONCE):
        with db.write() as conn:
            keeping.open_breaks(conn, number, compared.row, some, now=now)
    with db.write() as conn:
        keeping.complete(conn, number, compared, rules_json=rules_json(rules), by=by, now=now)
    return number


def _settle(services: Services, number: int, row: Any, found: keeping.Keyed, rules: Rules, *, now: datetime) -> int:
    """What a comparison that counts brings with it, some at a time; how many breaks the contract let stand."""
    db, posted = services.db, 0
    with db.read() as conn:
        left = keeping.left(conn, number, row, found)
    for returned in _cut(list(left.back.items()), _POSTED_AT_ONCE):
        with db.write() as conn:
            posted += _let_stand(services, conn, keeping.come_back(conn, returned, now=now), rules, now)
    for some in _cut(left.accepted, _POSTED_AT_ONCE):
        with db.write() as conn:
            posted += _let_stand(services, conn, some, rules, now)
    for some in _cut(left.gone, keeping.AT_ONCE):
        with db.write() as conn:
            keeping.vanish(conn, some, now=now)
    for some in _cut(left.replaced, keeping.AT_ONCE):
        with db.write() as conn:
            keeping.replace(conn, some, row, now=now)
    with db.write() as conn:
        keeping.settled(conn, number, row, now=now)
    return posted


def _cut(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def _let_stand(services: Services, conn: Connection, some: Sequence[int], rules: Rules, now: datetime) -> int:
    """Accept and post what the contract lets stand, unless somebody was faster; how many."""
    rows = keeping.still_explained(conn, some)
    keeping.let_stand(conn, list(zip(rows, _post(services, conn, rows, now), strict=True)), version=rules.version,
                      now=now)  # fmt: skip
    return len(rows)


def look(
    db: Database, statement_id: int, rules: Rules, *, known: Callable[[Connection], Known] = lambda _conn: Known()
) -> Compared:
    """The comparison alone, which writes nothing: it may take seconds, and nobody waits for it."""
    with db.read() as conn:
        return recon_store.compare(conn, statement_id, rules, known(conn))


def _known(services: Services, conn: Connection) -> Known:
    """The logins at every centre (people have one name at several), and our tag."""
    names = Names(services, conn, None)
    return Known(
        logins=names.logins, tag_prefix=f"p{services.gateway_id}", pseudonyms=names.pseudonyms,
        kept_login=names.login, kept_text=names.text, opened=names.raw,
    )  # fmt: skip


def act(
    services: Services, conn: Connection, break_id: int, wanted: Act, *, by: str, note: str = "", resolution: str = ""
) -> Event:
    """One person's act on a break. A countersigned proposal is carried out at once; raises `Refused`.

    Two people of one side agree with themselves: one of the two who settle a break is the operator's, the other the
    centre's, where anybody speaks for that here.
    """
    now = services.clock()
    note = Names(services, conn, None).text(note)
    event = recon_store.record_act(conn, break_id, wanted, by=by, now=now, note=note, resolution=resolution)
    if event.act is not Act.COUNTERSIGN:
        return event
    (item,) = recon_store.breaks(conn, ids=[break_id])
    proposal = next(e for e in reversed(recon_store.history(conn, break_id)) if e.act is Act.PROPOSE)
    _must_be_of_both_sides(conn, item.row.site_id, by, proposal.by)
    if proposal.resolution == Act.WAIVE:
        return recon_store.record_act(conn, break_id, Act.WAIVE, by=by, now=now, note="as agreed")
    ((key, note),) = _post(services, conn, [item.row], now)
    return recon_store.record_act(conn, break_id, Act.POST, by=by, now=now, note=note, entry_key=key)


def _must_be_of_both_sides(conn: Connection, site_id: str, one: str, other: str) -> None:
    operators = set(conn.scalars(select(_USERS.c.name).where(_USERS.c.operator_admin.is_(True))))
    query = select(_USERS.c.name).join(_STAFF, _STAFF.c.user_id == _USERS.c.id).where(_STAFF.c.site_id == site_id)
    staff = set(conn.scalars(query))
    if not operators & {one, other}:
        raise Refused("the operator must propose this or countersign it: the centre has done both")
    if staff and not any(a in operators and b in staff - operators for a, b in ((one, other), (other, one))):
        raise Refused("somebody of the centre must propose this or countersign it: the operator has done both")


def _post(services: Services, conn: Connection, rows: Sequence[Any], now: datetime) -> list[tuple[str, str]]:
    """Book what breaks come to, each once: its number is the entry's key. New readings are priced in one call.

    (the entry's key, what was done) of each.
    """
    users = select(USAGE.c.user_id).where(USAGE.c.id.in_([row.usage_record_id for row in rows if row.usage_record_id]))
    keys = vault.keys_of(services, conn, [user for user in conn.scalars(users) if user], now)
    opened = vault.Opener(services, conn)
    readings = {
        row.id: told_again.reading(services, conn, row, now)
        if told_again.is_about(row)
        else _reading(conn, row, keys, opened)
        for row in rows
    }
    books.record_and_book(conn, [reading for reading in readings.values() if reading is not None], now=now)
    return [
        _post_money(conn, row, now)
        if readings[row.id] is None
        else (difference_key(row.id), "the centre's figure is the run's new reading")
        for row in rows
    ]


def _post_money(conn: Connection, row: Any, now: datetime) -> tuple[str, str]:
    """Book the difference of a break between centre and operator."""
    line = recon_store.line_of_break(conn, row)
    entry = booking.entry_of(conn, row, line, now=now)
    if entry is None:
        return "", booking.why_nothing(conn, row, line)
    books.book(conn, [entry], now=now)
    return entry.idem_key, "booked between centre and operator"


def _reading(
    conn: Connection, row: Any, keys: Mapping[str, bytes | None], opener: vault.Opener
) -> books.Assigned | None:
    """The run's reading with the centre's figures, where a break is about them; None where nobody of ours pays."""
    line = recon_store.line_of_break(conn, row)
    if Category(row.category) not in _OF_QUANTITY or row.usage_record_id is None or line is None:
        return None
    old = conn.execute(select(USAGE).where(USAGE.c.id == row.usage_record_id)).one()
    if old.job_id is None or old.project_id is None or old.user_id is None:
        return None
    currency = conn.scalar(select(CHARGES.c.currency).where(CHARGES.c.usage_record_id == old.id)) or row.currency
    cores = line.cores or old.cores
    elapsed = line.elapsed_s or (line.core_seconds // cores if cores and line.core_seconds % cores == 0 else 0)
    start = old.start_time
    end = old.end_time if not elapsed or start is None else start + timedelta(seconds=elapsed + old.suspended_s)
    same = ["native_id", "task", "state", "username", "account", "queue", "qos", "suspended_s", "gpu_seconds",
            "memory_mib_seconds", "submit_time"]  # fmt: skip
    if recon_store.as_metered(conn, line, old):  # else the agreement's policy has been applied to the line already
        same += ["cpus", "exclusive", "requested_cores"]
    opened = opener(line.raw)
    record = UsageRecord(
        site_id=old.site_id, run_key=old.run_key if old.meter == "centre" else (line.run_key or old.run_key),
        meter=Meter.CENTRE, kind=Kind.RUN, cores=cores, nodes=line.nodes or old.nodes,
        elapsed_s=elapsed or old.elapsed_s, core_seconds=line.core_seconds,
        node_seconds=(line.nodes or old.nodes) * (elapsed or old.elapsed_s), start_time=start, end_time=end,
        units={**(old.units or {}), **(line.units or {})},
        raw={**{str(k): str(v) for k, v in opened.items()}, "statement": str(row.statement_id),
             "statement_line": str(line.line_no), "break": str(row.id)},
        **{name: getattr(old, name) for name in same},
    )  # fmt: skip
    hidden = opened.keys() - line.raw.keys()
    raw = vault.seal_raw(record.raw, person=old.user_id, key=keys[old.user_id], ref=vault.ref_of(record), also=hidden)
    return books.Assigned(
        structs.replace(record, raw=raw), old.job_id, old.project_id, old.user_id, str(currency),
        old.ordered_grade or "", statement_id=row.statement_id, signed_by=signer_of(conn, row.statement_id),
    )  # fmt: skip


def rules_json(rules: Rules) -> dict[str, Any]:
    """The rules as they were, for whoever reads a comparison later."""
    found = asdict(replace(rules, auto_causes=frozenset()))
    return found | {"auto_causes": sorted(cause.value for cause in rules.auto_causes)}


# ---------------------------------------------------------------- what an admin asks each month


@dataclass(frozen=True, slots=True)
class Standing:
    """A period at a glance: money in micro-units, ages in days."""

    site_id: str
    period: str
    currency: str
    lines: int
    agreed: int
    open_breaks: int
    open_micro: int
    oldest_days: int
    by_category: Mapping[str, int]
    signed_off: bool
    replaced: bool  # another statement of the month has made its differences void
    late: int  # runs that only the gateway has seen: the centre's own record is still missing
    quarantined: int  # records of this centre, of any month, that nobody can read or price


def standing(conn: Connection, row: Any, *, now: datetime) -> Standing:
    """How far a statement is settled."""
    found = recon_store.breaks(conn, statement_id=row.id)
    waiting = [b for b in found if b.state not in FINAL]
    compared = recon_store.reconciliations(conn, site_ids=[row.site_id], period=row.period)
    counts: Mapping[str, Any] = next((r.counts for r in compared if r.statement_id == row.id), {})
    by_category: dict[str, int] = {}
    for item in waiting:
        by_category[item.row.category] = by_category.get(item.row.category, 0) + 1
    return Standing(
        row.site_id, row.period, row.currency, row.lines, int(counts.get("agreed", 0)), len(waiting),
        sum(delta_micro(item) for item in waiting), max((item.age_days(now) for item in waiting), default=0),
        by_category, recon_store.is_signed_off(conn, row.id), recon_store.is_replaced(conn, row.id),
        late(conn, row.site_id, row.starts_at, row.ends_at),
        books.unread(conn, row.site_id),
    )  # fmt: skip


def late(conn: Connection, site_id: str, starts_at: datetime, ends_at: datetime) -> int:
    """Runs of a period that are charged by the gateway's own observation, because nothing came from the centre."""
    query = (
        select(func.count())
        .select_from(CHARGES)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(USAGE.c.site_id == site_id, USAGE.c.meter == Meter.GATEWAY.value, REVERSALS.c.charge_id.is_(None),
               USAGE.c.end_time >= starts_at, USAGE.c.end_time < ends_at)
    )  # fmt: skip
    return int(conn.scalar(query) or 0)


def delta_micro(item: BreakNow) -> int:
    """What the centre's figure is above ours; by our own price where its statement names no money."""
    row = item.row
    return apart_micro((row.ours_core_seconds, row.ours_micro), (row.theirs_core_seconds, row.theirs_micro))


__all__ = ["AccountingError", "Received", "Reconciled", "Standing", "State", "act", "delta_micro", "look", "receive",
           "reconcile", "rules_json", "standing"]  # fmt: skip
