"""Which jobs a page shows: every combination of filter and visibility is walked along an index that ends in the id.

What a person may see is a union (own jobs, jobs of projects one owns, jobs at sites one works for), and so are several
states. An OR over them would scan; each branch by itself is one short walk backwards along one index, and the walks are
merged. Where several indexes fit, the sparsest is walked, as measured near the place where the page begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, Table, case, exists, false, or_, select, true, union

from gateway.db import table_of
from gateway.identity.access import SCOPE_OF, Person, Verb
from gateway.identity.tables import ProjectRow, UserRow
from gateway.ids import first_id
from gateway.jobs.repository import JOBS
from gateway.jobs.tables import JobTagRow

_USERS, _PROJECTS, _TAGS = (table_of(t) for t in (UserRow, ProjectRow, JobTagRow))

# What ix_jobs_* hold before the id.
_INDEXES = (
    ("user_id", "project_id"), ("user_id", "site_id"), ("user_id", "state"), ("user_id", "name"),
    ("project_id", "site_id"), ("project_id", "state"), ("site_id", "state"),
    ("user_id",), ("project_id",), ("site_id",), ("name",), ("state",),
)  # fmt: skip
_PROBE = 300  # entries of an index that are walked to see how sparse it is
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
    make = _Walks(conn, wanted, before, most)
    walks = [
        make.walk(walk) for branch in _branches(person, equal) for walk in _by_state({**equal, **branch}, wanted.states)
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


class _Walks:
    """Walks of one page: each along the sparsest of the indexes that fit, so that little is looked at in vain."""

    def __init__(self, conn: Connection, wanted: JobFilter, before: str | None, most: int) -> None:
        self._conn, self._tag, self._most = conn, wanted.tag, most
        self._span = _Span.of(wanted, before)
        self._reached: dict[tuple[tuple[str, str], ...], str] = {}

    def walk(self, equal: Mapping[str, str]) -> Select[str]:
        """The ids of jobs whose columns have these values (and that bear the tag), the newest first."""
        driver = self._driver(equal)
        if self._tag is None:
            return self._along_jobs(driver, equal)
        if not driver or self._tag_reach() <= self._reach(driver, equal):
            return self._along_tags(equal)
        key, value = self._tag
        borne = select(_TAGS.c.value).where(_TAGS.c.job_id == JOBS.c.id, _TAGS.c.key == key).scalar_subquery()
        # As a CASE: PostgreSQL takes `borne = value` to hold for one row in 200, and would sort all rather than walk.
        return self._along_jobs(driver, equal).where(case((borne == value, true()), else_=false()))

    def _along_jobs(self, driver: Sequence[str], equal: Mapping[str, str]) -> Select[str]:
        few = len(driver) < len(equal) and self._reach(driver, equal) == ""
        query = select(JOBS.c.id).where(*self._conditions(driver, equal, few=few), *self._span.on(JOBS.c.id))
        return query.order_by(JOBS.c.id.desc()).limit(self._most)

    def _along_tags(self, equal: Mapping[str, str]) -> Select[str]:
        query = select(_TAGS.c.job_id.label("id")).where(*self._tagged())
        if equal:
            rest = self._conditions((), equal, few=self._tag_reach() == "")
            query = query.where(exists().where(JOBS.c.id == _TAGS.c.job_id, *rest))
        return query.order_by(_TAGS.c.job_id.desc()).limit(self._most)

    def _conditions(self, driver: Sequence[str], equal: Mapping[str, str], *, few: bool) -> list[ColumnElement[bool]]:
        return [
            JOBS.c[column] == value if column in driver else self._beside(JOBS.c[column], value, few=few)
            for column, value in equal.items()
        ]

    def _beside(self, column: ColumnElement[str], value: str, *, few: bool) -> ColumnElement[bool]:
        """A condition beside the index to walk. As an expression it cannot drive: SQLite would guess.

        PostgreSQL has statistics, and would rather sort than walk far without them; of few rows it may.
        """
        return column + "" == value if few or self._conn.dialect.name == "sqlite" else column == value

    def _tagged(self) -> list[ColumnElement[bool]]:
        assert self._tag is not None
        return [_TAGS.c.key == self._tag[0], _TAGS.c.value == self._tag[1], *self._span.on(_TAGS.c.job_id)]

    def _driver(self, equal: Mapping[str, str]) -> tuple[str, ...]:
        """The columns of the index to walk; none: the primary key."""
        fitting = [index for index in _INDEXES if set(index) <= equal.keys()]
        exact = [index for index in fitting if set(index) == equal.keys()]
        if exact or len(fitting) < 2:
            return next(iter(exact or fitting), ())
        # Where a longer index fits, what it begins with is never sparser.
        longest = [i for i in fitting if not any(set(i) < set(other) for other in fitting)]
        return min(longest, key=lambda index: self._reach(index, equal))

    def _reach(self, driver: Sequence[str], equal: Mapping[str, str]) -> str:
        """How far back one has to walk along an index to see `_PROBE` jobs: an id, "" where there are not so many."""
        at = tuple((column, equal[column]) for column in driver)
        if at not in self._reached:
            query = select(JOBS.c.id).where(*(JOBS.c[c] == value for c, value in at), *self._span.on(JOBS.c.id))
            self._reached[at] = self._far(query.order_by(JOBS.c.id.desc()))
        return self._reached[at]

    def _tag_reach(self) -> str:
        if () not in self._reached:
            query = select(_TAGS.c.job_id).where(*self._tagged()).order_by(_TAGS.c.job_id.desc())
            self._reached[()] = self._far(query)
        return self._reached[()]

    def _far(self, query: Select[str]) -> str:
        return self._conn.scalar(query.offset(_PROBE - 1).limit(1)) or ""
