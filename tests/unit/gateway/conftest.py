"""A gateway on each kind of database with this machine as its centre, served over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from penstock.cli import penstock

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
        name: str, *, operator: bool = False, role: str | None = None, staff: str | None = None,
        scopes: tuple[str, ...] = ("read", "submit"),
    ) -> dict[str, str]:  # fmt: skip
        services = gateway.services
        now = services.clock()
        with services.db.write() as conn:
            user_id = service.create_user(conn, name=name, operator_admin=operator, now=now)
            if role is not None:
                service.add_member(conn, project_id=gateway.project_id, user_id=user_id, role=role, now=now)
            if staff is not None:
                service.add_staff(conn, site_id=staff, user_id=user_id, now=now)
            lifetime = timedelta(hours=1)
            made = tokens.issue(conn, user_id=user_id, name="t", scopes=scopes, lifetime=lifetime, now=now)
        return {"Authorization": f"Bearer {made.secret}"}

    return make


@pytest.fixture
def operator(login: Callable[..., dict[str, str]]) -> dict[str, str]:
    return login("operator", operator=True, scopes=("read", "submit", "admin"))


@pytest.fixture
def type_(client: httpx.Client, operator: dict[str, str]) -> Callable[..., str]:
    """Type `penstock …` as the operator, or as somebody else by their headers; what it says."""
    url = str(client.base_url).removesuffix("/api/v2/")

    def call(*words: str, as_: dict[str, str] = operator, fails: bool = False) -> str:
        token = as_["Authorization"].removeprefix("Bearer ")
        env = {"PENSTOCK_URL": url, "PENSTOCK_TOKEN": token, "COLUMNS": "200"}
        done: Result = CliRunner().invoke(penstock, words, env=env, standalone_mode=False)
        assert (bool(done.return_value) or done.exception is not None) == fails, (done.exception, done.output)
        return f"{done.output}{done.exception or ''}"

    return call
