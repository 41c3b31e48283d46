"""A page of 100 jobs out of 1,000,000, for every filter of GET /jobs, rare states included, over HTTP."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from benchmarks import stage
from benchmarks.stage import Row
from gateway.identity import service, tokens
from gateway.ids import first_id
from gateway.jobs.lifecycle import FINAL
from gateway.jobs.repository import JOBS
from tests.builders import Gateway, local_site, make_gateway

COUNT, PEOPLE, PAGE, TIMES = 1_000_000, 50, 100, 15
# One job a minute: two years of them.
BEGUN = datetime(2024, 1, 1, tzinfo=UTC)
# Of 100,000 jobs: what has ended is most, what is suspended hardly ever seen.
STATES = (("completed", 80_000), ("failed", 12_000), ("canceled", 6_930), ("active", 600), ("queued", 400),
          ("new", 50), ("held", 10), ("unknown", 6), ("suspended", 4))  # fmt: skip


def run() -> None:
    """The 95th of a hundred times in milliseconds: the slowest filter, and what a page costs without one."""
    rows: list[Row] = []
    with stage.folder() as folder, stage.databases(folder) as databases:
        for name, url in databases:
            home = folder / name
            gateway = make_gateway(home, url, local_site(home), credit=10**9)
            begun = time.monotonic()
            secrets = _fill(gateway)
            print(f"{name}: {COUNT:,} jobs made in {time.monotonic() - begun:.0f} s", flush=True)
            gateway.services.close()
            with stage.processes(home, url, worker=False) as (address,):
                rows += _measure(name, address.rpartition("//")[2], secrets, gateway.secret)
    stage.report(rows)


def _measure(name: str, address: str, secrets: Mapping[str, str], submitter: str) -> list[Row]:
    rows, slowest, plain = [], (0.0, ""), 0.0
    connection = http.client.HTTPConnection(address, timeout=60)
    floor = stage.percentile([_timed(connection, "/nothing", "") for _ in range(100)], 0.95)
    for who, secret in secrets.items():
        for filters in _filters():
            path = f"/api/v2/jobs?limit={PAGE}{filters}"
            _timed(connection, path, secret)
            times = [_timed(connection, path, secret) for _ in range(TIMES)]
            p95 = stage.percentile(times, 0.95)
            slowest = max(slowest, (p95, f"{who} {filters or 'no filter'}, p50 {stage.percentile(times, 0.5):.1f} ms"))
            plain = p95 if (who, filters) == ("operator", "") else plain
            if p95 > 30:
                print(f"  {p95:6.1f} ms (p50 {stage.percentile(times, 0.5):.1f})  {who} {filters}", flush=True)
    beside = f"a route that does nothing: {floor:.1f} ms"
    rows.append(Row(f"a page of {PAGE} of {COUNT:,} jobs, {name}, no filter", f"p95 {plain:.1f} ms", beside, "≤ 30 ms"))
    rows.append(Row(f"… the slowest of {2 * len(list(_filters()))} filters", f"p95 {slowest[0]:.1f} ms", slowest[1]))
    pages, seen = _walk(connection, secrets["operator"], submitter)
    rows.append(Row("… ten pages while jobs are added", f"{seen} jobs, each once", f"{pages} pages"))
    connection.close()
    return rows


def _filters() -> Iterator[str]:
    """Every documented filter, some of them together; `&…` of a query."""
    middle = BEGUN + timedelta(minutes=COUNT // 2)
    month = [("created_after", middle.isoformat()), ("created_before", (middle + timedelta(days=30)).isoformat())]
    alone: list[list[tuple[str, str]]] = [[("state", state)] for state, _ in STATES]
    alone += [[("state", "held"), ("state", "suspended"), ("state", "unknown")], [("site", "local")]]
    alone += [[("site", "far")], [("project", "demo")], [("project", "p7")], [("user", "u7")], [("name", "run7")]]
    alone += [[("name", "nobody's")], [("tag", "rare:yes")], [("tag", "kind:a")], month[:1], month[1:], month]
    rest = ([("state", "suspended")], [("state", "completed")], [("tag", "rare:yes")], month)
    pairs = [[*one, *more] for one in ([("user", "u7")], [("project", "p7")], [("site", "far")]) for more in rest]
    for chosen in ([], *alone, *pairs):
        yield "".join(f"&{urlencode([pair], quote_via=quote)}" for pair in chosen)


def _timed(connection: http.client.HTTPConnection, path: str, secret: str) -> float:
    begun = time.perf_counter()
    _get(connection, path, secret)
    return (time.perf_counter() - begun) * 1000


def _get(connection: http.client.HTTPConnection, path: str, secret: str) -> bytes:
    connection.request("GET", path, headers={"Authorization": f"Bearer {secret}"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, (path, answer.status, body[:300])
    return body


def _walk(connection: http.client.HTTPConnection, secret: str, submitter: str) -> tuple[int, int]:
    """Follow ten pages while a job is accepted between any two: nothing twice, nothing left out."""
    job = json.dumps({"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}})
    seen: list[str] = []
    cursor = ""
    for _ in range(10):
        page = json.loads(_get(connection, f"/api/v2/jobs?limit={PAGE}{cursor}", secret))
        seen += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
        connection.request("POST", "/api/v2/jobs", job, {"Authorization": f"Bearer {submitter}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 202
    whole = json.loads(_get(connection, "/api/v2/jobs?limit=500", secret))
    after = [item["id"] for item in whole["items"] if item["id"] <= seen[0]]
    assert seen == sorted(set(seen), reverse=True)
    assert seen[: len(after)] == after
    return 10, len(seen)


# ---------------------------------------------------------------- a million jobs


def _fill(gateway: Gateway) -> dict[str, str]:
    """Jobs of many people and projects at two sites, made by the database itself; tokens of an operator and a person.

    The person is a member of some projects, owns one, and sees a fiftieth of all jobs as their own.
    """
    services = gateway.services
    gateway.submit("local")
    now = services.clock()
    with services.db.write() as conn:
        people = [service.create_user(conn, name=f"u{n}", operator_admin=n == 0, now=now) for n in range(PEOPLE)]
        projects = [gateway.project_id]
        projects += [service.create_project(conn, name=f"p{n}", currency="CNY", now=now) for n in range(1, 20)]
        conn.exec_driver_sql("INSERT INTO sites (id, fencing) VALUES ('far', 0)")
        service.add_member(conn, project_id=projects[0], user_id=people[0], role="researcher", now=now)
        service.add_member(conn, project_id=projects[3], user_id=people[7], role="owner", now=now)
        service.add_member(conn, project_id=projects[7], user_id=people[7], role="researcher", now=now)
        secrets = {
            who: tokens.issue(conn, user_id=user, name="b", scopes=tokens.SCOPES, lifetime=timedelta(days=1),
                              now=now).secret
            for who, user in (("operator", people[0]), ("researcher", people[7]))
        }  # fmt: skip
    _make_jobs(gateway, people, projects)
    return secrets


def _make_jobs(gateway: Gateway, people: list[str], projects: list[str]) -> None:
    """Copies of the one job that was accepted, with other owners, places, names, states and times."""
    db = gateway.services.db
    varied = ("id", "user_id", "project_id", "site_id", "name", "state", "phase", "tag", "created_at")
    with db.write() as conn:
        for index in sorted(JOBS.indexes, key=str):  # building them at the end takes half the time
            index.drop(conn)
        conn.exec_driver_sql(f"CREATE TEMPORARY TABLE made AS SELECT {', '.join(varied)} FROM jobs WHERE 1 = 0")
        raw: Any = conn.connection.driver_connection
        if db.is_sqlite:
            raw.executemany(f"INSERT INTO made VALUES ({', '.join('?' * len(varied))})", _rows(people, projects))
        else:
            with raw.cursor().copy("COPY made FROM STDIN") as copy:
                for row in _rows(people, projects):
                    copy.write_row(row)
        names = ", ".join(column.name for column in JOBS.c)
        values = ", ".join(f"{'made' if c.name in varied else 'jobs'}.{c.name}" for c in JOBS.c)
        conn.exec_driver_sql(f"INSERT INTO jobs ({names}) SELECT {values} FROM made, jobs")
        for key, value, every in (("rare", "yes", 50_000), ("kind", "a", 10)):
            picked = "SELECT id, row_number() OVER (ORDER BY id) AS n FROM jobs"
            conn.exec_driver_sql(
                f"INSERT INTO job_tags (job_id, key, value) SELECT id, '{key}', '{value}' FROM ({picked}) AS j "
                f"WHERE n %% {every} = 0".replace("%%", "%" if db.is_sqlite else "%%")
            )
        for index in sorted(JOBS.indexes, key=str):
            index.create(conn)
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("ANALYZE")


def _rows(people: list[str], projects: list[str]) -> Iterator[tuple[str, ...]]:
    """The columns that vary: reproducible, and without a pattern that an index could follow by luck."""
    chance = random.Random(7)
    words = [word for word, of_100_000 in STATES for _ in range(of_100_000 // 2)]
    for number in range(COUNT):
        at = BEGUN + timedelta(minutes=number)
        state = words[chance.randrange(len(words))]
        job_id = first_id("j", at)[:-8] + f"{number:08x}"
        phase = "ended" if state in FINAL else "waiting" if state in ("new", "held") else "at_site"
        yield (job_id, people[chance.randrange(PEOPLE)], projects[chance.randrange(20)],
               "far" if chance.random() < 0.2 else "local", f"run{chance.randrange(1000)}", state, phase,
               f"b{number:012d}", f"{at:%Y-%m-%d %H:%M:%S}.000000")  # fmt: skip
