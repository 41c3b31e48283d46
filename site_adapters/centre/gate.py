"""The centre's policy, enforced at the centre: each submission reserves its place before it is handed over."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from site_adapters.centre.journal import Store
from site_adapters.errors import Busy, Refused, SiteError
from site_adapters.if2.profile import LoadReport, PersonLoad
from site_adapters.interfaces import SiteAdapter
from site_adapters.policy import Policy, admitted, open_at
from site_adapters.states import PermissionModel
from site_adapters.types import (
    Accepted,
    JobRef,
    Observation,
    ObservedRun,
    Queue,
    Rejected,
    Reservation,
    SiteAccount,
    Submission,
    SubmitOutcome,
    Unknown,
)
from site_adapters.weight import Weight, unweighed, weigh

_REFRESH_S = 2.0
_FACTS_S = 60.0
_LOST_AFTER = timedelta(minutes=10)


class Gate:
    """Counts what is ours here, and lets in what the policy allows. Survives a restart of the service."""

    def __init__(self, store: Store, policy: Policy, adapter: SiteAdapter, clock: Callable[[], datetime]) -> None:
        self._store, self.policy, self._adapter, self._clock = store, policy, adapter, clock
        self._lock = threading.RLock()
        self._calls: deque[tuple[datetime, str]] = deque()
        self._refused: deque[tuple[datetime, str]] = deque()
        self._reads: dict[tuple[str, str], datetime] = {}
        self._refreshed = datetime.min.replace(tzinfo=UTC)
        self._reserved: tuple[datetime, tuple[Reservation, ...]] = (self._refreshed, ())
        self._queues: tuple[datetime, tuple[Queue, ...]] = (self._refreshed, ())

    # ------------------------------------------------------------ calls

    def call(self, verb: str) -> None:
        """Count a call; raises `Busy` beyond what the centre allows, `Refused` for a verb that it does not."""
        if admitted_verb(verb, self.policy):
            limit, now = self.policy.calls_per_minute, self._clock()
            with self._lock:
                _forget(self._calls, now - timedelta(hours=1))
                minute = now - timedelta(minutes=1)
                lately = sum(at > minute for at, _ in self._calls) if limit is not None else 0
                if limit is None or lately < limit:
                    self._calls.append((now, verb))
                    return
            self._note("calls_per_minute")
            raise Busy(f"the centre allows {limit} calls a minute")
        self._note("verb")
        raise Refused(f"the centre does not allow {verb}", code="verb")

    def reading(self, account: SiteAccount, path: str, limit: int) -> int:
        """How many bytes of an output may be read now; raises `Busy` before the log interval is over."""
        now, policy = self._clock(), self.policy
        with self._lock:
            last = self._reads.get((account.username, path))
            if last is not None and now - last < timedelta(seconds=policy.log_interval_s):
                raise Busy(f"the centre shows each output every {policy.log_interval_s:g} s")
            if policy.log_interval_s:
                self._reads = {k: at for k, at in self._reads.items() if now - at < timedelta(hours=1)}
                self._reads[account.username, path] = now
        return limit if policy.log_bytes_max is None else min(limit, policy.log_bytes_max)

    # ------------------------------------------------------------ submissions

    def enter(self, submissions: Sequence[Submission]) -> list[tuple[Submission, SubmitOutcome | None]]:
        """Reserve a place for each, or say why not. None: it may be handed over (with the QOS that the policy gives).

        An attempt that was here before gets the outcome it had: no attempt is handed over twice, whatever its call.
        """
        found = self._enter(submissions)
        limited = any(isinstance(o, Rejected) and o.code == "policy_limit" for _, o in found)
        if limited and self._clock() - self._refreshed > timedelta(seconds=_REFRESH_S):
            self.refresh()  # places may be free by now
            again = self._enter([s for s, o in found if isinstance(o, Rejected) and o.code == "policy_limit"])
            rest = iter(again)
            found = [next(rest) if isinstance(o, Rejected) and o.code == "policy_limit" else (s, o) for s, o in found]
        for _, outcome in found:
            if isinstance(outcome, Rejected):
                self._note(outcome.code)
        return found

    def _enter(self, submissions: Sequence[Submission]) -> list[tuple[Submission, SubmitOutcome | None]]:
        maintenance, queues = self._maintenance(), self._known_queues()
        weights = [weigh(s, self.policy, _queue_of(s, queues)) for s in submissions]
        with self._lock, self._store.write() as db:
            return [self._enter_one(db, s, w, maintenance) for s, w in zip(submissions, weights, strict=True)]

    def _enter_one(
        self, db: sqlite3.Connection, submission: Submission, weight: Weight, maintenance: Sequence[Reservation]
    ) -> tuple[Submission, SubmitOutcome | None]:
        before = db.execute("SELECT * FROM attempts WHERE fence = ?", (submission.fence_name,)).fetchone()
        if before is not None:
            return submission, _known(before)
        refusal = self._never(submission, weight) or self._not_now(db, submission, weight, maintenance)
        if refusal is not None:
            return submission, refusal
        account, attributes = submission.account, submission.spec.attributes
        if self.policy.qos_allowed and attributes.qos is None:
            attributes = replace(attributes, qos=self.policy.qos_allowed[0])
            submission = replace(submission, spec=replace(submission.spec, attributes=attributes))
        db.execute(
            "INSERT INTO attempts (fence, state, username, home, person, project, account, places, cores, nodes,"
            " reserve, submitted_at) VALUES (?, 'begun', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (submission.fence_name, account.username, account.home, submission.person, submission.project,
             attributes.account or "", weight.places, weight.cores, weight.nodes, weight.core_seconds,
             self._clock().timestamp()),
        )  # fmt: skip
        return submission, None

    def _never(self, submission: Submission, weight: Weight) -> Rejected | None:
        """What this centre will not take however long one waits."""
        p, spec = self.policy, submission.spec
        if p.permission_model is PermissionModel.REFERRAL:
            return Rejected(f"this centre is only pointed at: apply at {p.referral_url or 'its own desk'}",
                            code="referral")  # fmt: skip
        if not admitted(submission.person, p.people_admitted):
            return Rejected("the centre has not admitted this person", code="not_admitted")
        if not admitted(submission.project, p.projects_admitted):
            return Rejected("the centre has not admitted this project", code="not_admitted")
        if p.qos_allowed and spec.attributes.qos is not None and not admitted(spec.attributes.qos, p.qos_allowed):
            return Rejected(f"the centre allows us only QOS {', '.join(p.qos_allowed)}", code="qos")
        if (option := unweighed(spec, p)) is not None:
            return Rejected(f"the centre counts cores and nodes: say them by fields, not by {option}", code="policy")
        limits = (
            ("cores", weight.cores_each, p.cores_max), ("nodes", weight.nodes_each, p.nodes_max),
            ("seconds", spec.attributes.duration or 0, p.duration_max),
            ("tasks", weight.places if spec.array is not None else 0, p.array_tasks_max),
            ("tasks", weight.places, p.queued_jobs_max), ("tasks", weight.places, p.queued_jobs_per_person_max),
            ("cores", weight.cores, p.cores_in_use_max), ("nodes", weight.nodes, p.nodes_in_use_max),
        )  # fmt: skip
        for what, asked, most in limits:
            if most is not None and asked > most:
                return Rejected(f"{asked} {what}: the centre allows us {most}", code="policy")
        return None

    def _not_now(
        self, db: sqlite3.Connection, submission: Submission, weight: Weight, maintenance: Sequence[Reservation]
    ) -> Rejected | None:
        """What may pass: hours, maintenance, rates, and what is ours here already."""
        p, now = self.policy, self._clock()
        if not open_at(p, now):
            return Rejected("the centre takes our jobs at other hours", retryable=True, code="hours")
        for reservation in maintenance:
            if reservation.start <= now < reservation.end:
                return Rejected(f"maintenance {reservation.name} until {reservation.end:%Y-%m-%d %H:%M} UTC",
                                retryable=True, code="maintenance")  # fmt: skip
        if p.submits_per_minute is not None:
            minute = (now - timedelta(minutes=1)).timestamp()
            if _one(db, "SELECT count(*) FROM attempts WHERE submitted_at > ?", minute) >= p.submits_per_minute:
                return _limit(f"{p.submits_per_minute} submissions a minute")
        ours = _totals(db)
        mine = _totals(db, "AND person = ? AND username = ?", submission.person, submission.account.username)
        limits = (
            (ours[0] + weight.places, p.queued_jobs_max, "queued jobs"),
            (mine[0] + weight.places, p.queued_jobs_per_person_max, "queued jobs of one person"),
            (ours[1] + weight.cores, p.cores_in_use_max, "cores of ours"),
            (ours[2] + weight.nodes, p.nodes_in_use_max, "nodes of ours"),
        )
        for asked, most, what in limits:
            if most is not None and asked > most:
                return _limit(f"{most} {what}")
        return self._share(db, weight, now)

    def _share(self, db: sqlite3.Connection, weight: Weight, now: datetime) -> Rejected | None:
        p = self.policy
        if p.share_until is not None and now >= p.share_until:
            return Rejected("the contracted share has run out", code="share")
        if p.share_core_seconds is None:
            return None
        committed = _one(db, "SELECT coalesce(sum(max(used, reserve)), 0) FROM attempts WHERE ended_at IS NULL")
        used = _one(db, "SELECT coalesce(sum(used), 0) FROM attempts WHERE ended_at IS NOT NULL")
        if used + committed + weight.core_seconds > p.share_core_seconds:
            return _limit(f"{p.share_core_seconds} core-seconds of the contracted share")
        return None

    def leave(self, submission: Submission, outcome: SubmitOutcome) -> None:
        """Keep what became of a submission that was let in."""
        with self._store.write(durable=False) as db:
            match outcome:
                case Accepted():
                    db.execute("UPDATE attempts SET state = 'accepted', native_id = ?, cluster = ?, outcome = ?"
                               " WHERE fence = ?",
                               (outcome.native_id, outcome.cluster, outcome.message,
                                submission.fence_name))  # fmt: skip
                case Rejected():
                    db.execute("UPDATE attempts SET state = ?, ended_at = ?, outcome = ? WHERE fence = ?",
                               ("deferred" if outcome.retryable else "rejected", self._clock().timestamp(),
                                f"{outcome.code}\n{outcome.message}", submission.fence_name))  # fmt: skip
                case Unknown():
                    db.execute("UPDATE attempts SET state = 'unknown', outcome = ? WHERE fence = ?",
                               (outcome.message, submission.fence_name))  # fmt: skip

    def fenced(self, fences: Sequence[str]) -> None:
        """These attempts can never run: their places are free."""
        with self._store.write() as db:
            db.executemany("UPDATE attempts SET ended_at = ? WHERE fence = ? AND ended_at IS NULL",
                           [(self._clock().timestamp(), f) for f in fences])  # fmt: skip

    # ------------------------------------------------------------ what is here

    def refresh(self) -> None:
        """Ask the scheduler what of ours is still here; a look that fails frees nothing."""
        with self._lock:
            self._refreshed = self._clock()
        refs = self.open_jobs()
        if not refs:
            return
        try:
            known = [ref for ref in refs if ref.native_id]  # others are on their way to the scheduler just now
            if known:
                self.seen(self._adapter.management.observe(known))
            lost = [ref for ref in refs if not ref.native_id]
            if lost:
                self._settle_lost(lost)
        except SiteError:
            self._note("refresh_failed")

    def open_jobs(self) -> list[JobRef]:
        """What of ours is here as far as we know; without a native id where the answer was lost."""
        rows = self._store.read("SELECT * FROM attempts WHERE ended_at IS NULL ORDER BY submitted_at")
        return [
            JobRef(r["native_id"], r["cluster"], r["username"], r["fence"],
                   datetime.fromtimestamp(r["submitted_at"], UTC), r["places"] > 1)
            for r in rows
        ]  # fmt: skip

    def accounts(self) -> list[SiteAccount]:
        """Every login that we have acted as here."""
        rows = self._store.read("SELECT DISTINCT username, home FROM attempts")
        return [SiteAccount(r["username"], r["home"]) for r in rows]

    def seen(self, observation: Observation) -> None:
        """Learn from a look at the queue what has ended, and what it used."""
        by_id: dict[str, list[ObservedRun]] = {}
        for run in (*observation.accounting.runs, *observation.queue.runs):
            by_id.setdefault(run.native_id, []).append(run)
        now = self._clock()
        with self._store.write() as db:
            for row in db.execute("SELECT * FROM attempts WHERE ended_at IS NULL AND native_id != ''").fetchall():
                runs = [r for r in by_id.get(row["native_id"], ()) if r.username in ("", row["username"])]
                if runs:
                    _learn(db, row, runs, now)

    def _settle_lost(self, refs: Sequence[JobRef]) -> None:
        accounts = self.accounts()
        since = min(ref.submitted_at for ref in refs) - timedelta(hours=1)
        rows = self._store.read("SELECT fence, submitted_at FROM attempts WHERE ended_at IS NULL AND native_id = ''")
        look = self._adapter.management.find([r["fence"] for r in rows], accounts=accounts, since=since)
        found = {tag: run for run in look.runs for tag in run.tags_seen}
        now = self._clock()
        with self._store.write() as db:
            for row in rows:
                run = found.get(row["fence"])
                if run is not None:
                    db.execute("UPDATE attempts SET native_id = ?, state = 'accepted' WHERE fence = ?",
                               (run.native_id, row["fence"]))  # fmt: skip
                elif look.good and now.timestamp() - row["submitted_at"] > _LOST_AFTER.total_seconds():
                    db.execute("UPDATE attempts SET ended_at = ? WHERE fence = ?", (now.timestamp(), row["fence"]))

    def load(self, stopped: str | None) -> LoadReport:
        """The load that we cause, and the share used."""
        now = self._clock()
        rows = self._store.read("SELECT * FROM attempts WHERE ended_at IS NULL")
        ended = self._store.read("SELECT coalesce(sum(used), 0) AS used FROM attempts WHERE ended_at IS NOT NULL")
        minute = now - timedelta(minutes=1)
        submits = self._store.read("SELECT count(*) AS n FROM attempts WHERE submitted_at > ?", minute.timestamp())
        people: dict[str, list[int]] = {}
        for r in rows:
            part = people.setdefault(r["person"] or r["username"], [0, 0])
            part[0] += 1
            part[1] += r["cores"]
        with self._lock:
            _forget(self._calls, now - timedelta(hours=1))
            _forget(self._refused, now - timedelta(hours=1))
            calls, refused = list(self._calls), Counter(why for _, why in self._refused)
        return LoadReport(
            now, len(rows), sum(r["places"] for r in rows), sum(r["cores"] for r in rows),
            sum(r["nodes"] for r in rows), submits[0]["n"], sum(at > minute for at, _ in calls),
            dict(Counter(verb for _, verb in calls)),
            tuple(PersonLoad(p, n, c) for p, (n, c) in sorted(people.items())),
            ended[0]["used"] + sum(_used_so_far(r, now) for r in rows), self.policy.share_core_seconds, dict(refused),
            stopped, self.policy,
        )  # fmt: skip

    def _maintenance(self) -> tuple[Reservation, ...]:
        """The scheduler's own reservations for maintenance, at most a minute old."""
        now = self._clock()
        asked, known = self._reserved
        if now - asked > timedelta(seconds=_FACTS_S):
            try:
                known = tuple(r for r in self._adapter.resource.reservations() if r.maintenance)
            except SiteError:
                self._note("reservations_not_read")
            self._reserved = (now, known)
        return known

    def _known_queues(self) -> tuple[Queue, ...]:
        """How large nodes are, and whether they are given whole, at most a minute old."""
        p, now = self.policy, self._clock()
        asked, known = self._queues
        if p.cores_max is None and p.cores_in_use_max is None and p.share_core_seconds is None:
            return ()  # nobody counts cores
        if now - asked > timedelta(seconds=_FACTS_S):
            try:
                known = tuple(self._adapter.resource.queues())
            except SiteError:
                self._note("queues_not_read")
            self._queues = (now, known)
        return known

    def _note(self, why: str) -> None:
        with self._lock:
            self._refused.append((self._clock(), why))
            _forget(self._refused, self._clock() - timedelta(hours=1))


def admitted_verb(verb: str, policy: Policy) -> bool:
    """Whether the centre allows a verb; a pattern as `orders.*` refuses a whole interface."""
    return not policy.verbs_refused or not admitted(verb, policy.verbs_refused)


def _queue_of(submission: Submission, queues: Sequence[Queue]) -> Queue | None:
    wanted = submission.spec.attributes.queue_name
    return next((q for q in queues if (q.default if wanted is None else q.name == wanted)), None)


def _known(row: sqlite3.Row) -> SubmitOutcome:
    code, _, message = row["outcome"].partition("\n")
    match row["state"]:
        case "accepted":
            return Accepted(row["native_id"], row["cluster"], row["outcome"])
        case "rejected" | "deferred":
            return Rejected(message, retryable=row["state"] == "deferred", code=code)
        case _:
            return Unknown("this attempt was handed over before, and its answer was lost")


def _learn(db: sqlite3.Connection, row: sqlite3.Row, runs: Sequence[ObservedRun], now: datetime) -> None:
    # The same run may be in queue and accounting: one row for each task and start, the queue's last.
    each = {(r.task, r.start_time): r for r in runs}.values()
    used = sum(_core_seconds(r, row) for r in each if r.end_time is not None)
    running = [[r.start_time.timestamp(), r.cores or row["cores"]] for r in each
               if r.start_time is not None and r.end_time is None and not r.state.final]  # fmt: skip
    tasks = {r.task for r in each if r.state.final}
    over = not any(not r.state.final for r in each) and (row["places"] == 1 or len(tasks) >= row["places"])
    db.execute("UPDATE attempts SET used = ?, running = ?, ended_at = ? WHERE fence = ?",
               (used, json.dumps(running), now.timestamp() if over else None, row["fence"]))  # fmt: skip


def _core_seconds(run: ObservedRun, row: sqlite3.Row) -> int:
    if run.start_time is None or run.end_time is None:
        return 0
    return max(0, int((run.end_time - run.start_time).total_seconds())) * (run.cores or row["cores"])


def _used_so_far(row: sqlite3.Row, now: datetime) -> int:
    running = sum(max(0, int(now.timestamp() - start)) * cores for start, cores in json.loads(row["running"]))
    return int(row["used"] + running)


def _totals(db: sqlite3.Connection, more: str = "", *values: Any) -> tuple[int, int, int]:
    """Places, cores and nodes of what has not ended."""
    statement = f"SELECT coalesce(sum(places),0), coalesce(sum(cores),0), coalesce(sum(nodes),0) FROM attempts WHERE ended_at IS NULL {more}"  # noqa: E501, S608 - `more` is one of two literals above
    row = db.execute(statement, values).fetchone()
    return row[0], row[1], row[2]


def _one(db: sqlite3.Connection, statement: str, *values: Any) -> int:
    return int(db.execute(statement, values).fetchone()[0])


def _limit(text: str) -> Rejected:
    return Rejected(f"the centre allows us {text}", retryable=True, code="policy_limit")


def _forget(events: deque[Any], before: datetime) -> None:
    while events and events[0][0] < before:
        events.popleft()
