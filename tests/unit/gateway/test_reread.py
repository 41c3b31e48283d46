"""Records that nobody could read are read again from their kept text, once the reason is mended, whatever their age."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select

from accounting import store as books
from accounting.sources import sacct
from accounting.store import periods
from accounting.store.schema import CHARGES, ENTRIES, USAGE
from gateway.billing.names import Names
from gateway.billing.prepare import prepare
from gateway.billing.reread import Reread, reread
from gateway.identity import vault
from site_adapters.types import SiteUsage
from tests.builders import Gateway
from tests.unit.gateway.test_admin_books import Admin, admin
from tests.unit.gateway.test_preparers import rows

_ = admin  # the fixture


@pytest.fixture
def kept(gateway: Gateway) -> list[SiteUsage]:
    """Three runs of our job and a stranger's, in quarantine for months: a state that no parser knew."""
    gateway.submit("local")
    usages = [SiteUsage(u.format, {**u.fields, "State": "WEATHER"}) for u in rows(gateway, 4)]
    usages[3] = SiteUsage("sacct/1", {**usages[3].fields, "User": "mallory"})
    long_ago = gateway.services.clock() - timedelta(days=200)
    with gateway.services.db.write() as conn:
        vault.keys_of(gateway.services, conn, {gateway.person.user_id}, long_ago)
    found = prepare(gateway.services, "local", usages).unreadable
    with gateway.services.db.write() as conn:
        names = Names(gateway.services, conn, "local", make=long_ago)
        assert books.quarantine(conn, found, kept=names.unreadable, now=long_ago) == 4
    return usages


@pytest.fixture
def mended(kept: list[SiteUsage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sacct, "STATES", sacct.STATES | {"WEATHER"})


def read_again(gateway: Gateway) -> Reread:
    return reread(gateway.services, "local", by="ada", now=gateway.services.clock())


def waiting(gateway: Gateway) -> int:
    with gateway.services.db.read() as conn:
        return books.unread(conn, "local")


def charged(gateway: Gateway) -> int:
    with gateway.services.db.read() as conn:
        assert books.check_books(conn) == []
        return int(conn.scalar(select(func.count()).select_from(CHARGES)) or 0)


def test_before_the_reason_is_mended_nothing_changes(gateway: Gateway, kept: list[SiteUsage]) -> None:
    done = read_again(gateway)
    assert (done.booked, dict(done.still)) == (0, {"ValueError: unknown state 'WEATHER'": 4})
    assert (waiting(gateway), charged(gateway)) == (4, 0)


@pytest.mark.usefixtures("kept", "mended")
def test_what_can_be_read_is_booked_once_and_strangers_runs_are_not(gateway: Gateway) -> None:
    done = read_again(gateway)
    assert (done.booked, done.nobody, dict(done.still)) == (3, 1, {})
    assert (waiting(gateway), charged(gateway)) == (0, 3)
    again = read_again(gateway)
    assert (again.booked, again.nobody, charged(gateway)) == (0, 1, 3)


@pytest.mark.usefixtures("mended")
def test_what_the_centre_told_since_is_newer_and_stands(gateway: Gateway, kept: list[SiteUsage]) -> None:
    corrected = SiteUsage("sacct/1", {**kept[0].fields, "State": "FAILED", "ElapsedRaw": "30"})
    with gateway.services.db.write() as conn:
        books.record_and_book(
            conn, prepare(gateway.services, "local", [corrected]).sealed, now=gateway.services.clock()
        )
    done = read_again(gateway)
    assert (done.booked, done.known) == (2, 1)
    with gateway.services.db.read() as conn:
        of_run = select(USAGE.c.elapsed_s, USAGE.c.state).where(USAGE.c.run_key == "c:1")
        assert [tuple(row) for row in conn.execute(of_run)] == [(30, "FAILED")]


@pytest.mark.usefixtures("kept", "mended")
def test_runs_of_a_closed_month_count_in_the_open_one(gateway: Gateway) -> None:
    now = gateway.services.clock()
    with gateway.services.db.read() as conn:
        ended = max(int(u.fields["End"]) for u in rows(gateway, 4))
    month = (now.fromtimestamp(ended, now.tzinfo).year, now.fromtimestamp(ended, now.tzinfo).month)
    closes = max(now, now.fromtimestamp(ended, now.tzinfo) + timedelta(days=40))
    with gateway.services.db.write() as conn:
        period = periods.open_period(conn, year=month[0], month=month[1], zone="UTC", by="ada", now=closes)
        periods.begin_closing(conn, period, by="ada", now=closes)
        periods.close_period(conn, periods.periods(conn)[0], by="ada", now=closes)
    assert reread(gateway.services, "local", by="ada", now=closes).booked == 3
    with gateway.services.db.read() as conn:
        entries = conn.execute(select(ENTRIES.c.effective_at, ENTRIES.c.service_at).where(ENTRIES.c.kind == "charge"))
        assert all(at >= period.ends_at and service is not None for at, service in entries)


@pytest.mark.usefixtures("kept", "mended")
def test_the_operator_asks_for_it_over_http(
    client: httpx.Client, operator: dict[str, str], type_: Callable[..., str]
) -> None:
    assert client.post("billing/meters/local/reread").status_code == 403
    found = client.post("billing/meters/local/reread", headers=operator)
    assert found.json() == {"booked": 3, "known": 0, "nobody": 1, "no_run": 0, "still": []}
    assert type_("billing", "reread", "local") == "0 booked\n"


@pytest.mark.usefixtures("kept", "mended")
def test_the_admin_asks_for_it_in_the_shell(admin: Admin) -> None:
    assert admin("reread", "local") == "3 booked; 0 told by the centre since, 1 of nobody here, 0 no run\n"
    assert "There is no site" in admin("reread", "nowhere", code=1)
