"""Read the books: what a job costs and why, and what stood on any account at any time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, case, func, select

from accounting import tables
from accounting.ledger import DIFFERENCES, difference_key
from accounting.money import format_micro
from accounting.store.schema import ACCOUNTS, CHARGES, DISCOUNTS, ENTRIES, POSTINGS, REVERSALS, USAGE, core

BREAKS = core(tables.BreakRow)


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """One live charge of a job, with its reading and its arithmetic.

    A segment is as `price.segment_json` made it, with the `reason` of its discount (None where it has none).
    """

    charge_id: int
    usage_record_id: int
    meter: str
    task: int | None
    start_time: datetime | None
    end_time: datetime | None
    cores: int
    core_seconds: int
    amount_micro: int
    currency: str
    rule: str
    segments: tuple[Mapping[str, Any], ...]
    overage: bool


def charges_of_job(conn: Connection, job_id: str) -> list[ChargeLine]:
    """What a job costs as the books stand now, run by run."""
    query = (
        select(CHARGES, USAGE.c.task, USAGE.c.start_time, USAGE.c.end_time, USAGE.c.cores)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(CHARGES.c.job_id == job_id, REVERSALS.c.charge_id.is_(None))
        .order_by(USAGE.c.task, USAGE.c.start_time)
    )
    rows = conn.execute(query).all()
    why = _reasons(conn, [s for r in rows for s in r.segments])
    return [
        ChargeLine(r.id, r.usage_record_id, r.meter, r.task, r.start_time, r.end_time, r.cores, r.core_seconds,
                   r.amount_micro, r.currency, r.rule,
                   tuple({**s, "reason": why.get(s.get("discount"))} for s in r.segments), r.overage)
        for r in rows
    ]  # fmt: skip


def tasks_told_since(conn: Connection, job_id: str, since: datetime) -> set[int | None]:
    """The tasks (None: not an array) of whose runs the centre gave a record since then; not what it requeued before."""
    query = select(USAGE.c.task).where(
        USAGE.c.job_id == job_id, USAGE.c.meter == "centre", USAGE.c.recorded_at >= since, USAGE.c.state != "REQUEUED"
    )
    return set(conn.scalars(query))


def _reasons(conn: Connection, segments: Sequence[Mapping[str, Any]]) -> dict[int | None, str]:
    """Why each discount on these segments holds, by its number."""
    numbers = {s["discount"] for s in segments if s.get("discount") is not None}
    rows = conn.execute(select(DISCOUNTS.c.id, DISCOUNTS.c.reason).where(DISCOUNTS.c.id.in_(numbers)))
    return {row.id: row.reason for row in rows}


def charge_page(
    conn: Connection, project_id: str, *, limit: int, before: int | None = None, user_id: str | None = None
) -> list[Any]:
    """A project's charges (or one person's of them) with their readings, newest first, the replaced ones too."""
    query = (
        select(CHARGES, USAGE.c.site_id, USAGE.c.start_time, USAGE.c.end_time,
               REVERSALS.c.by_usage_record_id.label("replaced_by"))
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(CHARGES.c.project_id == project_id)
        .order_by(CHARGES.c.id.desc())
        .limit(limit)
    )  # fmt: skip
    if user_id is not None:
        query = query.where(USAGE.c.user_id == user_id)
    return list(conn.execute(query if before is None else query.where(CHARGES.c.id < before)))


@dataclass(frozen=True, slots=True)
class Explained:
    """A charge down to the raw record: what was read, what rule made it billable, each price and its arithmetic."""

    charge: Any
    reading: Any
    steps: tuple[str, ...]
    replaced_by: int | None  # the charge that took its place


def explain(conn: Connection, charge_id: int) -> Explained | None:
    """Why a charge is what it is; None where there is none of this id."""
    charge = conn.execute(select(CHARGES).where(CHARGES.c.id == charge_id)).one_or_none()
    if charge is None:
        return None
    reading = conn.execute(select(USAGE).where(USAGE.c.id == charge.usage_record_id)).one()
    replaced = conn.scalar(
        select(CHARGES.c.id).join(REVERSALS, REVERSALS.c.by_usage_record_id == CHARGES.c.usage_record_id)
        .where(REVERSALS.c.charge_id == charge_id)
    )  # fmt: skip
    why = _reasons(conn, charge.segments)
    priced = sum(s["amount_micro"] for s in charge.segments)

    def money(micro: int) -> str:
        return f"{format_micro(micro)} {charge.currency}"

    steps = [
        f"the {reading.meter}'s meter read run {reading.run_key} at {reading.site_id}, revision {reading.revision}: "
        f"{reading.state}, {reading.cores} cores, {reading.elapsed_s} s, suspended {reading.suspended_s} s",
        f"policy {charge.policy_version}: {charge.rule}",
        *(
            [f"service grade {charge.grade}: {'ordered with the job' if reading.ordered_grade else 'of its queue'}"]
            if charge.grade
            else []
        ),
        *(_arithmetic(s, charge.currency, why.get(s.get("discount"), "")) for s in charge.segments),
        *_drawn(conn, charge.segments),
        f"together {money(priced)}",
    ]
    if charge.gross_micro != priced:
        steps.append(
            f"{money(charge.gross_micro - priced)} was given off the list price, and the operator bears it: "
            f"the centre's share is of {money(charge.gross_micro)}"
        )
    if charge.amount_micro != priced:
        steps.append(
            f"{charge.reason}: the project owes {money(charge.amount_micro)}, the operator bears "
            f"{money(charge.borne_micro)}, the centre is not paid "
            f"{money(charge.gross_micro - charge.amount_micro - charge.borne_micro)}"
        )
    steps += [f"{payer} pays {money(part)} of it" for payer, part in (charge.payers or {}).items()]
    if charge.agreement_id is not None:
        steps.append(
            f"agreement {charge.agreement_id}/{charge.agreement_version}: "
            f"centre {money(charge.centre_micro)}, tax {money(charge.tax_micro)}, operator "
            f"{money(charge.amount_micro + charge.borne_micro - charge.centre_micro - charge.tax_micro)}"
        )
    steps += _differences(conn, charge)
    if replaced is not None:
        steps.append(f"charge {replaced} has taken its place")
    return Explained(charge, reading, tuple(steps), replaced)


def _differences(conn: Connection, charge: Any) -> Iterator[str]:
    """What was agreed with the centre about a charge after it: money alone, which no payer is billed."""
    of = func.sum(case((ACCOUNTS.c.code == DIFFERENCES, POSTINGS.c.amount), else_=0))
    shared = func.sum(case((ACCOUNTS.c.code.startswith("centre:"), -POSTINGS.c.amount), else_=0))
    about = select(BREAKS.c.id).where(BREAKS.c.usage_record_id == charge.usage_record_id)
    query = (
        select(ENTRIES.c.id, ENTRIES.c.idem_key, of.label("net"), shared.label("centre"))
        .join(POSTINGS, POSTINGS.c.entry_id == ENTRIES.c.id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ENTRIES.c.idem_key.in_([difference_key(number) for number in conn.scalars(about)]))
        .group_by(ENTRIES.c.id, ENTRIES.c.idem_key)
        .order_by(ENTRIES.c.id)
    )
    for row in conn.execute(query):
        net, centre = (f"{format_micro(int(micro))} {charge.currency}" for micro in (row.net, row.centre))
        rest = f"{format_micro(int(row.net) - int(row.centre))} {charge.currency}"
        number = row.idem_key.partition(":")[2]
        yield f"break {number} was agreed with the centre: {net} net, divided alike: centre {centre}, operator {rest}"


def _drawn(conn: Connection, segments: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the run was drawn from what orders gave."""
    numbers = {s["discount"] for s in segments if s.get("discount") is not None}
    of = {
        r.id: r.draws
        for r in conn.execute(select(DISCOUNTS.c.id, DISCOUNTS.c.draws).where(DISCOUNTS.c.id.in_(numbers)))
    }
    taken: dict[str, int] = {}
    for s in segments:
        if (draws := of.get(s.get("discount"))) is not None:
            taken[draws] = taken.get(draws, 0) + int(s["quantity"])
    return [f"drawn from what was bought: {quantity} {commodity}" for commodity, quantity in taken.items()]


def _arithmetic(s: Mapping[str, Any], currency: str, reason: str) -> str:
    """One segment in a line, with the units that people count in."""
    unit, amount = s["resource"].replace("_", "-"), f"{format_micro(s['amount_micro'])} {currency}"
    per = f"per {unit.removesuffix('-seconds')}-hour" if s["per"] == 3600 else f"for {s['per']} {unit}"
    price = f"rule {s['rule']}: {format_micro(s['price_micro'])} {currency} {per}"
    if s.get("discount") is not None:
        price += f" × {s['numerator']}/{s['denominator']} ({reason or 'discount'})"
    if s["resource"] == "minimum":
        return f"{price}: the least a run costs, {amount} more"
    at_list = ""
    if listed := s.get("list"):
        per = f"per {unit.removesuffix('-seconds')}-hour" if listed["per"] == 3600 else f"for {listed['per']} {unit}"
        of_rule = f"rule {listed['rule']}: {format_micro(listed['price_micro'])} {currency} {per}"
        tiers = " and its tiers" if listed.get("tier_key") else ""
        at_list = f"; at the list price ({of_rule}{tiers}) {format_micro(listed['amount_micro'])} {currency}"
    where = f"{_clock(s['start'])} to {_clock(s['end'])}"
    if s.get("tier_key"):
        return (
            f"{where}: {s['quantity']} {unit} on top of {s['count_before']} in the month, "
            f"{price} and its tiers: the month rises by {amount}{at_list}"
        )
    return f"{where}: {s['quantity']} {unit} × {price} = {amount}{at_list}"


def _clock(stamp: str) -> str:
    return f"{datetime.fromisoformat(stamp).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def balances(
    conn: Connection, *, known_at: datetime | None = None, effective_before: datetime | None = None, code: str = ""
) -> dict[tuple[str, str], int]:
    """What stands on each account (whose code begins with `code`), by (code, commodity).

    `known_at`: as the books knew it then; `effective_before`: of what counts before a moment. Both together answer
    "what did we know on 31 October about September".
    """
    query = (
        select(ACCOUNTS.c.code, ACCOUNTS.c.commodity, func.sum(POSTINGS.c.amount))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .group_by(ACCOUNTS.c.code, ACCOUNTS.c.commodity)
        .order_by(ACCOUNTS.c.code, ACCOUNTS.c.commodity)
    )
    if known_at is not None:
        query = query.where(ENTRIES.c.recorded_at <= known_at)
    if effective_before is not None:
        query = query.where(ENTRIES.c.effective_at < effective_before)
    if code:
        query = query.where(ACCOUNTS.c.code.startswith(code, autoescape=True))
    return {(r[0], r[1]): int(r[2]) for r in conn.execute(query)}


def core_seconds_at(conn: Connection, site_id: str) -> int:
    """What our jobs have used at a site in all its time, by the latest readings of whichever meter says more."""
    later = USAGE.alias("later")
    replaced = select(later.c.id).where(
        later.c.site_id == site_id, later.c.run_key == USAGE.c.run_key, later.c.meter == USAGE.c.meter,
        later.c.revision > USAGE.c.revision,
    )  # fmt: skip
    query = (
        select(USAGE.c.meter, func.sum(USAGE.c.core_seconds))
        .where(USAGE.c.site_id == site_id, USAGE.c.job_id.is_not(None), ~replaced.exists())
        .group_by(USAGE.c.meter)
    )
    return max((int(used) for _, used in conn.execute(query)), default=0)
