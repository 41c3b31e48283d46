"""Why a job is where it is, in words: a sentence, the evidence, and what a person can do."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from gateway.db import table_of
from gateway.jobs import share
from gateway.jobs.lifecycle import FINAL, Phase
from gateway.jobs.line import share_over
from gateway.jobs.maintenance import in_the_way, planned
from gateway.jobs.repository import JOBS, SITES, count_by_person, spec_from_json, submits_since
from gateway.jobs.sentence import Sentence
from gateway.jobs.tables import DependencyRow
from gateway.pace import calls_left
from gateway.services import Services
from site_adapters.policy import Policy, open_at
from site_adapters.registry import why_waiting
from site_adapters.states import Reason
from site_adapters.weight import nodes_at_most


@dataclass(frozen=True, slots=True)
class Why:
    """`evidence` is what was seen, in the site's own words where there are some."""

    sentence: str
    reason: str
    native_reason: str
    evidence: str
    action: str
    as_of: datetime | None


def why(services: Services, conn: Connection, job: Any, now: datetime) -> Why:
    """Explain a job's state; `job` is its row."""
    if job.state in FINAL:
        return _ended(job)
    tell: dict[str, Callable[[], Why]] = {
        Phase.WAITING.value: lambda: _in_line(services, conn, job, now),
        Phase.SUBMITTING.value: lambda: _why(job, f"It is being handed over to {job.site_id} now."),
        Phase.LOOKUP.value: lambda: _why(
            job, f"{job.site_id} did not answer when it was handed over; the gateway looks whether it arrived."
        ),
        Phase.DECISION.value: lambda: _why(
            job, job.message or "Nobody can say whether it runs.", "Decide: adopt, resubmit or cancel."
        ),
        Phase.AT_SITE.value: lambda: _at_site(services, conn, job),
    }
    return tell[job.phase]()


def _why(job: Any, sentence: str, action: str = "", evidence: str = "") -> Why:
    return Why(sentence, job.reason, job.native_reason, evidence or job.message, action, job.observed_at)


def _ended(job: Any) -> Why:
    sentences = {
        Reason.TIME_LIMIT: ("It ran to its time limit.", "Ask for more time."),
        Reason.COST_LIMIT: ("It reached the cost that you allowed.", "Allow a higher cost."),
        Reason.OUT_OF_MEMORY: ("It used more memory than it had.", "Ask for more memory."),
        Reason.NODE_FAIL: ("A node of the centre failed.", "Submit it again."),
        Reason.PREEMPTED: ("The centre took its place for other work.", "Submit it again."),
        Reason.REJECTED: ("The centre refused it.", "Change the job as the centre's words say."),
        Reason.LOST: ("The centre has no trace of it any more.", "Look at its output, then submit it again."),
        Reason.DEPENDENCY_FAILED: ("A job that it waited for did not end as asked.", "Look at that job."),
        Reason.LAUNCH_FAILED: ("It could not be started.", "Check its directory and its output paths."),
        Reason.USER_SIGNAL: (f"Signal {job.signal} ended it.", "Look at its log."),
        Reason.FENCED: ("It was a second copy and was turned away.", ""),
    }
    if job.state == "completed":
        return _why(job, "It ended well.")
    if job.state == "canceled":
        return _why(job, "It was canceled.")
    try:
        sentence, action = sentences[Reason(job.reason)]
    except (KeyError, ValueError):
        sentence, action = f"It ended with {_code(job.exit_code)}.", "Look at its log."
    return _why(job, sentence, action, job.message or job.native_state)


def _code(exit_code: int | None) -> str:
    """Above 128 a shell tells of a signal, which nobody finds in the log: a centre that stops everything sends TERM."""
    if exit_code is None:
        return "no exit code"
    try:
        name = signal.Signals(exit_code - 128).name
    except ValueError:
        return f"exit code {exit_code}"
    return f"exit code {exit_code}: signal {name} ended it, which the centre may have sent"


def _in_line(services: Services, conn: Connection, job: Any, now: datetime) -> Why:
    """The gateway's own line: whose turn it is, and which limit of the centre it waits for."""
    if job.wish == "hold":
        return _why(job, "You hold it.", "Release it.")
    if job.blocked_by:
        parents = _parents(conn, job.id)
        return _why(job, f"It waits for {', '.join(parents)}.", evidence=f"{job.blocked_by} not yet decided")
    if job.not_before is not None and job.not_before > now:
        seen = f"the centre said: {job.message}" if job.message else ""
        return _why(job, f"It is tried not before {job.not_before:%Y-%m-%d %H:%M:%S} UTC.", evidence=seen)
    adapter = services.sites.get(job.site_id)
    closed = conn.scalar(select(SITES.c.closed_reason).where(SITES.c.id == job.site_id))
    if adapter is None or adapter.closed_reason or closed:
        return _why(job, f"{job.site_id} is closed.", "Wait, or submit it elsewhere.",
                    closed or (adapter.closed_reason if adapter is not None else "") or "")  # fmt: skip
    if not open_at(adapter.policy, now):
        spans = ", ".join(f"{start}–{end}" for start, end in adapter.policy.hours)
        return _why(job, Sentence("{site} takes our jobs only at {hours} ({zone}).", site=job.site_id, hours=spans,
                                  zone=adapter.policy.zone))  # fmt: skip
    span = in_the_way(planned(conn, job.site_id), job.duration_max, now)
    if span is not None:
        pattern, moment = "It could not end before the maintenance of {site}, which begins {moment} UTC.", span.start
        if span.start <= now:
            pattern, moment = "{site} is under maintenance until {moment} UTC.", span.end
        sentence = Sentence(pattern, site=job.site_id, moment=f"{moment:%Y-%m-%d %H:%M}")
        return _why(job, sentence, "Wait, ask for less time, or submit it elsewhere.", f"reservation {span.name}")
    ahead = conn.scalar(
        select(func.count()).where(
            JOBS.c.site_id == job.site_id, JOBS.c.phase == Phase.WAITING.value, JOBS.c.user_id == job.user_id,
            JOBS.c.id < job.id,
        )
    )  # fmt: skip
    limit = _share_spent(conn, adapter.policy, job, now) or _limit_reached(services, conn, adapter.policy, job, now)
    sentence, action = limit or (Sentence("It is handed over in the next moments."), "")
    return _why(job, sentence, action, evidence=f"{ahead} of your own jobs are ahead of it here")


_Told = tuple[Sentence, str]


def _share_spent(conn: Connection, policy: Policy, job: Any, now: datetime) -> _Told | None:
    """What was contracted with the centre: for how long, and how much."""
    action = "Wait for the contract to be renewed, or submit it elsewhere."
    if share_over(policy, now):
        until = f"{policy.share_until:%Y-%m-%d %H:%M}"
        return Sentence("Our contracted share of {site} ended {moment} UTC.", site=job.site_id, moment=until), action
    if policy.share_core_seconds is None:
        return None
    left = policy.share_core_seconds - share.taken(conn, job.site_id)
    needed = job.cores_charged * (job.array_size or 1) * job.duration_max
    if needed <= left:
        return None
    return Sentence(
        "It may use {needed} core-seconds, and of our contracted share of {site} ({share}) only {left} are neither "
        "used nor promised to jobs that are there.",
        needed=needed, site=job.site_id, share=policy.share_core_seconds, left=max(0, left),
    ), "Wait until jobs there have ended, ask for less time, or submit it elsewhere."  # fmt: skip


def _limit_reached(services: Services, conn: Connection, policy: Policy, job: Any, now: datetime) -> _Told | None:
    rows = count_by_person(conn, job.site_id)
    mine = next((int(r.places) for r in rows if r.user_id == job.user_id), 0)
    size, wait = job.array_size or 1, "Wait until jobs there have ended, ask for less, or submit it elsewhere."
    limits: list[tuple[int | None, Callable[[], int], int, str, str]] = [
        (policy.queued_jobs_max, lambda: sum(int(r.places) for r in rows), size,
         "{site} lets {most} of our jobs wait there, and {now} do.", ""),
        (policy.queued_jobs_per_person_max, lambda: mine, size,
         "{site} lets {most} of your jobs wait there, and {now} do.", ""),
        (policy.cores_in_use_max, lambda: sum(int(r.cores) for r in rows), size * job.cores_charged,
         "{site} lets our jobs there take {most} cores together, and they take {now}.", wait),
        (policy.nodes_in_use_max, lambda: share.nodes_in_use(conn, job.site_id),
         size * nodes_at_most(spec_from_json(job.spec).resources),
         "{site} lets our jobs there take {most} nodes together, and they take {now}.", wait),
        (policy.submits_per_minute, lambda: _lately(conn, job, now), 1,
         "{site} takes {most} submissions a minute, and it had {now}.", ""),
    ]  # fmt: skip
    for most, taken, needed, pattern, action in limits:
        if most is not None and (there := taken()) + needed > most:
            return Sentence(pattern, site=job.site_id, most=most, now=there), action
    if policy.calls_per_minute is None:
        return None
    if calls_left(services.paces.of(job.site_id), policy, _lately(conn, job, now)) == 0:
        return Sentence("{site} lets us ask its scheduler {most} times a minute; those for handing over are used.",
                        site=job.site_id, most=policy.calls_per_minute), ""  # fmt: skip
    return None


def _lately(conn: Connection, job: Any, now: datetime) -> int:
    return submits_since(conn, job.site_id, now - timedelta(seconds=60))


def _parents(conn: Connection, job_id: str) -> list[str]:
    table = table_of(DependencyRow)
    query = select(table.c.parent_id, table.c.condition).where(table.c.job_id == job_id, table.c.decided == 0)
    return [f"{r.parent_id} ({r.condition})" for r in conn.execute(query)]


def _at_site(services: Services, conn: Connection, job: Any) -> Why:
    stale = conn.scalar(select(SITES.c.stale_since).where(SITES.c.id == job.site_id))
    if stale is not None:
        since = f"{stale:%Y-%m-%d %H:%M:%S} UTC"
        return _why(job, f"{job.site_id} has not answered since {since}; this is what was last known.")
    if job.state in ("queued", "held"):
        adapter = services.sites.get(job.site_id)
        scheduler = adapter.scheduler if adapter is not None else ""
        told = why_waiting(scheduler, job.native_state, job.native_reason)
        return Why(told.sentence, job.reason, job.native_reason, job.native_reason, told.action, job.observed_at)
    sentences = {"active": "It runs.", "suspended": "The centre has stopped it for now."}
    return _why(
        job, sentences.get(job.state, "The site says something that we do not know."), evidence=job.native_state
    )
