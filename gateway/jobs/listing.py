"""Which jobs a page shows: every combination of filter and visibility is walked along an index that ends in the id.

What a person may see is a union (own jobs, jobs of projects one owns, jobs at sites one works for), and so are several
states. An OR over them would scan; each branch by itself is one short walk backwards along one index, and the walks are
merged. A column that the chosen index does not hold is compared as an expression, so that no planner is tempted to
drive by it: without statistics SQLite guesses, and with LIMIT PostgreSQL is an optimist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, Table, exists, func, literal, or_, select, union

from gateway.db import table_of
from gateway.identity.access import SCOPE_OF, Person, Verb
from gateway.identity.tables import ProjectRow, UserRow
from gateway.jobs.ids import first_id
from gateway.jobs.lifecycle import FINAL
from gateway.jobs.repository import JOBS
from gateway.jobs.tables import JobTagRow

_USERS, _PROJECTS, _TAGS = (table_of(t) for t in (UserRow, ProjectRow, JobTagRow))

# What ix_jobs_* hold before the id; in the order of trust where several would do.
_LIVE_FIRST = ("user_id+state", "project_id+state", "site_id+state", "state")
_INDEXES = (
    "user_id+name", "user_id+project_id", "user_id+site_id", "user_id+state", "project_id+site_id",
    "project_id+state", "site_id+state", "user_id", "project_id", "site_id", "name", "state",
)  # fmt: skip
# So many rows are looked through in a few milliseconds; a set that is smaller may drive whatever else is asked.
_FEW = 3000
_WALKS_MAX = 60  # in one statement: SQLite compounds at most 500, and compiling them takes its time


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a list shows; None: no filter. Several states: any of them."""

    states: tuple[str, ...] = ()
    site: str | None = None
    project: str | None = None
    user: str | None = None
    name: str | None = None
    tag: tuple[str, str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def page_ids(conn: Connection, person: Person, wanted: JobFilter, *, before: str | None, most: int) -> list[str]:
    """The newest ids before an id, at most so many, the newest first."""
    equal = _equalities(conn, wanted)
    if equal is None or SCOPE_OF[Verb.SEE_JOB] not in person.scopes:
        return []
    spans = _Span.of(wanted, before)
    walks = [
        _walk(conn, walk, wanted.tag, spans, most)
        for branch in _branches(person, equal)
        for walk in _by_state({**equal, **branch}, wanted.states)
    ]
    if len(walks) == 1:
        return list(conn.scalars(walks[0]))
    found: set[str] = set()
    for start in range(0, len(walks), _WALKS_MAX):
        parts = [select(walk.subquery().c.id) for walk in walks[start : start + _WALKS_MAX]]
        merged = union(*parts).subquery()
        found.update(conn.scalars(select(merged.c.id).order_by(merged.c.id.desc()).limit(most)))
    return sorted(found, reverse=True)[:most]


# ---------------------------------------------------------------- what is asked


def _equalities(conn: Connection, wanted: JobFilter) -> dict[str, str] | None:
    """Columns and the values they must have; None where nothing can match (a project that is not there)."""
    equal: dict[str, str | None] = {}
    if wanted.site is not None:
        equal["site_id"] = wanted.site
    if wanted.name is not None:
        equal["name"] = wanted.name
    if wanted.project is not None:
        equal["project_id"] = _id_of(conn, _PROJECTS, wanted.project)
    if wanted.user is not None:
        equal["user_id"] = _id_of(conn, _USERS, wanted.user)
    known = {column: value for column, value in equal.items() if value is not None}
    return known if len(known) == len(equal) else None


def _id_of(conn: Connection, table: Table, wanted: str) -> str | None:
    found: str | None = conn.scalar(select(table.c.id).where(or_(table.c.name == wanted, table.c.id == wanted)))
    return found


def _branches(person: Person, equal: Mapping[str, str]) -> list[dict[str, str]]:
    """`can(person, SEE_JOB, …)` as alternatives; a test compares the two over the whole table of roles."""
    owned = sorted(project for project, role in person.roles.items() if role == "owner")
    all_theirs = (
        person.operator_admin
        or equal.get("user_id") == person.user_id
        or equal.get("project_id") in owned
        or equal.get("site_id") in person.staff_of
    )
    if all_theirs:
        return [{}]
    branches = [{"user_id": person.user_id}]
    branches += [{"project_id": project} for project in owned]
    branches += [{"site_id": site} for site in sorted(person.staff_of)]
    # A filter on the same column has another value, or all would be theirs: that branch is empty.
    return [branch for branch in branches if not branch.keys() & equal.keys()]


def _by_state(equal: dict[str, str], states: Sequence[str]) -> Iterator[dict[str, str]]:
    if not states:
        yield equal
    for state in dict.fromkeys(states):
        yield {**equal, "state": state}


# ---------------------------------------------------------------- one walk


@dataclass(frozen=True, slots=True)
class _Span:
    """Ids are time-ordered: times and cursors are bounds on them."""

    first: str | None
    before: tuple[str, ...]

    @classmethod
    def of(cls, wanted: JobFilter, before: str | None) -> _Span:
        ends = [before, None if wanted.created_before is None else first_id("j", wanted.created_before)]
        first = None if wanted.created_after is None else first_id("j", wanted.created_after)
        return cls(first, tuple(end for end in ends if end is not None))

    def on(self, column: ColumnElement[str]) -> list[ColumnElement[bool]]:
        found = [column < end for end in self.before]
        return found if self.first is None else [*found, column >= self.first]


def _walk(
    conn: Connection, equal: Mapping[str, str], tag: tuple[str, str] | None, span: _Span, most: int
) -> Select[tuple[str]]:
    driver = _driver(conn, equal, span)
    if tag is None:
        return _along_jobs(driver, equal, span, most)
    key, value = tag
    tagged = [_TAGS.c.key == key, _TAGS.c.value == value, *span.on(_TAGS.c.job_id)]
    if not driver or _few(conn, select(literal(1)).select_from(_TAGS).where(*tagged)) or not _few_jobs(
        conn, driver, equal, span
    ):  # fmt: skip
        there = exists().where(JOBS.c.id == _TAGS.c.job_id, *_conditions((), equal))
        query = select(_TAGS.c.job_id.label("id")).where(*tagged)
        query = query.where(there) if equal else query
        return query.order_by(_TAGS.c.job_id.desc()).limit(most)
    bears = exists().where(_TAGS.c.job_id == JOBS.c.id, _TAGS.c.key == key, _TAGS.c.value + "" == value)
    return _along_jobs(driver, equal, span, most).where(bears)


def _along_jobs(driver: Sequence[str], equal: Mapping[str, str], span: _Span, most: int) -> Select[tuple[str]]:
    query = select(JOBS.c.id).where(*_conditions(driver, equal), *span.on(JOBS.c.id))
    return query.order_by(JOBS.c.id.desc()).limit(most)


def _conditions(driver: Sequence[str], equal: Mapping[str, str]) -> list[ColumnElement[bool]]:
    return [
        JOBS.c[column] == value if column in driver else JOBS.c[column] + "" == value
        for column, value in equal.items()
    ]  # fmt: skip


def _driver(conn: Connection, equal: Mapping[str, str], span: _Span) -> tuple[str, ...]:
    """The columns of the index to walk; none: the primary key."""
    exact = "+".join(equal)
    fitting = [index for index in _INDEXES if set(index.split("+")) <= equal.keys()]
    for index in fitting:
        if set(index.split("+")) == set(exact.split("+")):
            return tuple(index.split("+"))
    if "state" in equal and equal["state"] not in FINAL:  # few jobs live at a time
        fitting = [index for index in _LIVE_FIRST if index in fitting]
    elif "name" in fitting and "user_id+name" not in fitting and _few_jobs(conn, ("name",), equal, span):
        fitting = ["name"]
    return tuple(fitting[0].split("+")) if fitting else ()


def _few_jobs(conn: Connection, driver: Sequence[str], equal: Mapping[str, str], span: _Span) -> bool:
    query = select(literal(1)).select_from(JOBS).where(*(JOBS.c[column] == equal[column] for column in driver))
    return _few(conn, query.where(*span.on(JOBS.c.id)))


def _few(conn: Connection, query: Select[int]) -> bool:
    counted = conn.scalar(select(func.count()).select_from(query.limit(_FEW).subquery()))
    return (counted or 0) < _FEW
