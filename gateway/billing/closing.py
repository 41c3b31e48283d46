"""Cut a month off: what still runs is accrued as far as its time limit goes, and taken back by its final record; close
it for ever once it is billed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, or_, select

from accounting import store as books
from accounting.errors import PeriodClosed
from accounting.invoicing.unbilled import Waiting, waiting_to_be_billed
from accounting.meter import meter
from accounting.money import format_micro
from accounting.price import NoPrice, PriceBook, price
from accounting.store import accruals, contracts, periods
from accounting.store.accruals import Running, capped_seconds
from accounting.store.charges import DEFAULT_POLICY
from accounting.store.contracts import Contracts
from accounting.store.periods import Period
from accounting.store.schema import lock
from accounting.usage import GPU_SECONDS, MEMORY, NODE_SECONDS, Kind, Meter, UsageRecord
from gateway.db import table_of
from gateway.identity.tables import ProjectRow
from gateway.jobs import checks, repository
from gateway.jobs.repository import JOBS, RUNS

_PROJECTS = table_of(ProjectRow)


def begin(conn: Connection, period: Period, *, by: str, now: datetime) -> int:
    """Close the month to all but its reconciliation; how many runs were accrued."""
    periods.begin_closing(conn, period, by=by, now=now)
    prices, agreed = books.price_book(conn), contracts.contracts(conn)
    going = _going(conn, period.ends_at)
    running = [found for row in going if (found := _running(prices, agreed, row, period.ends_at)) is not None]
    return accruals.accrue(conn, running, period_end=period.ends_at, now=now)


def close(conn: Connection, period: Period, *, by: str, leave_unbilled: bool = False, now: datetime) -> str:
    """Close the month for ever; its seal. Raises `PeriodClosed` while runs of it are on no document.

    `leave_unbilled`: close it all the same; the next month's invoices take them up as corrections.
    """
    lock(conn, {f"period:{period.tenant}"})  # what is charged from now on counts in the next month
    if not leave_unbilled:
        left = waiting_to_be_billed(conn, period.ends_at)
        if left:
            raise PeriodClosed(_told(conn, left))
    return periods.close_period(conn, period, by=by, now=now)


def _told(conn: Connection, left: list[Waiting]) -> str:
    names = {r.id: r.name for r in conn.execute(select(_PROJECTS.c.id, _PROJECTS.c.name))}
    shown = [
        f"{names.get(w.project_id, w.project_id)} {_counted(w)}, {format_micro(w.amount_micro)} {w.currency}"
        for w in left[:5]
    ]
    more = f" and {len(left) - 5} more projects" if len(left) > 5 else ""
    return f"not billed yet: {'; '.join(shown)}{more}. Bill the month first, or close it with leave_unbilled"


def _counted(w: Waiting) -> str:
    beside = [f"{n} {what}" for n, what in ((w.orders, "prices of orders"), (w.adjustments, "adjustments")) if n]
    return " and ".join([f"{w.runs} runs", *beside] if w.runs or not beside else beside)


def _going(conn: Connection, at: datetime) -> list[Any]:
    """Runs that had begun and not ended by then."""
    query = (
        select(RUNS, JOBS.c.project_id, JOBS.c.tag, JOBS.c.queue, JOBS.c.spec, JOBS.c.cores_charged,
               JOBS.c.duration_max, _PROJECTS.c.currency)
        .join(JOBS, JOBS.c.id == RUNS.c.job_id)
        .join(_PROJECTS, _PROJECTS.c.id == JOBS.c.project_id)
        .where(RUNS.c.start_time < at, or_(RUNS.c.end_time.is_(None), RUNS.c.end_time >= at))
    )  # fmt: skip
    return list(conn.execute(query))


def _running(prices: PriceBook, agreed: Contracts, row: Any, at: datetime) -> Running | None:
    """What a run has cost by then, priced as its record will be: cut wherever a price changes, accelerators and units
    (shots, licences) with it; threads as cores where the agreement says so."""
    seconds = capped_seconds(row.start_time, at, limit_s=row.duration_max)
    spec = repository.spec_from_json(row.spec)
    held = checks.held_beside_cores(spec, None, seconds=seconds)
    until, cores = row.start_time + timedelta(seconds=seconds), row.cores or row.cores_charged
    key, task = f"{row.tag}.{row.attempt}:{row.task}:{row.restart}", None if row.task < 0 else row.task
    so_far = UsageRecord(
        site_id=row.site_id, run_key=key, meter=Meter.GATEWAY, kind=Kind.RUN, native_id=row.native_id, task=task,
        state="RUNNING", username="", queue=row.queue, cores=cores, nodes=0, elapsed_s=seconds,
        core_seconds=cores * seconds, node_seconds=held.get(NODE_SECONDS, 0), gpu_seconds=held.get(GPU_SECONDS, 0),
        memory_mib_seconds=held.get(MEMORY, 0), start_time=row.start_time, end_time=until,
        cpus=row.cores, units=dict(spec.resources.units),  # those asked for: they are taken when it begins
    )  # fmt: skip
    agreement = agreed.agreement(row.site_id, until)
    where = agreed.where(
        agreement, agreed.terms(row.project_id, until), site_id=row.site_id, queue=row.queue,
        qos=spec.attributes.qos or "", currency=row.currency, grade=spec.attributes.service_grade or "",
    )  # fmt: skip
    metered = meter(so_far, DEFAULT_POLICY if agreement is None else agreement.metering)
    try:
        charge = price(so_far, metered, prices, where)
    except NoPrice:
        return None
    if charge.core_seconds == 0 and charge.amount_micro == 0:
        return None
    return Running(row.site_id, key, row.job_id, task, row.project_id, row.currency, charge.amount_micro,
                   charge.core_seconds)  # fmt: skip
