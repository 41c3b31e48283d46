"""Keep what meters read, each reading once; a changed one is the next revision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import Connection, func, select

from accounting.evidence.personal import SEALED
from accounting.json_text import sorted_json
from accounting.store.schema import (
    CHARGES,
    QUARANTINE,
    REREADS,
    USAGE,
    Row,
    among,
    insert_new,
    lock_projects,
    new_ids,
    upsert,
)
from accounting.tables import UtcTime
from accounting.usage import Kind, Meter, Unreadable, UsageRecord


class Assigned(Struct, frozen=True, gc=False):
    """A reading with who pays for it. `grade`: the service that was ordered; else the agreement's for the queue.

    `statement_id`, `signed_by`: the centre statement that it is a line of, and whose good signature that bears.
    `raw_text`, `content_sha256`: the raw record as JSON and its fingerprint where they were made already (`written`).
    """

    record: UsageRecord
    job_id: str
    project_id: str
    user_id: str
    currency: str
    grade: str = ""
    statement_id: int | None = None
    signed_by: str = ""
    raw_text: str = ""
    content_sha256: str = ""

    def written(self) -> Assigned:
        """The same with its raw record as the text that is kept, and no longer as fields."""
        return self if self.content_sha256 else self.kept_as(self.record.raw, self.record.username)

    def kept_as(self, raw: Mapping[str, Any], username: str) -> Assigned:
        """The same with another raw record and login, as they are stored."""
        said = sorted_json(raw)
        record = structs.replace(self.record, raw={}, username=username, job_name="")
        return structs.replace(self, record=record, raw_text=said.decode(), content_sha256=record.fingerprint(said))


# The format of a reading in quarantine that had no price when it came: `usage_record <id>`.
UNPRICED = "unpriced"


def _as_it_is(found: Unreadable) -> tuple[str, str]:
    return found.raw, found.why


def quarantine(
    conn: Connection, unreadable: Sequence[Unreadable], *,
    kept: Callable[[Unreadable], tuple[str, str]] = _as_it_is, now: datetime,
) -> int:  # fmt: skip
    """Keep what cannot be read, once; returns how many were new. `kept`: raw text and reason as they are kept."""
    rows = []
    for u in unreadable:
        raw, why = kept(u)
        rows.append({"content_sha256": u.content_sha256, "site_id": u.site_id, "format": u.format, "raw": raw,
                     "why": why[:500], "recorded_at": now})  # fmt: skip
    query = upsert(conn, QUARANTINE).on_conflict_do_nothing().returning(QUARANTINE.c.site_id)
    return len(conn.execute(query, rows).all()) if rows else 0


def record(conn: Connection, assigned: Sequence[Assigned], *, now: datetime) -> tuple[dict[int, Assigned], set[str]]:
    """Insert readings that are new or changed, by their ids; the unique key decides between two that try at once.

    The keys of those runs come with them that were read before.
    Of two readings of one run by one meter in the same call the first is kept: pass the other in a later call.
    """
    lock_projects(conn, {a.project_id for a in assigned})
    newest, older = _known(conn, assigned)
    assigned = _without_erased(conn, [a.written() for a in assigned], newest)
    said: list[Any] = []
    taken: set[tuple[str, str, str]] = set()
    items = []
    for item in assigned:
        key = _key(item)
        before = newest.get(key)
        if key in taken:
            continue
        sha256 = item.content_sha256
        if before is not None and before.content_sha256 == sha256:
            continue
        if before is not None and sha256 in older.get(key, ()) and _agreed(conn, before.id):
            continue  # the centre's log still says what both sides have corrected since
        taken.add(key)
        items.append(item)
        said.append(before)
    ids = new_ids(conn, USAGE, len(items)) if items else ()
    rows = [_row(id_, item, before, now) for id_, item, before in zip(ids, items, said, strict=True)]
    stored = insert_new(conn, USAGE, _COLUMNS, rows, encoded=("raw",))
    again = {item.record.run_key for item, before in zip(items, said, strict=True) if before is not None}
    return {id_: item for id_, item in zip(ids, items, strict=True) if id_ in stored}, again


def rounds(assigned: Sequence[Assigned]) -> list[list[Assigned]]:
    """The readings in calls of `record`: two of the same run by the same meter never in one."""
    found: list[list[Assigned]] = [[]]
    seen: dict[tuple[str, str, str], int] = {}
    for item in assigned:
        number = seen.get(key := _key(item), 0)
        seen[key] = number + 1
        if number == len(found):
            found.append([])
        found[number].append(item)
    return found


def uncharged(conn: Connection, *, limit: int = 10_000) -> list[Any]:
    """Newest readings that no charge was made of: an anti-join, since a cursor over ids passes rows that commit late.

    A gateway's reading of a job that its centre has read is not among them (accounting.md, trap 22).
    """
    return list(conn.execute(_uncharged(select(USAGE)).order_by(USAGE.c.id).limit(limit)))


def unread(conn: Connection, site_id: str) -> int:
    """Records of a site that still wait for a person: nobody can read them, or they have no price to this day."""
    rows = [row for row in kept_unread(conn, site_id) if row.outcome is None]
    unpriced = [int(r.raw.rpartition(" ")[2]) for r in rows if r.format == UNPRICED]
    waiting = _uncharged(select(func.count(USAGE.c.id.distinct()))).where(among(conn, USAGE.c.id, unpriced))
    return len(rows) - len(unpriced) + (int(conn.scalar(waiting) or 0) if unpriced else 0)


def kept_unread(conn: Connection, site_id: str) -> list[Any]:
    """What is in quarantine of a site, oldest first; `outcome`: what became of it, None: nobody can read it yet."""
    outcome = select(func.min(REREADS.c.outcome)).where(
        REREADS.c.content_sha256 == QUARANTINE.c.content_sha256, REREADS.c.site_id == QUARANTINE.c.site_id
    )  # fmt: skip
    query = select(QUARANTINE, outcome.scalar_subquery().label("outcome")).where(QUARANTINE.c.site_id == site_id)
    return list(conn.execute(query.order_by(QUARANTINE.c.recorded_at, QUARANTINE.c.content_sha256)))


def keep_reread(conn: Connection, site_id: str, found: Mapping[str, str], *, by: str, now: datetime) -> None:
    """Keep what became of records in quarantine, by their fingerprints; the same again changes nothing."""
    rows = [{"content_sha256": sha256, "site_id": site_id, "outcome": outcome, "by": by, "recorded_at": now}
            for sha256, outcome in found.items()]  # fmt: skip
    if rows:
        conn.execute(upsert(conn, REREADS).on_conflict_do_nothing(), rows)


def last_told(conn: Connection, site_id: str, run_keys: Collection[str]) -> dict[str, datetime]:
    """When the centre last told each of these runs; one that it never told is not there."""
    query = (
        select(USAGE.c.run_key, func.max(USAGE.c.recorded_at, type_=UtcTime()).label("at"))
        .where(USAGE.c.site_id == site_id, USAGE.c.meter == Meter.CENTRE.value, among(conn, USAGE.c.run_key, run_keys))
        .group_by(USAGE.c.run_key)
    )
    return {row.run_key: row.at for row in conn.execute(query)}


def _uncharged(query: Any) -> Any:
    newer, charge, centre = USAGE.alias("newer"), CHARGES, USAGE.alias("centre")
    return (
        query.select_from(USAGE)
        .outerjoin(charge, charge.c.usage_record_id == USAGE.c.id)
        .outerjoin(newer, newer.c.supersedes == USAGE.c.id)
        .outerjoin(centre, (centre.c.job_id == USAGE.c.job_id) & (centre.c.meter == "centre")
                   & (USAGE.c.meter == "gateway"))
        .where(charge.c.id.is_(None), newer.c.id.is_(None), centre.c.id.is_(None))
    )  # fmt: skip


def record_of(row: Any) -> UsageRecord:
    """The reading that a row keeps."""
    names = ("site_id", "run_key", "native_id", "state", "username", "cores", "nodes", "elapsed_s", "core_seconds",
             "node_seconds", "gpu_seconds", "memory_mib_seconds", "suspended_s", "task", "account", "queue", "qos",
             "submit_time", "start_time", "end_time", "estimated", "exclusive", "requested_cores", "cpus",
             "threads_per_core", "raw")  # fmt: skip
    return UsageRecord(
        meter=Meter(row.meter), kind=Kind(row.kind), units=row.units or {}, **{n: getattr(row, n) for n in names}
    )


def _key(item: Assigned) -> tuple[str, str, str]:
    return item.record.site_id, item.record.run_key, item.record.meter.value


def _known(
    conn: Connection, assigned: Sequence[Assigned]
) -> tuple[dict[tuple[str, str, str], Any], dict[Any, set[str]]]:
    """The newest reading of each run, and what its older ones said."""
    query = select(USAGE.c.id, USAGE.c.site_id, USAGE.c.run_key, USAGE.c.meter, USAGE.c.revision,
                   USAGE.c.content_sha256)  # fmt: skip
    query = query.where(USAGE.c.site_id.in_({a.record.site_id for a in assigned}))
    query = query.where(among(conn, USAGE.c.run_key, {a.record.run_key for a in assigned}))
    newest: dict[tuple[str, str, str], Any] = {}
    older: dict[Any, set[str]] = {}
    for r in conn.execute(query.order_by(USAGE.c.revision)):
        key = (r.site_id, r.run_key, r.meter)
        if key in newest:
            older.setdefault(key, set()).add(newest[key].content_sha256)
        newest[key] = r
    return newest, older


def _without_erased(
    conn: Connection, assigned: list[Assigned], newest: Mapping[tuple[str, str, str], Any]
) -> list[Assigned]:
    """Without what is known already of runs whose person was erased: without the key it is another text than before.

    What is left of such a record is what stands beside the sealed part of the older one. It is a reading of its own
    only where that has changed: else the log, which is fetched again and again, would charge all of it anew, and undo
    what both sides have agreed.
    """
    nameless = [a for a in assigned if not a.record.username and (before := newest.get(_key(a))) is not None
                and before.content_sha256 != a.content_sha256]  # fmt: skip
    if not nameless:
        return assigned
    query = select(USAGE.c.site_id, USAGE.c.run_key, USAGE.c.meter, USAGE.c.id, USAGE.c.raw)
    query = query.where(USAGE.c.site_id.in_({a.record.site_id for a in nameless}))
    query = query.where(among(conn, USAGE.c.run_key, {a.record.run_key for a in nameless}))
    public: dict[Any, dict[int, str]] = {}
    for r in conn.execute(query):
        if SEALED in r.raw:
            left = sorted_json({name: value for name, value in r.raw.items() if name != SEALED}).decode()
            public.setdefault((r.site_id, r.run_key, r.meter), {})[r.id] = left
    gone = set()
    for item in nameless:
        key, now = _key(item), newest[_key(item)].id
        said = {id_ for id_, text in public.get(key, {}).items() if text == item.raw_text}
        if now in said or (said and _agreed(conn, now)):
            gone.add(key)
    return [a for a in assigned if _key(a) not in gone]


def _agreed(conn: Connection, record_id: int) -> bool:
    """Whether a reading came from a settled break (gateway/billing/reconcile.py) and not from the centre's meter."""
    return conn.scalar(select(USAGE.c.statement_id).where(USAGE.c.id == record_id)) is not None


_COLUMNS = (
    "id", "site_id", "run_key", "meter", "revision", "supersedes", "content_sha256", "kind", "job_id", "project_id",
    "user_id", "native_id", "task", "state", "username", "account", "queue", "qos", "cores", "nodes", "elapsed_s",
    "suspended_s", "core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "submit_time", "start_time",
    "end_time", "estimated", "exclusive", "requested_cores", "cpus", "threads_per_core", "units", "raw",
    "ordered_grade", "statement_id", "signed_by", "recorded_at",
)  # fmt: skip


def _row(id_: int, item: Assigned, before: Any, now: datetime) -> Row:
    r = item.record
    revision, supersedes = (1, None) if before is None else (before.revision + 1, before.id)
    return (
        id_, r.site_id, r.run_key, r.meter.value, revision, supersedes, item.content_sha256, r.kind.value, item.job_id,
        item.project_id, item.user_id, r.native_id, r.task, r.state, r.username, r.account, r.queue, r.qos, r.cores,
        r.nodes, r.elapsed_s, r.suspended_s, r.core_seconds, r.node_seconds, r.gpu_seconds, r.memory_mib_seconds,
        r.submit_time, r.start_time, r.end_time, r.estimated, r.exclusive, r.requested_cores, r.cpus,
        r.threads_per_core, r.units or None, item.raw_text, item.grade or None, item.statement_id,
        item.signed_by or None, now,
    )  # fmt: skip
