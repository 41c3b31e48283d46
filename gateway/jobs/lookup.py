"""Answers that were lost: look by tag, adopt what is there, and let the fence decide what is not (DESIGN law 1).

Before any second try the gateway takes the old attempt's fence itself. Success proves that the old copy can never run;
failure names the run that owns it, which is adopted. Where no fence can stand, a person decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, select

from gateway.ids import new_id
from gateway.jobs import repository, service
from gateway.jobs.lifecycle import Event, Phase, State
from gateway.jobs.repository import ATTEMPTS, JOBS
from gateway.services import Lease, Services
from site_adapters.errors import SiteError, Unsupported
from site_adapters.interfaces import SiteAdapter
from site_adapters.states import Reason
from site_adapters.types import FenceOutcome, FenceOwned, FenceTaken, ObservedRun, SiteAccount, Unfenced

log = structlog.get_logger()

_BATCH = 200
# The site's clock may differ from ours: how much earlier than our intent its records may begin.
_CLOCK_SLACK = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Lost:
    """One attempt whose answer was lost."""

    job_id: str
    attempt: int
    tag: str
    wish: str
    account: SiteAccount
    intent_at: datetime
    good_looks: int

    @property
    def fence_name(self) -> str:
        return f"{self.tag}.{self.attempt}"


def resolve(services: Services, lease: Lease, now: datetime) -> None:
    """Look up every due unknown submission of this site, all in one question."""
    adapter = services.sites[lease.site_id]
    due = _due(services, lease.site_id, now)
    if not due:
        return
    oldest = min(lost.intent_at for lost in due)
    accounts = list({lost.account.username: lost.account for lost in due}.values())
    try:
        look = adapter.management.find([lost.fence_name for lost in due], accounts=accounts,
                                       since=oldest - _CLOCK_SLACK)  # fmt: skip
    except SiteError as exc:
        log.warning("lookup_failed", site=lease.site_id, error=str(exc))
        return
    found = _by_fence_name(look.runs, due)
    absent = [lost for lost in due if lost.fence_name not in found] if look.good else []
    fences = take(adapter, absent)
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        for lost in due:
            if lost.fence_name in found:
                _adopt(conn, lease.site_id, lost, found[lost.fence_name], now)
            elif look.good:
                _settle(services, conn, lease.site_id, lost, fences[lost.fence_name], now)
            else:
                repository.update_attempt(conn, lost.job_id, lost.attempt, looked_at=now, message=look.error or "")


def take(adapter: SiteAdapter, absent: Sequence[Lost]) -> dict[str, FenceOutcome | SiteError]:
    """Try to own the fences of attempts that left no trace, one round trip for each account."""
    outcomes: dict[str, FenceOutcome | SiteError] = {}
    by_user: dict[str, list[Lost]] = {}
    for lost in absent:
        by_user.setdefault(lost.account.username, []).append(lost)
    for group in by_user.values():
        names = [lost.fence_name for lost in group]
        try:
            taken: Sequence[FenceOutcome] = adapter.management.take_fences(group[0].account, names)
            outcomes |= dict(zip(names, taken, strict=True))
        except SiteError as exc:
            outcomes |= dict.fromkeys(names, exc)
    return outcomes


def _due(services: Services, site_id: str, now: datetime) -> list[Lost]:
    """Unknown attempts whose last look is long enough ago; the wait doubles with each look, up to a minute."""
    query = (
        select(JOBS.c.id, JOBS.c.attempt, JOBS.c.tag, JOBS.c.wish, JOBS.c.site_account_id, ATTEMPTS.c.intent_at,
               ATTEMPTS.c.good_looks, ATTEMPTS.c.looked_at)
        .join(ATTEMPTS, (ATTEMPTS.c.job_id == JOBS.c.id) & (ATTEMPTS.c.attempt == JOBS.c.attempt))
        .where(JOBS.c.site_id == site_id, JOBS.c.phase == Phase.LOOKUP.value)
        .order_by(JOBS.c.id)
    )  # fmt: skip
    first = services.settings.unknown_wait_s
    with services.db.read() as conn:
        rows = []
        for row in conn.execute(query):
            wait = timedelta(seconds=min(60.0, first * 2 ** min(row.good_looks, 10)))
            if now >= (row.looked_at or row.intent_at) + (wait if row.looked_at else timedelta(seconds=first)):
                rows.append(row)
        rows = rows[:_BATCH]
        accounts = repository.site_accounts(conn, {r.site_account_id for r in rows})
    return [Lost(r.id, r.attempt, r.tag, r.wish, accounts[r.site_account_id], r.intent_at, r.good_looks) for r in rows]


def _by_fence_name(runs: Sequence[ObservedRun], due: Sequence[Lost]) -> dict[str, list[ObservedRun]]:
    """What was found for each attempt; a row of another login bears our tag only by a copied script."""
    users = {lost.fence_name: lost.account.username for lost in due}
    found: dict[str, list[ObservedRun]] = {}
    for run in runs:
        for tag in run.tags_seen:
            if tag in users and (not run.username or run.username == users[tag]):
                found.setdefault(tag, []).append(run)
    return found


def _adopt(conn: Connection, site_id: str, lost: Lost, runs: Sequence[ObservedRun], now: datetime) -> None:
    """The site has it: it is ours under that id. Several ids: the earliest; the fence lets only one of them run."""
    first = min(runs, key=lambda r: (r.submit_time or now, r.native_id))
    others = sorted({r.native_id for r in runs} - {first.native_id})
    adopt(conn, lost.job_id, lost.attempt, first.native_id, first.cluster, first.submit_time, now,
          expected=Phase.LOOKUP, how="tag")  # fmt: skip
    if others:
        repository.open_break(conn, break_id=new_id("b", now), job_id=lost.job_id, site_id=site_id, kind="duplicate",
                              detail={"adopted": first.native_id, "others": others}, now=now)  # fmt: skip


def adopt(
    conn: Connection,
    job_id: str,
    attempt: int,
    native_id: str,
    cluster: str,
    submit_time: datetime | None,
    now: datetime,
    *,
    expected: Phase,
    how: str,
) -> bool:
    """Bind a job to the native id it was found under."""
    moved = repository.move(
        conn, job_id, Event.ADOPTED, now=now, expected=expected, at_attempt=attempt,
        payload={"native_id": native_id, "cluster": cluster, "found_by": how}, native_id=native_id, cluster=cluster,
        native_submit_time=submit_time, restarts=0, submitted_at=now, missing_looks=0, observed_digest="", message="",
    )  # fmt: skip
    if moved:
        repository.update_attempt(conn, job_id, attempt, outcome="accepted", native_id=native_id, cluster=cluster,
                                  native_submit_time=submit_time, decided_at=now)  # fmt: skip
    return moved


def _settle(
    services: Services,
    conn: Connection,
    site_id: str,
    lost: Lost,
    fence: FenceOutcome | SiteError,
    now: datetime,
) -> None:
    """Nothing found in a good look: the fence says what follows."""
    looks = lost.good_looks + 1
    repository.update_attempt(conn, lost.job_id, lost.attempt, good_looks=looks, looked_at=now)
    match fence:
        case FenceTaken():
            fence_off(conn, lost.job_id, lost.attempt, now, expected=Phase.LOOKUP)
        case FenceOwned(owner=owner):
            cluster, _, native_id = owner.rpartition(":")
            adopt(conn, lost.job_id, lost.attempt, native_id, cluster, None, now, expected=Phase.LOOKUP, how="fence")
        case Unsupported() | Unfenced() if looks >= services.settings.good_looks:
            message = "The site has no fence and shows no trace: it may or may not run."
            ask_a_person(conn, lost.job_id, site_id, message, now, expected=Phase.LOOKUP)
        case Unsupported() | Unfenced():
            pass  # looked at again: only repeated good looks make it a person's matter
        case _:
            log.warning("fence_not_reached", site=site_id, job=lost.job_id, error=str(fence))


def fence_off(conn: Connection, job_id: str, attempt: int, now: datetime, *, expected: Phase) -> None:
    """The old attempt can never run: back into the line for the next one, or ended where a cancel is wished."""
    before = repository.lock_job(conn, job_id)
    message = "The site has no trace of it; its fence is ours, so that copy can never run."
    moved = repository.move(
        conn, job_id, Event.FENCED_OFF, now=now, expected=expected, at_attempt=attempt, payload={"message": message},
        native_id=None, native_submit_time=None, observed_digest="", missing_looks=0, message=message,
    )  # fmt: skip
    if not moved:
        return
    repository.update_attempt(conn, job_id, attempt, outcome="fenced", message=message, decided_at=now)
    if before is not None and before.wish == "" and (before.state, before.reason) == (State.HELD, Reason.HELD_BY_USER):
        repository.set_columns(conn, job_id, wish="hold")  # the site had carried it out, and has forgotten it
    service.back_in_line(conn, job_id, now)


def ask_a_person(conn: Connection, job_id: str, site_id: str, message: str, now: datetime, *, expected: Phase) -> None:
    """Neither presence nor absence can be proved: only a person may say what happens next."""
    payload: Mapping[str, Any] = {"message": message}
    if repository.move(conn, job_id, Event.UNPROVABLE, now=now, expected=expected, payload=payload, message=message):
        repository.open_break(conn, break_id=new_id("b", now), job_id=job_id, site_id=site_id, kind="needs_decision",
                              detail=payload, now=now)  # fmt: skip
