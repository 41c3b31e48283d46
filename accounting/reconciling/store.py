"""Compare a statement with the books, keep the breaks and what people do with them. Nothing here commits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, tuple_

from accounting import tables
from accounting.calendar import Period
from accounting.reconciling import match as recon_match
from accounting.reconciling.breaks import (
    FINAL,
    Act,
    Category,
    Cause,
    Event,
    Refused,
    State,
    act_on,
)
from accounting.reconciling.confirmed import Confirmation, prepare
from accounting.reconciling.drafts import Draft, Known, Rules, drafts
from accounting.reconciling.found import Matched
from accounting.reconciling.sides import Run, Scope, same_jobs
from accounting.reconciling.statement import Finding, Header, check_totals
from accounting.reconciling.statement_store import LINES, STATEMENTS, signer_of, statement_problems, statement_row
from accounting.reconciling.twice import told_twice
from accounting.store.schema import CHARGES, core

RECONCILIATIONS = core(tables.ReconciliationRow)
BREAKS, EVENTS = core(tables.BreakRow), core(tables.BreakEventRow)

# Runs that ended this long before or after a period may be billed in it: they are looked at too.
MARGIN_S = 35 * 86400
MACHINE = "engine"
REPLACED = "replaced-by:"


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True)
class Compared:
    """What one comparison found, before it is kept."""

    row: Any
    matched: Matched
    drafts: tuple[Draft, ...]
    confirmation: Confirmation | None = None

    @property
    def counts(self) -> dict[str, int]:
        m = self.matched
        by_category: dict[str, int] = defaultdict(int)
        for draft in self.drafts:
            by_category[draft.category.value] += 1
        return {"lines": m.lines, "runs": m.runs, "agreed": m.agreed, "breaks": len(self.drafts), **by_category}


def compare(conn: Connection, statement_id: int, rules: Rules, known: Known) -> Compared:
    """Compare a statement with the books as they are now; writes nothing. `Refused`: another has taken its place."""
    row = statement_row(conn, statement_id)
    if row is None:
        raise LookupError(f"there is no statement {statement_id}")
    if (later := _successor(conn, row)) is not None:
        raise Refused(f"statement {later} has taken the place of this one: compare that")
    period = Period(row.period, row.starts_at, row.ends_at)
    rules = replace(rules, ground=replace(rules.ground, period=period.epochs))
    scope = Scope(statement_id, row.site_id, period, rules.basis, MARGIN_S, known.pseudonyms)
    matched = recon_match.match(conn, scope, rules.tolerance)
    matched.duplicates = _without_taken_back(conn, statement_id, matched)
    known = replace(
        known, siblings=_siblings(conn, scope, matched), tagged_lines=_tagged(conn, statement_id, matched, known),
        twins=told_twice(conn, scope, matched),
    )  # fmt: skip
    findings = [*_whole(conn, row, rules), *_replaced(conn, row)]
    found = [
        replace(d, username=known.kept_login(d.username), explanation=known.kept_text(d.explanation))
        for d in drafts(matched, findings, rules, known)
    ]
    return Compared(row, matched, tuple(found), prepare(conn, row, matched.agreeing))


def _whole(conn: Connection, row: Any, rules: Rules) -> list[Finding]:
    """Signature and control totals, from what was kept at receipt."""
    found = []
    signer = signer_of(conn, row.id)
    if row.signature_refused and not signer:
        found.append(Finding(Category.SIGNATURE, row.signature_refused))
    elif rules.must_be_signed and not signer:
        text = "the agreement asks for a signed statement, and this is not signed"
        found.append(Finding(Category.SIGNATURE, text))
    header = Header(Period(row.period, row.starts_at, row.ends_at), row.currency, row.said_lines,
                    row.said_core_seconds, row.said_amount_micro)  # fmt: skip
    problems = statement_problems(conn, row.id)
    return found + check_totals(header, row.lines, row.core_seconds, row.amount_micro or 0, problems,
                                slack_micro=rules.tolerance.statement_micro)  # fmt: skip


def _replaced(conn: Connection, row: Any) -> list[Finding]:
    """Another text for a period whose breaks were all settled before: agreed is agreed."""
    for earlier in earlier_statements(conn, row):
        if is_signed_off(conn, earlier):
            text = f"statement {earlier} of this period was signed off, and this one says something else"
            return [Finding(Category.CHANGED_AFTER, text)]
    return []


def _without_taken_back(conn: Connection, statement_id: int, matched: Matched) -> list[tuple[Any, int]]:
    """Lines that bill a run twice, but for those of which both sides have settled that already."""
    if not matched.duplicates:
        return []
    taken = {b.row.line_no for b in breaks(conn, statement_id=statement_id, state=State.POSTED)
             if Cause.TWICE in b.row.causes}  # fmt: skip
    return [(line, before) for line, before in matched.duplicates if line.line_no not in taken]


def _siblings(conn: Connection, scope: Scope, matched: Matched) -> dict[tuple[str, int | None], list[Run]]:
    """All runs of the jobs that differ: a requeued job has several."""
    of_job: dict[tuple[str, int | None], list[Run]] = defaultdict(list)
    for run in same_jobs(conn, scope, [*(pair.ours for pair in matched.pairs), *matched.missing]):
        of_job[run.native_id, run.task].append(run)
    return {
        key: sorted(runs, key=lambda run: (run.started is not None, run.started or 0))
        for key, runs in of_job.items()
        if len(runs) > 1
    }


def _tagged(conn: Connection, statement_id: int, matched: Matched, known: Known) -> frozenset[int]:
    """Unknown lines whose raw text bears a tag of ours."""
    numbers = [line.line_no for line in matched.unknown]
    tagged: set[int] = set()
    for at in range(0, len(numbers) if known.tag_prefix else 0, 500):
        query = select(LINES.c.line_no, LINES.c.raw).where(
            LINES.c.statement_id == statement_id, LINES.c.line_no.in_(numbers[at : at + 500])
        )
        for line in conn.execute(query):
            if any(known.tag_prefix in str(value) for value in known.opened(line.raw).values()):
                tagged.add(line.line_no)
    return frozenset(tagged)


# ---------------------------------------------------------------- breaks


def event_row(break_id: int, seq: int, event: Event, *, act: str = "", entry_key: str = "") -> dict[str, Any]:
    """An act on a break as it is kept."""
    return {
        "break_id": break_id, "seq": seq, "act": act or event.act.value, "state": event.state.value, "by": event.by,
        "note": event.note[:1000], "resolution": event.resolution, "entry_key": entry_key, "at": event.at,
    }  # fmt: skip


def _successor(conn: Connection, row: Any) -> int | None:
    """The statement that has taken the place of this one: both sides look at that."""
    later = conn.scalars(select(STATEMENTS.c.id).where(*_of_the_same_month(row), STATEMENTS.c.id > row.id)
                         .order_by(STATEMENTS.c.id.desc())).all()  # fmt: skip
    if later and is_replaced(conn, row.id):
        return int(later[0])
    return next((int(number) for number in later if is_signed_off(conn, number)), None)


def earlier_statements(conn: Connection, row: Any) -> list[int]:
    """Statements of the same centre, month and currency that came before."""
    query = select(STATEMENTS.c.id).where(*_of_the_same_month(row), STATEMENTS.c.id < row.id)
    return [int(found) for found in conn.scalars(query)]


def _of_the_same_month(row: Any) -> Sequence[Any]:
    return (STATEMENTS.c.site_id == row.site_id, STATEMENTS.c.period == row.period,
            STATEMENTS.c.currency == row.currency)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BreakNow:
    """A break's facts with where it stands."""

    row: Any
    state: State
    since: datetime

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    def age_days(self, now: datetime) -> int:
        return int((now - self.row.opened_at).days)


def breaks(
    conn: Connection, *, statement_id: int | None = None, site_ids: Iterable[str] | None = None, period: str = "",
    ids: Sequence[int] | None = None, state: State | None = None, after: int = 0, limit: int | None = None,
) -> list[BreakNow]:  # fmt: skip
    """Breaks with their states, oldest first; those of a comparison that is not whole yet are not among them."""
    last = select(EVENTS.c.break_id, func.max(EVENTS.c.seq).label("seq")).group_by(EVENTS.c.break_id).subquery("last")
    query = (
        select(BREAKS, EVENTS.c.state, EVENTS.c.seq, EVENTS.c.at.label("since"))
        .join(last, last.c.break_id == BREAKS.c.id)
        .join(EVENTS, (EVENTS.c.break_id == last.c.break_id) & (EVENTS.c.seq == last.c.seq))
        .where(BREAKS.c.id > after, BREAKS.c.reconciliation_id.in_(select(RECONCILIATIONS.c.id)))
        .order_by(BREAKS.c.id)
    )
    if statement_id is not None:
        query = query.where(BREAKS.c.statement_id == statement_id)
    if site_ids is not None:
        query = query.where(BREAKS.c.site_id.in_(sorted(site_ids)))
    if period:
        query = query.where(BREAKS.c.period == period)
    if ids is not None:
        query = query.where(BREAKS.c.id.in_(sorted(ids)))
    if state is not None:
        query = query.where(EVENTS.c.state == state.value)
    found = conn.execute(query.limit(limit) if limit is not None else query)
    return [BreakNow(row, State(row.state), row.since) for row in found]


def history(conn: Connection, break_id: int) -> list[Event]:
    """What was done to a break, in order."""
    query = select(EVENTS).where(EVENTS.c.break_id == break_id).order_by(EVENTS.c.seq)
    found = []
    for row in conn.execute(query):
        act = Act.EXPLAIN if row.act == "open" else Act(row.act)
        found.append(Event(act, State(row.state), row.by, row.at, row.note, row.resolution))
    return found


def record_act(
    conn: Connection, break_id: int, act: Act, *, by: str, now: datetime, note: str = "", resolution: str = "",
    entry_key: str = "",
) -> Event:  # fmt: skip
    """Do one thing to a break; raises `Refused` where it may not be done, IntegrityError where somebody was first."""
    done = history(conn, break_id)
    event = act_on(done, act, by=by, at=now, note=note, resolution=resolution)
    conn.execute(insert(EVENTS), event_row(break_id, len(done) + 1, event, entry_key=entry_key))
    return event


def is_signed_off(conn: Connection, statement_id: int) -> bool:
    """Compared, and nothing of it open: what both sides have settled, not what another statement made void."""
    compared = conn.scalar(select(func.count()).where(RECONCILIATIONS.c.statement_id == statement_id))
    if not compared or is_replaced(conn, statement_id):
        return False
    return all(b.is_final for b in breaks(conn, statement_id=statement_id))


def is_replaced(conn: Connection, statement_id: int) -> bool:
    """Whether another statement of the month made differences of this one void."""
    void = select(func.count()).select_from(EVENTS.join(BREAKS, BREAKS.c.id == EVENTS.c.break_id)).where(
        BREAKS.c.statement_id == statement_id, EVENTS.c.entry_key.startswith(REPLACED, autoescape=True)
    )  # fmt: skip
    return bool(conn.scalar(void))


def reconciliations(conn: Connection, *, site_ids: Iterable[str] | None = None, period: str = "") -> list[Any]:
    """Comparisons, newest first."""
    query = select(RECONCILIATIONS).order_by(RECONCILIATIONS.c.id.desc())
    if site_ids is not None:
        query = query.where(RECONCILIATIONS.c.site_id.in_(sorted(site_ids)))
    if period:
        query = query.where(RECONCILIATIONS.c.period == period)
    return list(conn.execute(query))


def rules_of_break(conn: Connection, row: Any) -> Mapping[str, Any]:
    """The rules of the comparison that found a break."""
    query = select(RECONCILIATIONS.c.rules).where(RECONCILIATIONS.c.id == row.reconciliation_id)
    found: Mapping[str, Any] = conn.execute(query).scalar_one()
    return found


def as_metered(conn: Connection, line: Any, old: Any) -> bool:
    """Whether a line is about the cores that the scheduler gave (`old`: our reading), not about those that are billed
    of them: threads as cores, whole nodes, cores asked for."""
    if line.cores:
        return bool(line.cores == old.cores)
    billed = conn.scalar(select(CHARGES.c.core_seconds).where(CHARGES.c.usage_record_id == old.id))
    as_billed = line.core_seconds - (old.core_seconds if billed is None else billed)
    return bool(abs(line.core_seconds - old.core_seconds) <= abs(as_billed))


def line_of_break(conn: Connection, row: Any) -> Any | None:
    """The statement's line that a break is about."""
    if row.line_no is None:
        return None
    key = tuple_(LINES.c.statement_id, LINES.c.line_no)
    return conn.execute(select(LINES).where(key == (row.statement_id, row.line_no))).one_or_none()
