"""A gateway on each kind of database with this machine as its centre, served over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from gateway.identity import service, tokens
from tests.builders import Gateway, api, local_site, make_gateway


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Gateway:
    return make_gateway(tmp_path, db_url, local_site(tmp_path))


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    """A client with the token of alice, who owns the project."""
    with api(gateway) as made:
        yield made


@pytest.fixture
def login(gateway: Gateway) -> Callable[..., dict[str, str]]:
    """Make a person and log in: the headers of their requests."""

    def make(
        name: str, *, operator: bool = False, role: str | None = None, scopes: tuple[str, ...] = ("read", "submit")
    ) -> dict[str, str]:
        services = gateway.services
        now = services.clock()
        with services.db.write() as conn:
            user_id = service.create_user(conn, name=name, operator_admin=operator, now=now)
            if role is not None:
                service.add_member(conn, project_id=gateway.project_id, user_id=user_id, role=role, now=now)
            lifetime = timedelta(hours=1)
            made = tokens.issue(conn, user_id=user_id, name="t", scopes=scopes, lifetime=lifetime, now=now)
        return {"Authorization": f"Bearer {made.secret}"}

    return make


@pytest.fixture
def operator(login: Callable[..., dict[str, str]]) -> dict[str, str]:
    return login("operator", operator=True, scopes=("read", "submit", "admin"))
