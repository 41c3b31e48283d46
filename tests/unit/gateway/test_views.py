"""Lists agree with `can` for everybody and every filter, page by page; one job is one statement."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert

from gateway.bootstrap import open_database
from gateway.db import Database, table_of
from gateway.identity import service
from gateway.identity.access import Person, Verb, can
from gateway.ids import new_id
from gateway.jobs import views
from gateway.jobs.repository import JOBS, RUNS, SITES, Owner
from gateway.jobs.tables import JobTagRow
from gateway.jobs.views import JobFilter
from gateway.settings import Settings

NOW = datetime(2026, 11, 24, tzinfo=UTC)
STATES = ("new", "queued", "held", "active", "completed", "failed", "canceled", "unknown")
READ = frozenset({"read"})


@dataclass
class Rows:
    """Jobs of a few people in a few projects at a few sites, and the people who look at them."""

    db: Database
    jobs: list[dict[str, Any]]
    users: list[str]
    projects: list[str]
    people: dict[str, Person]


@pytest.fixture
def rows(db_url: str, tmp_path: Path) -> Iterator[Rows]:
    db = open_database(Settings(home=tmp_path, database_url=db_url))
    rnd = random.Random(4)
    with db.write() as conn:
        users = [service.create_user(conn, name=f"u{i}", now=NOW) for i in range(5)]
        projects = [service.create_project(conn, name=f"p{i}", currency="CNY", now=NOW) for i in range(4)]
        conn.execute(insert(SITES), [{"id": site, "fencing": 0} for site in ("alpha", "beta", "gamma")])
        jobs = [job(rnd, i, users, projects) for i in range(600)]
        conn.execute(insert(JOBS), [{k: v for k, v in j.items() if k != "tags"} for j in jobs])
        tags = [{"job_id": j["id"], "key": k, "value": v} for j in jobs for k, v in j["tags"].items()]
        conn.execute(insert(table_of(JobTagRow)), tags)
    people = {
        "author": Person(users[1], "u1", scopes=READ, roles={projects[1]: "researcher"}),
        "owner": Person(users[2], "u2", scopes=READ, roles={projects[1]: "owner", projects[2]: "owner"}),
        "staff": Person(users[3], "u3", scopes=READ, staff_of=frozenset({"gamma", "beta"})),
        "both": Person(users[4], "u4", scopes=READ, staff_of=frozenset({"gamma"}), roles={projects[3]: "owner"}),
        "operator": Person("root", "root", True, scopes=READ),
        "stranger": Person("nobody", "nobody", scopes=READ),
        "without scope": Person(users[1], "u1", scopes=frozenset({"admin"})),
    }
    yield Rows(db, jobs, users, projects, people)
    db.dispose()


def job(rnd: random.Random, i: int, users: list[str], projects: list[str]) -> dict[str, Any]:
    at = NOW + timedelta(minutes=i)
    state = rnd.choices(STATES, (1, 1, 1, 1, 60, 5, 5, 1))[0]
    return {
        "id": new_id("j", at), "user_id": rnd.choices(users, (60, 20, 10, 5, 5))[0],
        "project_id": rnd.choices(projects, (60, 20, 15, 5))[0], "site_id": rnd.choices(("alpha", "beta", "gamma"),
        (70, 25, 5))[0], "site_account_id": "a", "name": rnd.choice(("train", f"n{i}")), "spec": {"executable": "x"},
        "tag": f"p{i:015d}", "phase": "waiting" if state == "new" else "at_site", "state": state, "created_at": at,
        "updated_at": at, "last_event": 1,
        "tags": {"team": rnd.choice(("blue", "red"))} | ({"rare": "yes"} if i % 97 == 0 else {}),
    }  # fmt: skip


FILTERS = {
    "none": JobFilter(),
    "live state": JobFilter(states=("held",)),
    "ended state": JobFilter(states=("failed",)),
    "states": JobFilter(states=("held", "active", "held")),
    "all states": JobFilter(states=STATES),
    "site": JobFilter(site="gamma"),
    "no such site": JobFilter(site="delta"),
    "project": JobFilter(project="p1"),
    "no such project": JobFilter(project="px"),
    "user": JobFilter(user="u0"),
    "name": JobFilter(name="train"),
    "tag": JobFilter(tag=("team", "blue")),
    "rare tag": JobFilter(tag=("rare", "yes")),
    "after": JobFilter(created_after=NOW + timedelta(minutes=300)),
    "before": JobFilter(created_before=NOW + timedelta(minutes=300)),
    "user and project": JobFilter(user="u0", project="p3"),
    "user, site, state": JobFilter(user="u1", site="beta", states=("completed",)),
    "project and site": JobFilter(project="p2", site="gamma"),
    "project and name": JobFilter(project="p3", name="train"),
    "site, name, tag": JobFilter(site="beta", name="train", tag=("team", "red")),
    "tag and state": JobFilter(tag=("team", "red"), states=("canceled", "unknown")),
    "all of it": JobFilter(("completed",), "alpha", "p0", "u0", "train", ("team", "blue"), NOW,
                           NOW + timedelta(minutes=500)),
}  # fmt: skip


def expected(rows: Rows, person: Person, wanted: JobFilter) -> list[str]:
    """The plain meaning of a filter, without any index."""

    def fits(j: dict[str, Any]) -> bool:
        owner = Owner(j["user_id"], j["project_id"], j["site_id"])
        return (
            can(person, Verb.SEE_JOB, ("job", owner))
            and (not wanted.states or j["state"] in wanted.states)
            and wanted.site in (None, j["site_id"])
            and wanted.name in (None, j["name"])
            and (wanted.user is None or f"u{rows.users.index(j['user_id'])}" == wanted.user)
            and (wanted.project is None or f"p{rows.projects.index(j['project_id'])}" == wanted.project)
            and (wanted.tag is None or j["tags"].get(wanted.tag[0]) == wanted.tag[1])
            and (wanted.created_after is None or j["created_at"] >= wanted.created_after)
            and (wanted.created_before is None or j["created_at"] < wanted.created_before)
        )

    return sorted((j["id"] for j in rows.jobs if fits(j)), reverse=True)


def all_pages(conn: Connection, person: Person, wanted: JobFilter, limit: int) -> list[str]:
    found: list[str] = []
    before = None
    while True:
        items, before = views.page(conn, person, wanted, before=before, limit=limit)
        found += [item["id"] for item in items]
        if before is None:
            return found


@pytest.mark.parametrize("walks_max", [60, 2])
def test_every_filter_shows_everybody_exactly_what_they_may_see(
    rows: Rows, walks_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.jobs.listing._WALKS_MAX", walks_max)
    monkeypatch.setattr("gateway.jobs.listing._PROBE", 20)  # so that 600 jobs are many
    with rows.db.read() as conn:
        for (who, person), (what, wanted) in product(rows.people.items(), FILTERS.items()):
            assert all_pages(conn, person, wanted, 25) == expected(rows, person, wanted), (who, what)


def test_a_project_or_a_person_is_named_by_id_as_well(rows: Rows) -> None:
    with rows.db.read() as conn:
        by_name = all_pages(conn, rows.people["operator"], JobFilter(project="p1", user="u0"), 100)
        ids = JobFilter(project=rows.projects[1], user=rows.users[0])
        assert all_pages(conn, rows.people["operator"], ids, 100) == by_name != []


def test_jobs_that_are_added_between_pages_move_nothing(rows: Rows) -> None:
    operator = rows.people["operator"]
    with rows.db.read() as conn:
        first, before = views.page(conn, operator, JobFilter(), before=None, limit=10)
        whole = all_pages(conn, operator, JobFilter(), 100)
    with rows.db.write() as conn:
        new = job(random.Random(1), 9999, rows.users, rows.projects)
        conn.execute(insert(JOBS), {k: v for k, v in new.items() if k != "tags"})
    with rows.db.read() as conn:
        second, _ = views.page(conn, operator, JobFilter(), before=before, limit=10)
    assert [item["id"] for item in (*first, *second)] == whole[:20]


def test_one_job_is_shown_by_one_statement(rows: Rows) -> None:
    statements: list[str] = []
    event.listen(rows.db.engine, "before_cursor_execute", lambda c, cur, text, *_: statements.append(text))
    with rows.db.read() as conn:
        for one in rows.jobs[:20]:
            assert views.show(conn, rows.people["operator"], one["id"]) is not None
    assert len([text for text in statements if text.startswith("SELECT")]) == 20


def test_a_job_in_the_line_shows_how_many_are_ahead_of_it(rows: Rows) -> None:
    waiting = [j for j in rows.jobs if j["phase"] == "waiting" and j["site_id"] == "alpha"]
    with rows.db.read() as conn:
        shown = [views.show(conn, rows.people["operator"], j["id"]) for j in waiting]
    assert [job["waiting"]["ahead"] for job in shown if job] == list(range(len(waiting)))


def test_an_array_counts_the_tasks_of_its_present_attempt(rows: Rows) -> None:
    array = rows.jobs[0]["id"]
    run = {"job_id": array, "restart": 0, "site_id": "alpha", "native_id": "1", "observed_at": NOW}
    with rows.db.write() as conn:
        conn.execute(JOBS.update().where(JOBS.c.id == array).values(array_size=3, attempt=2))
        conn.execute(insert(RUNS), [run | {"attempt": 1, "task": 0, "state": "failed"}]
                     + [run | {"attempt": 2, "task": i, "state": s} for i, s in enumerate(["active"] * 2)])  # fmt: skip
    with rows.db.read() as conn:
        one = views.show(conn, rows.people["operator"], array)
        many = views.show_many(conn, rows.people["operator"], [array, "jnone"])
    assert one is not None and one["array"] == many[array]["array"] == {"size": 3, "counts": {"active": 2}}


def test_who_may_see_a_job_but_not_its_output_sees_no_texts(rows: Rows) -> None:
    theirs = next(j for j in rows.jobs if j["user_id"] == rows.users[0] and j["project_id"] == rows.projects[1])
    owner = rows.people["owner"]
    author = replace(rows.people["author"], user_id=rows.users[0])
    with rows.db.read() as conn:
        seen, own = (views.show(conn, person, theirs["id"]) for person in (owner, author))
        assert views.show(conn, rows.people["stranger"], theirs["id"]) is None
    assert seen is not None and own is not None
    assert (seen["job_spec"], own["job_spec"]) == ({}, {"executable": "x"})
