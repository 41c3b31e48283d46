"""What people gave back of runs, and how much of it records gave back too. Nothing here writes.

A person gives back by a credit note of a line or an adjustment that names a charge; a changed record gives back by
itself (charges.py). A line costs at last the least that either says of it (overlaps.py), and nothing is given back by
hand that is not charged any more (`left_of_line`, `left_of_charge`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from accounting import tables
from accounting.errors import AccountingError
from accounting.minor_units import to_micro
from accounting.store.credited_runs import named_by
from accounting.store.run_history import RunHistory, histories
from accounting.store.schema import ADJUSTMENTS, CHARGES, DECISIONS, OVERLAPS, REVERSALS, among, core
from accounting.store.settled import DOCUMENTS

ITEMS = core(tables.BillingItemRow)
Line = tuple[str, str, str, datetime]  # document, site, person, start of the service


@dataclass(frozen=True, slots=True)
class Given:
    """What a person gave back, in positive micro-units. `part`: of which payer's part of a run; None: of the whole.

    `net_micro` is what of it is no tax. `line`: of a document (a credit note); None: by an adjustment. `named`: the
    credit note names the runs of the line that it is about.
    """

    source: str
    entry_id: int
    amount: int
    part: str | None
    payer_id: str = ""
    net_micro: int = 0
    line: Line | None = None
    service_end: datetime | None = None
    named: bool = False


def projects_with_credits(conn: Connection, project_ids: Collection[str]) -> set[str]:
    """Those of whose runs a person may have given something back: a cheap question before the others."""
    named = select(ADJUSTMENTS.c.project_id).where(ADJUSTMENTS.c.charge_id.is_not(None))
    noted = select(DOCUMENTS.c.project_id).where(DOCUMENTS.c.corrects.is_not(None))
    found: set[str] = set()
    for query, column in ((named, ADJUSTMENTS.c.project_id), (noted, DOCUMENTS.c.project_id)):
        found.update(conn.scalars(query.where(among(conn, column, project_ids)).distinct()))
    return found


def given(conn: Connection, runs: Sequence[RunHistory]) -> list[list[Given]]:
    """What was given back of each of these runs (of its line, with others), in the order of booking."""
    notes, adjusted = _credit_notes(conn, runs), _adjusted(conn, runs)
    found = []
    for run in runs:
        mine = {g.source: g for charge_id in run.ids for g in notes.get(charge_id, ())}
        by_hand = _standing(sorted((a for c in run.ids for a in adjusted.get(c, ())), key=lambda g: g.entry_id))
        found.append(sorted([*mine.values(), *by_hand], key=lambda g: g.entry_id))
    return found


def _credit_notes(conn: Connection, runs: Sequence[RunHistory]) -> dict[int, list[Given]]:
    """By charge: the lines of credit notes about lines of documents on which it is, but for those that name others."""
    ids = {charge_id for run in runs for charge_id in run.ids}
    query = select(ITEMS).where(ITEMS.c.kind == "charge", among(conn, ITEMS.c.charge_id, ids))
    on: dict[Line, list[Any]] = defaultdict(list)
    for item in conn.execute(query):
        on[item.document, item.site_id, item.user_id, item.service_start].append(item)
    found: dict[int, list[Given]] = defaultdict(list)
    noted = select(DOCUMENTS.c.corrects, DOCUMENTS.c.entry_id, DOCUMENTS.c.payer_id, DOCUMENTS.c.snapshot)
    notes = conn.execute(noted.where(among(conn, DOCUMENTS.c.corrects, {line[0] for line in on}))).all()
    lines = [(note, said, line) for note in notes for said in [json.loads(note.snapshot)] for line in said["lines"]]
    named = named_by(conn, {_source(said, line) for _, said, line in lines})
    for note, said, line in lines:
        source, about = _source(said, line), _about(note.corrects, line)
        for item in on.get(about, ()) if not line.get("ordered") else ():
            if source not in named or item.charge_id in named[source]:
                found[item.charge_id].append(Given(
                    source, note.entry_id, -int(line["amount_micro"]), item.part,
                    note.payer_id, -to_micro(int(line["net_minor"]), said["currency"]), about,
                    datetime.fromisoformat(line["service_end"]), source in named,
                ))  # fmt: skip
    return found


def _source(said: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    """What a line of a credit note is called."""
    return f"{said['number']}:{line['number']}"


def _about(document: str, line: Mapping[str, Any]) -> Line:
    return document, line["site_id"], line["user_id"], datetime.fromisoformat(line["service_start"])


def _adjusted(conn: Connection, runs: Sequence[RunHistory]) -> dict[int, list[Given]]:
    """By charge: adjustments that name it (with a minus where it costs more by one), but for those of the books'."""
    ids = {charge_id for run in runs for charge_id in run.ids}
    query = (
        select(ADJUSTMENTS.c.id, ADJUSTMENTS.c.charge_id, ADJUSTMENTS.c.amount_micro, DECISIONS.c.entry_id)
        .join(DECISIONS, DECISIONS.c.adjustment_id == ADJUSTMENTS.c.id)
        .where(ADJUSTMENTS.c.kind == "adjustment", DECISIONS.c.entry_id.is_not(None),
               among(conn, ADJUSTMENTS.c.charge_id, ids), ADJUSTMENTS.c.id.not_in(select(OVERLAPS.c.adjustment_id)))
    )  # fmt: skip
    found: dict[int, list[Given]] = defaultdict(list)
    for row in conn.execute(query):
        found[row.charge_id].append(Given(row.id, row.entry_id, -int(row.amount_micro), None))
    return found


def _standing(by_hand: Sequence[Given]) -> list[Given]:
    """Adjustments downwards, less what later ones took back, the newest first."""
    left: list[Given] = []
    for item in by_hand:
        back = -item.amount
        while back > 0 and left:
            last = left.pop()
            if last.amount > back:
                left.append(replace(last, amount=last.amount - back))
            back -= last.amount
        if item.amount > 0:
            left.append(item)
    return left


def met(conn: Connection, sources: Collection[str]) -> Mapping[tuple[str, str, str], int]:
    """What of each source records gave back too, so far: by (source, site, run)."""
    query = (
        select(OVERLAPS.c.source, OVERLAPS.c.site_id, OVERLAPS.c.run_key, func.sum(OVERLAPS.c.amount_micro))
        .where(among(conn, OVERLAPS.c.source, sources))
        .group_by(OVERLAPS.c.source, OVERLAPS.c.site_id, OVERLAPS.c.run_key)
    )
    return {(source, site, key): int(amount) for source, site, key, amount in conn.execute(query)}


# ---------------------------------------------------------------- what is left to give back


def back_by_other_ways(conn: Connection, line: Line) -> int:
    """Micro-units of a document's line that were given back of its runs otherwise than by its credit notes: by changed
    records, on a later document or on none yet, and by adjustments that name a charge."""
    of_line = _of_line(line)
    jobs = select(CHARGES.c.job_id).join(ITEMS, ITEMS.c.charge_id == CHARGES.c.id).where(*of_line).distinct()
    changed = jobs.join(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
    named = select(ADJUSTMENTS.c.charge_id).where(ADJUSTMENTS.c.charge_id.is_not(None))
    adjusted = jobs.where(CHARGES.c.job_id.in_(select(CHARGES.c.job_id).where(CHARGES.c.id.in_(named))))
    suspects = {*conn.scalars(changed), *conn.scalars(adjusted)}
    if not suspects:
        return 0
    items = {row.charge_id: row for row in conn.execute(select(ITEMS).where(*of_line))}
    runs = [run for run in histories(conn, suspects) if run.ids & items.keys()]
    return max(0, sum(back for _, back in _backs(conn, runs, items)))


def _backs(conn: Connection, runs: Sequence[RunHistory], items: Mapping[int, Any]) -> Iterator[tuple[int, int]]:
    """Of each run: what was billed of it by these items, and what of that records and adjustments gave back."""
    adjusted_of = _adjusted(conn, runs)
    for run in runs:
        mine = [items[charge_id] for charge_id in sorted(run.ids & items.keys())]
        billed, part = sum(int(item.amount_micro) for item in mine), mine[0].part
        whole = sum(c.part(None) for c in run.charges if c.charge_id in items)
        by_hand = sum(g.amount for g in _standing(_in_order(adjusted_of, run)))
        # Of a run whose payers share it, an adjustment is theirs as the run is.
        by_hand = by_hand * billed // whole if part and whole else by_hand
        yield billed, max(0, billed - run.newest.part(part)) + by_hand - _charged_again(conn, run, part)


def left_of_runs(conn: Connection, line: Line, charge_ids: Collection[int]) -> int:
    """Micro-units of these runs on a line that were not given back: by records, by adjustments, or by credit notes that
    name none but them. Raises `AccountingError` where one of them is not on the line."""
    items = {
        item.charge_id: item
        for item in conn.execute(select(ITEMS).where(*_of_line(line), among(conn, ITEMS.c.charge_id, charge_ids)))
    }
    if missing := sorted(set(charge_ids) - items.keys()):
        raise AccountingError(f"charge {missing[0]} is not on this line of {line[0]}")
    jobs = conn.scalars(select(CHARGES.c.job_id).where(among(conn, CHARGES.c.id, charge_ids)))
    runs = [run for run in histories(conn, set(jobs)) if run.ids & items.keys()]
    ids = {charge_id for run in runs for charge_id in run.ids}
    left = sum(billed - back for billed, back in _backs(conn, runs, items))
    notes = {g.source: g for some in _credit_notes(conn, runs).values() for g in some if g.named and g.line == line}
    named = named_by(conn, notes)
    return max(0, left - sum(g.amount for source, g in notes.items() if named[source] <= ids))


def _of_line(line: Line) -> tuple[ColumnElement[bool], ...]:
    return (ITEMS.c.document == line[0], ITEMS.c.site_id == line[1], ITEMS.c.user_id == line[2],
            ITEMS.c.service_start == line[3], ITEMS.c.kind == "charge")  # fmt: skip


def left_of_charge(conn: Connection, charge_id: int) -> int:
    """What a run still costs of which an adjustment may give back: what it costs now less what it has given back, and
    no more than what is left of the lines on which it is."""
    job_id = conn.scalar(select(CHARGES.c.job_id).where(CHARGES.c.id == charge_id))
    run = next(run for run in histories(conn, {str(job_id)}) if charge_id in run.ids)
    left = run.newest.part(None) + _charged_again(conn, run, None)
    left -= sum(g.amount for g in _standing(_in_order(_adjusted(conn, [run]), run)))
    items = select(ITEMS).where(ITEMS.c.kind == "charge", among(conn, ITEMS.c.charge_id, run.ids))
    lines = {(item.document, item.site_id, item.user_id, item.service_start) for item in conn.execute(items)}
    if not lines:
        return left
    notes = {g.source: g for some in _credit_notes(conn, [run]).values() for g in some}
    noted = {(g.line, g.source): g.amount for g in notes.values()}
    named = named_by(conn, notes)
    left -= sum(notes[source].amount for source, ids in named.items() if ids <= run.ids)
    of_lines = 0
    for line in lines:
        credits = sum(amount for (about, _), amount in noted.items() if about == line)
        of_lines += max(0, _billed(conn, line) - credits - back_by_other_ways(conn, line))
    return min(left, of_lines)


def _billed(conn: Connection, line: Line) -> int:
    """What the runs on a line come to, less those that it took back."""
    query = select(func.coalesce(func.sum(ITEMS.c.amount_micro), 0)).where(
        ITEMS.c.document == line[0], ITEMS.c.site_id == line[1], ITEMS.c.user_id == line[2],
        ITEMS.c.service_start == line[3],
    )  # fmt: skip
    return int(conn.scalar(query) or 0)


def _in_order(adjusted: Mapping[int, Sequence[Given]], run: RunHistory) -> list[Given]:
    return sorted((g for charge_id in run.ids for g in adjusted.get(charge_id, ())), key=lambda g: g.entry_id)


def _charged_again(conn: Connection, run: RunHistory, part: str | None) -> int:
    """What the books charged again of a run, since it had been given back twice."""
    newest = run.newest
    query = select(func.coalesce(func.sum(OVERLAPS.c.amount_micro), 0)).where(
        OVERLAPS.c.site_id == newest.site_id, OVERLAPS.c.run_key == newest.run_key
    )
    return int(conn.scalar(query if part is None else query.where(OVERLAPS.c.part.in_(("", part)))) or 0)
