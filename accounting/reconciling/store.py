"""Compare a statement with the books, keep the breaks and what people do with them. Nothing here commits."""

from __future__ import annotations

import hashlib
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
    CONTRACT,
    FINAL,
    TRANSITIONS,
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
from accounting.store.schema import CHARGES, core, insert_all, upsert

RECONCILIATIONS = core(tables.ReconciliationRow)
BREAKS, EVENTS = core(tables.BreakRow), core(tables.BreakEventRow)

# Runs that ended this long before or after a period may be billed in it: they are looked at too.
MARGIN_S = 35 * 86400
_MACHINE = "engine"
_REPLACED = "replaced-by:"
_OF_THE_WHOLE = frozenset({Category.SIGNATURE, Category.CONTROL_TOTAL})


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
    for earlier in _earlier(conn, row):
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


def save_comparison(
    conn: Connection, compared: Compared, *, rules_json: Mapping[str, Any], by: str, now: datetime
) -> tuple[int, list[int]]:
    """Keep what was found: new breaks are opened (and explained), those that are there no more are gone.

    Returns the comparison's id, and the ids of new breaks that the contract lets stand, still to be posted.
    """
    row = compared.row
    made = {"statement_id": row.id, "site_id": row.site_id, "period": row.period, "rules": dict(rules_json),
            "counts": compared.counts, "by": by, "at": now}  # fmt: skip
    run_id = int(conn.execute(insert(RECONCILIATIONS).returning(RECONCILIATIONS.c.id), made).scalar_one())
    keys = {_key(row.id, draft): draft for draft in compared.drafts}
    fresh: dict[int, Draft] = {}
    items = [_break_row(run_id, row, key, draft, now) for key, draft in keys.items()]
    for at in range(0, len(items), 1000):
        opened = upsert(conn, BREAKS).on_conflict_do_nothing().returning(BREAKS.c.id, BREAKS.c.break_key)
        fresh |= {r.id: keys[r.break_key] for r in conn.execute(opened, items[at : at + 1000])}
    events = [e for break_id, draft in fresh.items() for e in _first_events(break_id, draft, now)]
    insert_all(conn, EVENTS, events)
    fresh |= _gone_and_back(conn, row.id, keys, now)
    if not _in_doubt(conn, row.id):
        _take_the_place_of_earlier(conn, row, now)
    return run_id, [break_id for break_id, draft in fresh.items() if draft.accepted]


def _key(statement_id: int, draft: Draft) -> str:
    """The same difference found again has the same key; other figures make another, as a break's facts never change.

    One of the statement as a whole is told by its words.
    """
    if draft.line_no is None and draft.usage_record_id is None:
        return f"{statement_id}:{draft.category}:{draft.explanation}"[:120]
    figures = (draft.ours_core_seconds, draft.theirs_core_seconds, draft.ours_micro, draft.theirs_micro)
    told = hashlib.sha256(repr(figures).encode()).hexdigest()[:12]
    return f"{statement_id}:{draft.category}:{draft.line_no}:{draft.usage_record_id}:{told}"


def _break_row(run_id: int, row: Any, key: str, draft: Draft, now: datetime) -> dict[str, Any]:
    return {
        "break_key": key, "reconciliation_id": run_id, "statement_id": row.id, "site_id": row.site_id,
        "period": row.period, "category": draft.category.value, "tier": draft.tier, "line_no": draft.line_no,
        "usage_record_id": draft.usage_record_id, "native_id": draft.native_id, "username": draft.username,
        "job_id": draft.job_id, "project_id": draft.project_id, "currency": row.currency,
        "ours_core_seconds": draft.ours_core_seconds, "theirs_core_seconds": draft.theirs_core_seconds,
        "ours_micro": draft.ours_micro, "theirs_micro": draft.theirs_micro,
        "causes": [cause.value for cause in draft.causes], "explanation": draft.explanation[:1000], "opened_at": now,
    }  # fmt: skip


def _first_events(break_id: int, draft: Draft, now: datetime) -> list[dict[str, Any]]:
    rows = [_event_row(break_id, 1, Event(Act.EXPLAIN, State.OPEN, _MACHINE, now), act="open")]
    if draft.certain:
        rows.append(_event_row(break_id, 2, Event(Act.EXPLAIN, State.EXPLAINED, _MACHINE, now, draft.explanation)))
    return rows


def _event_row(break_id: int, seq: int, event: Event, *, act: str = "", entry_key: str = "") -> dict[str, Any]:
    return {
        "break_id": break_id, "seq": seq, "act": act or event.act.value, "state": event.state.value, "by": event.by,
        "note": event.note[:1000], "resolution": event.resolution, "entry_key": entry_key, "at": event.at,
    }  # fmt: skip


def _gone_and_back(conn: Connection, statement_id: int, found: Mapping[str, Draft], now: datetime) -> dict[int, Draft]:
    """What is found no more is gone; what was gone and is found again is open as at first. Returns the latter."""
    back = {}
    for item in breaks(conn, statement_id=statement_id):
        break_id, draft = item.row.id, found.get(item.row.break_key)
        if draft is None and item.state in (State.OPEN, State.EXPLAINED):
            record_act(conn, break_id, Act.VANISH, by=_MACHINE, now=now, note="a later look finds it no more")
        if draft is not None and item.state is State.GONE:
            record_act(conn, break_id, Act.RETURN, by=_MACHINE, now=now, note="a later look finds it again")
            if draft.certain:
                record_act(conn, break_id, Act.EXPLAIN, by=_MACHINE, now=now, note=draft.explanation)
            back[break_id] = draft
    return back


def _in_doubt(conn: Connection, statement_id: int) -> bool:
    """Whether its signature or its totals are wrong, and nobody has settled that."""
    return any(b.row.category in _OF_THE_WHOLE and not b.is_final for b in breaks(conn, statement_id=statement_id))


def _successor(conn: Connection, row: Any) -> int | None:
    """The statement that has taken the place of this one: both sides look at that."""
    later = conn.scalars(select(STATEMENTS.c.id).where(*_of_the_same_month(row), STATEMENTS.c.id > row.id)
                         .order_by(STATEMENTS.c.id.desc())).all()  # fmt: skip
    if later and is_replaced(conn, row.id):
        return int(later[0])
    return next((int(number) for number in later if is_signed_off(conn, number)), None)


def _take_the_place_of_earlier(conn: Connection, row: Any, now: datetime) -> None:
    """A statement is of its whole month: what nobody has begun to settle of an earlier one is asked no more.

    Not by one that is in doubt itself: whoever sends an unreadable file does not make a good one void.
    """
    note = f"statement {row.id} has taken the place of this one"
    gone = Event(Act.VANISH, State.GONE, _MACHINE, now, note)
    for earlier in _earlier(conn, row):
        waiting = [b for b in breaks(conn, statement_id=earlier) if (b.state, Act.VANISH) in TRANSITIONS]
        rows = [_event_row(b.row.id, b.row.seq + 1, gone, entry_key=f"{_REPLACED}{row.id}") for b in waiting]
        insert_all(conn, EVENTS, rows)


def _earlier(conn: Connection, row: Any) -> list[int]:
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
    """Breaks with their states, oldest first."""
    last = select(EVENTS.c.break_id, func.max(EVENTS.c.seq).label("seq")).group_by(EVENTS.c.break_id).subquery("last")
    query = (
        select(BREAKS, EVENTS.c.state, EVENTS.c.seq, EVENTS.c.at.label("since"))
        .join(last, last.c.break_id == BREAKS.c.id)
        .join(EVENTS, (EVENTS.c.break_id == last.c.break_id) & (EVENTS.c.seq == last.c.seq))
        .where(BREAKS.c.id > after)
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
    conn.execute(insert(EVENTS), _event_row(break_id, len(done) + 1, event, entry_key=entry_key))
    return event


def accept_by_contract(conn: Connection, break_id: int, *, version: str, now: datetime) -> None:
    """The contract's rules let the centre's figure stand: as good as two signatures, up to its limits."""
    record_act(conn, break_id, Act.ACCEPT, by=CONTRACT, now=now, note=f"within the limits of {version}")


def is_signed_off(conn: Connection, statement_id: int) -> bool:
    """Compared, and nothing of it open: what both sides have settled, not what another statement made void."""
    compared = conn.scalar(select(func.count()).where(RECONCILIATIONS.c.statement_id == statement_id))
    if not compared or is_replaced(conn, statement_id):
        return False
    return all(b.is_final for b in breaks(conn, statement_id=statement_id))


def is_replaced(conn: Connection, statement_id: int) -> bool:
    """Whether another statement of the month made differences of this one void."""
    void = select(func.count()).select_from(EVENTS.join(BREAKS, BREAKS.c.id == EVENTS.c.break_id)).where(
        BREAKS.c.statement_id == statement_id, EVENTS.c.entry_key.startswith(_REPLACED, autoescape=True)
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
