"""What the operator types about the books: credit, prices, statements, the month, breaks, alarms, erasing a person."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from accounting import store as books
from accounting.evidence import log
from accounting.ledger import CORE_SECONDS
from accounting.sources import read_usage
from accounting.store import periods
from accounting.store.schema import USAGE
from accounting.usage import Meter, Unreadable, UsageRecord
from gateway.__main__ import main
from gateway.billing import evidence
from gateway.billing.names import Names
from gateway.errors import Unauthenticated
from gateway.identity import vault
from gateway.identity.keys import load_or_create
from gateway.identity.tokens import Doorkeeper
from gateway.jobs.repository import ACCOUNTS, SITES
from tests.builders import Gateway
from tests.unit.accounting.makers import agree, agreement
from tests.unit.accounting.test_reconcile import T0, have, line, row
from tests.unit.gateway.test_meters import have as metered
from tests.unit.gateway.test_meters import tick

Admin = Callable[..., str]


@pytest.fixture
def admin(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Admin:
    """Type `gateway admin …`; what it says, after its exit code was as expected."""
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", gateway.services.db.url)

    def type_(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        got = main(["admin", *words])
        told = capsys.readouterr()
        assert got == code, told
        return told.err if code else told.out

    return type_


@pytest.fixture
def november(gateway: Gateway, tmp_path: Path) -> Path:
    """The centre's statement: of two runs that we have one as we have it and one higher, and one that is not ours."""
    have(gateway, row(1), row(2))
    lines = [line(1), line(2, quantity=99_999, amount="9.9999"), line(5, run_key="alpha:999", native_id="999")]
    file = tmp_path / "november.json"
    file.write_text(json.dumps({"lines": lines, "totals": {"lines": 4}}))
    return file


def may_use(gateway: Gateway, commodity: str) -> int:
    with gateway.services.db.read() as conn:
        limits = {e.commodity: e.limit for e in books.exposure(conn, gateway.project_id)}
    return limits[commodity] or 0


# ---------------------------------------------------------------- credit and prices


def test_credit_is_what_a_project_may_use_and_the_same_key_is_the_same_grant(gateway: Gateway, admin: Admin) -> None:
    before = may_use(gateway, "CNY")
    assert admin("credit", "demo", "12.50", "--key", "autumn") == "demo may use 12.50 CNY more\n"
    assert admin("credit", "demo", "12.50", "--key", "autumn") == "granted before: demo 12.50 CNY\n"
    assert may_use(gateway, "CNY") == before + 12_500_000
    assert admin("credit", "demo", "1.5", "--core-hours") == "demo may use 1.50 core-hours more\n"
    assert may_use(gateway, CORE_SECONDS) == 5_400


REFUSED = (
    (("credit", "demo", "much"), "much is no amount; write it like 0.10"),
    (("credit", "demo", "0.0000001"), "at most six decimals"),
    (("credit", "demo", "0.0001", "--core-hours"), "no whole number of core-seconds"),
    (("credit", "demo", "-3"), "a grant is more than nothing"),
    (("credit", "nothing", "3"), "There is no project nothing."),
    (("tariff", "dear"), "dear is no amount"),
    (("tariff", "0.10"), "rule 1 of the same scope holds from 2020-01-01"),
    (("member", "demo", "alice", "--role", "boss"), "'boss' is no role. owner or researcher."),
    (("project", "new", "--currency", "yuan"), "'yuan' is no ISO 4217 code. Write it like CNY."),
    (("statement", "nowhere", "2026-11", "x.csv"), "There is no site nowhere."),
    (("statement", "local", "2026-11", "not-there.csv"), "No such file or directory: 'not-there.csv'"),
    (("reconcile", "7"), "There is no statement 7."),
    (("month", "november"), "november is no month; write it like 2026-11."),
    (("breaks", "--period", "2026-13"), "2026-13 is no month; write it like 2026-11."),
    (("breaks", "--site", "nowhere"), "There is no site nowhere."),
    (("open-site", "nowhere"), "There is no site nowhere."),
    (("erase", "nobody", "--yes"), "There is no user 'nobody'."),
    (("erase", "alice"), "Erasing cannot be undone; say --yes."),
    (("restore", "not-there.backup"), "the manifest not-there.backup.json cannot be read"),
)


def test_what_cannot_be_is_one_line_that_says_why(admin: Admin) -> None:
    for words, told in REFUSED:
        said = admin(*words, code=1)
        assert said.startswith("gateway: ") and said.count("\n") == 1 and told in said, said


def test_a_price_says_of_what_where_and_from_when(gateway: Gateway, admin: Admin) -> None:
    said = admin("tariff", "0.25", "--site", "local", "--queue", "big")
    assert said.startswith("price 2: 0.25 CNY per core-hour, local, big, from 2")
    with gateway.services.db.read() as conn:
        (made,) = [r for r in books.tariffs(conn) if r.queue == "big"]
    assert (made.price_micro, made.site_id, made.currency) == (250_000, "local", "CNY")


# ---------------------------------------------------------------- statements, the month, breaks


def test_a_statement_is_received_once_and_what_is_odd_about_it_is_told(admin: Admin, november: Path) -> None:
    words = ("statement", "local", "2026-11", str(november), "--format", "json")
    assert admin(*words).splitlines() == ["statement 1", "! B14: it says 4 lines, and has 3"]
    assert admin(*words).startswith("statement 1 (received before)")


def test_holes_in_the_ids_of_everybodys_jobs_are_told(admin: Admin, tmp_path: Path) -> None:
    rows = [row(n) for n in (1, 2, 3, 99)]
    file = tmp_path / "november.sacct"
    file.write_text("\n".join("|".join(values) for values in (rows[0].keys(), *(r.values() for r in rows))))
    words = ("statement", "local", "2026-11", str(file), "--format", "sacct")
    assert "no job has an id" not in admin(*words)
    assert "! no job has an id from 4 to 98: 95 are missing" in admin(*words, "--everybody")


def test_the_month_says_what_agrees_what_differs_for_how_much_and_how_far_it_is_closed(
    gateway: Gateway, admin: Admin, november: Path
) -> None:
    assert admin("month", "2026-11").splitlines() == [
        "local 2026-11: no statement yet", "books of 2026-11: not opened: nothing is closed",
    ]  # fmt: skip
    admin("statement", "local", "2026-11", str(november), "--format", "json")
    assert "local 2026-11: 0 of 3 lines agree; not compared" in admin("month", "2026-11")
    assert admin("reconcile", "1").startswith("1 of 3 lines agree; 3 differ, 0 posted by the contract")
    with gateway.services.db.write() as conn:
        bad = Unreadable("local", "sacct/1", "77|x", "it has 2 fields")
        books.quarantine(conn, [bad], kept=Names(gateway.services, conn, "local", make=T0).unreadable, now=T0)
        periods.open_period(conn, year=2026, month=11, zone="Asia/Shanghai", by="test", now=T0)
    first, second, *rest = admin("month", "2026-11").splitlines()
    assert first.startswith(
        "local 2026-11: 1 of 3 lines agree; 3 open (1 unknown_to_us, 1 quantity, 1 control_total), "
    )
    assert first.endswith(" days") and " CNY, oldest " in first
    assert second == "  0 runs without the centre's record, 1 records in quarantine"
    assert rest == ["books of 2026-11: open"]
    (found,) = json.loads(admin("month", "2026-11", "--json"))
    assert (found["lines"], found["agreed"], found["open_breaks"], found["quarantined"]) == (3, 1, 3, 1)


def test_a_statement_in_whose_place_another_came_is_called_replaced(admin: Admin, november: Path) -> None:
    admin("statement", "local", "2026-11", str(november), "--format", "json")
    admin("reconcile", "1")
    good = json.loads(november.read_text())
    november.write_text(json.dumps(good | {"totals": {"lines": 3}}))
    admin("statement", "local", "2026-11", str(november), "--format", "json")
    admin("reconcile", "2")
    newer, older = (x for x in admin("month", "2026-11").splitlines() if "lines agree" in x)
    assert older.endswith("; replaced") and " open (" in newer, (newer, older)


def test_runs_that_only_the_gateway_saw_are_late(gateway: Gateway, admin: Admin, november: Path) -> None:
    metered(gateway, 9, Meter.GATEWAY, 3600)
    with gateway.services.db.write() as conn:
        ended = conn.scalar(select(USAGE.c.end_time).where(USAGE.c.native_id == "9"))
    assert ended is not None
    name = f"{ended:%Y-%m}"
    admin("statement", "local", name, str(november), "--format", "json")
    assert "  1 runs without the centre's record" in admin("month", name)


def test_breaks_are_told_with_kind_age_and_money_and_an_empty_list_says_so(admin: Admin, november: Path) -> None:
    assert admin("breaks") == "No difference is open.\n"
    admin("statement", "local", "2026-11", str(november), "--format", "json")
    admin("reconcile", "1")
    told = admin("breaks", "--period", "2026-11", "--site", "local")
    assert "unknown_to_us, " in told and "theirs − ours 8.5531 CNY: job 2" in told, told
    assert len(told.splitlines()) == len(json.loads(admin("breaks", "--json"))) == 3
    assert admin("breaks", "--period", "2026-10") == "No difference is open.\n"


# ---------------------------------------------------------------- meters


def test_an_alarm_is_told_with_its_day_until_it_is_over(gateway: Gateway, admin: Admin) -> None:
    assert admin("alarms") == "No meter is wrong.\n"
    metered(gateway, 1, Meter.GATEWAY, 3600)
    assert tick(gateway) == ["gap"]
    day = (gateway.services.clock() - timedelta(days=2)).date().isoformat()
    told = admin("alarms")
    assert told.startswith(f"local {day} gap: 1 of 1 jobs that ended have no record of the centre (since 2")
    assert told.endswith(" UTC)\n")
    (found,) = json.loads(admin("alarms", "--json"))
    assert (found["site_id"], found["kind"], found["figures"]) == ("local", "gap", {"jobs": 1, "missing": 1})
    metered(gateway, 1, Meter.CENTRE, 3600)
    tick(gateway)
    assert admin("alarms") == "No meter is wrong.\n"


def test_a_meter_that_could_not_be_read_has_no_day(gateway: Gateway, admin: Admin) -> None:
    with gateway.services.db.write() as conn:
        conn.execute(update(SITES).values(collected_until=gateway.services.clock()))
    assert tick(gateway, in_hours=30) == ["not_read"]
    assert admin("alarms").startswith("local not_read: the centre's meter was not read for 30 hours (since ")


# ---------------------------------------------------------------- keeping


def test_a_persons_token_sees_the_centre_they_work_for_until_they_do_not(gateway: Gateway, admin: Admin) -> None:
    def works_for(secret: str) -> frozenset[str]:
        return Doorkeeper(gateway.services).person(secret).staff_of

    admin("user", "lin")
    secret = admin("token", "lin").strip()
    assert works_for(secret) == frozenset()
    told = admin("staff", "local", "lin")
    assert told == "lin works for local\ntheir tokens have ended; a new one: python -m gateway admin token lin\n"
    with pytest.raises(Unauthenticated):
        works_for(secret)
    secret = admin("token", "lin").strip()
    assert admin("staff", "local", "lin") == "lin works for local\n"
    assert works_for(secret) == {"local"}
    assert admin("staff", "local", "lin", "--remove") == "lin does not work for local any more\n"
    assert works_for(secret) == frozenset()
    assert "is not of the staff of" in admin("staff", "local", "lin", "--remove", code=1)


def test_erasing_a_person_leaves_nothing_to_read_and_every_proof(gateway: Gateway, admin: Admin) -> None:
    services, person = gateway.services, gateway.person.user_id
    agree(services.db, agreement(site_ids=("local",)))
    with services.db.write() as conn:
        conn.execute(update(ACCOUNTS).values(username="alice7"))
        key = vault.keys_of(services, conn, [person], T0)[person]
        record = read_usage("sacct/1", row(1, User="alice7", JobName="my thesis"), site_id="local")
        assert isinstance(record, UsageRecord)
        sealed = vault.seal_record(record, person=person, key=key)
        books.record_and_book(conn, [books.Assigned(sealed, "j1", gateway.project_id, person, "CNY")], now=T0)
    evidence.append(services, None, datetime(2026, 12, 2, tzinfo=UTC))

    def thesis() -> bool:
        with services.db.read() as conn:
            raw: Any = conn.scalar(select(USAGE.c.raw))
            return "thesis" in json.dumps(Names(services, conn, None).raw(raw))

    assert thesis()
    assert admin("erase", "alice", "--yes") == "alice: erased; every proof still holds\n"
    assert not thesis()
    assert admin("erase", "alice", "--yes") == "alice: nothing to erase\n"
    with services.db.read() as conn:
        assert (log.check_log(conn), books.check_books(conn)) == ([], [])


def test_after_new_master_keys_what_was_sealed_is_read_with_the_new_one(
    gateway: Gateway, admin: Admin, tmp_path: Path
) -> None:
    file = gateway.services.settings.effective_master_key_file
    evidence.append(gateway.services, None, gateway.services.clock())
    with gateway.services.db.write() as conn:
        before = vault.keys_of(gateway.services, conn, [gateway.person.user_id], T0)
    old = file.read_bytes()
    assert admin("rotate-keys").endswith(f"restart the gateway, then remove {file.stem}.old\n")
    assert file.read_bytes() != old and file.with_suffix(".old").read_bytes() == old
    assert load_or_create(file) is not None
    with gateway.services.db.write() as conn:
        assert vault.keys_of(gateway.services, conn, [gateway.person.user_id], T0) == before


def test_a_closed_site_is_opened(gateway: Gateway, admin: Admin) -> None:
    with gateway.services.db.write() as conn:
        conn.execute(update(SITES).values(closed_reason="not looked at during recovery"))
    assert admin("open-site", "local") == "local: open\n"
    with gateway.services.db.read() as conn:
        assert conn.scalar(select(SITES.c.closed_reason)) is None
