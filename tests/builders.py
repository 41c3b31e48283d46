"""A whole gateway in a test: composed on a given database, its ticks run by hand, its HTTP served for real."""

from __future__ import annotations

import asyncio
import getpass
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import yaml
from fastapi import FastAPI
from sqlalchemy import update

from accounting import store as books
from accounting.tariff import PriceRule
from gateway import leases
from gateway.app import create_app
from gateway.bootstrap import compose, open_database
from gateway.identity import service, tokens
from gateway.identity.access import Person
from gateway.identity.keys import load_or_create
from gateway.jobs import request, views
from gateway.jobs import service as jobs
from gateway.jobs.facts import facts
from gateway.jobs.repository import SITES
from gateway.services import Lease, Services
from gateway.settings import Settings
from gateway.ticks import TICKS
from site_adapters.types import Attributes, Dependency, JobSpec, Placement
from tests.lab.slurm import SlurmLab, wait_for

MICRO = 1_000_000

# What a test composed and the fixture in conftest.py closes behind it.
OPENED: list[Services] = []


def local_site(folder: Path, **more: Any) -> dict[str, Any]:
    """This machine as a centre, with its staging area in a folder of the test."""
    return {"site": "local", "scheduler": "local", "transport": {"kind": "local"},
            "staging_root": str(folder / "staging"), **more}  # fmt: skip


def slurm_site(lab: SlurmLab, **more: Any) -> dict[str, Any]:
    """A lab centre over SSH, with an observer and a meter of its own."""
    own = {"username": "lab_gw", "key_file": str(lab.user_key_path)}
    return {
        "site": lab.cluster, "scheduler": "slurm",
        "transport": {"kind": "ssh", "host": "127.0.0.1", "port": lab.ssh_port, "host_key": lab.host_key},
        "credentials": {"observer": own, "meter": own}, "policy": {"logins_per_second": 50}, **more,
    }  # fmt: skip


@dataclass(slots=True)
class Gateway:
    """Services with one researcher, one project and a tariff of 0.36 per core-hour (100 micro-units a core-second)."""

    services: Services
    person: Person
    project_id: str
    secret: str
    leases: dict[str, Lease] = field(default_factory=dict)

    def submit(self, site: str, script: str | None = "#!/bin/sh\ntrue\n", **wanted: Any) -> str:
        """Accept a job, as POST /jobs does; its id.

        Without the login environment of whoever runs the tests: a profile may take a minute (pyenv's rehash lock).
        """
        wanted.setdefault("inherit_environment", site != "local")
        attributes = wanted.pop("attributes", Attributes(duration=600))
        spec = JobSpec(script=script, attributes=attributes, placement=Placement((site,)), **wanted)
        return self.accept(spec)

    def accept(self, spec: JobSpec, idempotency: jobs.IdempotencyKey | None = None) -> str:
        s, now = self.services, self.services.clock()
        with s.db.read() as conn:
            prepared = request.prepare(s, request.Facts(conn), self.person, spec, project=None, now=now)
        with s.db.write() as conn:
            return jobs.accept(s, conn, self.person, prepared, now=now, idempotency=idempotency).job_id

    def after(self, parent: str, site: str, condition: Any, **wanted: Any) -> str:
        return self.submit(site, dependencies=(Dependency(parent, condition),), **wanted)

    def wish(self, job_id: str, verb: Any) -> None:
        s = self.services
        with s.db.write() as conn:
            jobs.wish(s, conn, self.person, job_id, verb, now=s.clock())

    def show(self, job_id: str) -> dict[str, Any]:
        with self.services.db.read() as conn:
            found = views.show(conn, self.person, job_id)
        assert found is not None
        return found

    def state(self, job_id: str) -> str:
        return str(self.show(job_id)["status"]["state"])

    def events(self, job_id: str) -> list[str]:
        with self.services.db.read() as conn:
            return [e["kind"] for e in views.events(conn, job_id, after=0)]

    def tick(self, *names: str, site: str | None = None) -> None:
        """Run ticks once, by name (none: dispatch, watch, collect), at one site or at all."""
        for site_id in [site] if site else list(self.services.sites):
            lease = self.leases.get(site_id) or leases.take(self.services.db, site_id, "test")
            self.leases[site_id] = lease
            for tick in TICKS:
                if tick.name in (names or ("dispatch", "watch", "collect")):
                    tick.run(self.services, lease, self.services.clock())

    def until(self, job_id: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        """Run ticks until the job is in one of the states."""

        def there() -> bool:
            self.tick("dispatch", "watch")
            return self.state(job_id) in states

        try:
            wait_for(there, f"{job_id} to be {states}", seconds, every=0.1)
        except TimeoutError as exc:
            raise AssertionError(f"{exc}: {self.show(job_id)['status']} {self.events(job_id)}") from exc
        return self.show(job_id)

    def charged(self, job_id: str, seconds: float = 30.0) -> dict[str, Any]:
        """Collect until the centre's record governs. The day's long look, a dozen questions, was before this job."""
        never = SITES.c.collected_until.is_(None)
        with self.services.db.write() as conn:
            conn.execute(update(SITES).where(never).values(collected_until=self.services.clock()))

        def there() -> bool:
            self.tick("collect")
            usage = self.show(job_id)["usage"]
            return usage is not None and usage["final"]

        wait_for(there, "the centre's record", seconds, every=0.2)
        return self.show(job_id)

    def check_books(self) -> None:
        with self.services.db.read() as conn:
            assert books.check_books(conn) == []


def make_gateway(
    folder: Path, db_url: str, *sites: dict[str, Any], credit: int = 1000, login: str | None = None, **settings: Any
) -> Gateway:
    """A gateway over these sites; the researcher's accounts are linked and proved."""
    return people(compose_gateway(folder, db_url, *sites, **settings), *sites, credit=credit, login=login)


def compose_gateway(folder: Path, db_url: str, *sites: dict[str, Any], **settings: Any) -> Services:
    """A gateway over these sites, with nobody in it."""
    (folder / "sites").mkdir(parents=True, exist_ok=True)
    for site in sites:
        (folder / "sites" / f"{site['site']}.yaml").write_text(yaml.safe_dump(site))
    wanted: dict[str, Any] = {"home": folder, "database_url": db_url, "unknown_wait_s": 0.2, **settings}
    services = compose(Settings(**wanted))
    OPENED.append(services)
    return services


def people(services: Services, *sites: dict[str, Any], credit: int = 1000, login: str | None = None) -> Gateway:
    """One researcher with a project, credit, a tariff, and linked accounts."""
    now = services.clock()
    with services.db.write() as conn:
        user_id = service.create_user(conn, name="alice", now=now)
        project_id = service.create_project(conn, name="demo", currency="CNY", now=now)
        service.add_member(conn, project_id=project_id, user_id=user_id, role="owner", now=now)
        books.grant_credit(conn, project_id=project_id, commodity="CNY", amount=credit * MICRO, idem_key="g1", now=now)
        start = datetime(2020, 1, 1, tzinfo=UTC)
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, start), now=now)
        lifetime = timedelta(days=3)  # some tests turn their clock to the next day's noon
        made = tokens.issue(conn, user_id=user_id, name="t", scopes=tokens.SCOPES, lifetime=lifetime, now=now)
    person = Person(user_id, "alice", scopes=tokens.SCOPES, roles={project_id: "owner"})
    gateway = Gateway(services, person, project_id, made.secret)
    for site in sites:
        link(gateway, site, login)
        facts(services, leases.take(services.db, site["site"], "facts"), now)
    return gateway


def link(gateway: Gateway, site: dict[str, Any], login: str | None = None) -> None:
    """Link and prove the researcher's login at a site."""
    services = gateway.services
    own = site.get("credentials", {}).values()
    key_file = next((login["key_file"] for login in own if "key_file" in login), None)
    username = login or ("lab_alice" if site.get("transport", {}).get("kind") == "ssh" else getpass.getuser())
    with services.db.write() as conn:
        made = service.link_account(
            conn, services.sites[site["site"]], load_or_create(services.settings.effective_master_key_file),
            user_id=gateway.person.user_id, username=username,
            private_key=Path(key_file).read_text() if key_file else None, now=services.clock(),
        )  # fmt: skip
    service.verify_account(services, account_id=made.account_id, user_id=gateway.person.user_id, now=services.clock())


class Altered:
    """An interface of a real site with one method replaced by the test's."""

    def __init__(self, real: Any, **methods: Any) -> None:
        self._real, self._methods = real, methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._real, name)


@contextmanager
def submitting_by(gateway: Gateway, site: str, submit: Any) -> Iterator[Any]:
    """Within, the site's `submit` is the test's; yields the real one."""
    sites: Any = gateway.services.sites
    real = sites[site]
    sites[site] = replace(real, management=Altered(real.management, submit=submit))
    try:
        yield real.management.submit
    finally:
        sites[site] = real


def reopen(gateway: Gateway) -> Gateway:
    """The same gateway after a restart: composed anew on the same database."""
    settings = gateway.services.settings
    gateway.services.close()
    services = compose(settings, db=open_database(settings))
    OPENED.append(services)
    return Gateway(services, gateway.person, gateway.project_id, gateway.secret)


class _QuickServer(uvicorn.Server):
    """uvicorn looks every 0.1 s whether it should stop, and waits 0.1 s more: most of a short test's time."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: Any = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self.lifespan.shutdown()  # ends the streams
        deadline = time.monotonic() + 5
        state = self.server_state
        while (state.connections or state.tasks) and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn's own
            await asyncio.sleep(0.005)


# The routers of this process's first application, by their place in it.
_ROUTERS: dict[int, Any] = {}


def _application(services: Services) -> FastAPI:
    """As served, except that what FastAPI makes of the routers at the first request (0.2 s) is made once a process."""
    app = create_app(services)
    routes: list[Any] = app.router.routes
    for place, route in enumerate(routes):
        if hasattr(route, "original_router"):
            routes[place] = made = _ROUTERS.setdefault(place, route)
            assert made.original_router is route.original_router
    return app


@contextmanager
def served(services: Services) -> Iterator[str]:
    """HTTP on a free loopback port; the address."""
    config = uvicorn.Config(_application(services), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    server = _QuickServer(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, "the server", every=0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def api(gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of the served gateway with the researcher's token."""
    with (
        served(gateway.services) as url,
        httpx.Client(
            base_url=f"{url}/api/v2", headers={"Authorization": f"Bearer {gateway.secret}"}, verify=False, timeout=60
        ) as client,
    ):
        yield client
