"""Erasing a person reaches everything of the books that names them, and leaves every proof as it was."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from accounting import store as books
from accounting import tables
from accounting.evidence import log
from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import Act
from accounting.reconciling.drafts import Rules
from accounting.sources import read_usage
from accounting.store.schema import QUARANTINE
from accounting.usage import Unreadable, UsageRecord
from gateway.billing import evidence, reconcile
from gateway.billing.names import Names
from gateway.identity import service, vault
from gateway.jobs.repository import ACCOUNTS
from tests.builders import Gateway
from tests.unit.accounting.makers import agree, agreement
from tests.unit.accounting.test_reconcile import line, row

LOGIN = "alice7"
NOW = datetime(2026, 12, 2, tzinfo=UTC)


@pytest.fixture
def named(gateway: Gateway) -> Gateway:
    """Alice's run differs from the centre's line, another she ran without us, two lines nobody can read."""
    services, person = gateway.services, gateway.person.user_id
    agree(services.db, agreement(site_ids=("local",)))
    with services.db.write() as conn:
        conn.execute(update(ACCOUNTS).values(username=LOGIN))
        key = vault.keys_of(services, conn, [person], NOW)[person]
        record = read_usage("sacct/1", row(1, User=LOGIN, JobName=f"thesis of {LOGIN}"), site_id="local")
        assert isinstance(record, UsageRecord)
        sealed = vault.seal_record(record, person=person, key=key)
        books.record_and_book(conn, [books.Assigned(sealed, "j1", gateway.project_id, person, "CNY")], now=NOW)
        bad = Unreadable("local", "sacct/1", f"77|{LOGIN}|her thesis|x", f"'{LOGIN}|her' is no number")
        assert books.quarantine(conn, [bad], kept=Names(services, conn, "local", make=NOW).unreadable, now=NOW) == 1
    lines = [line(1, username=LOGIN, quantity=99_999, Comment=f"{LOGIN} asked", amount="9.9999"),
             line(5, username=LOGIN, run_key="alpha:999", native_id="999"),
             line(6, username=LOGIN, quantity=f"what {LOGIN} used")]  # fmt: skip
    document = json.dumps({"lines": lines, "totals": {}}).encode()
    got = reconcile.receive(services, document, site_id="local", period="2026-11", currency="CNY", format_name="json",
                            by="centre")  # fmt: skip
    assert got.problems == 1
    reconcile.reconcile(services, got.statement_id, rules=Rules(), by="admin")
    with services.db.write() as conn:
        first, *_ = [b.row.id for b in recon_store.breaks(conn) if b.row.usage_record_id]
        reconcile.act(
            services, conn, first, Act.PROPOSE, by="ann", note=f"{LOGIN} agrees, so does al", resolution="post"
        )
        service.create_user(conn, name="bob", operator_admin=True, now=services.clock())
        reconcile.act(services, conn, first, Act.COUNTERSIGN, by="bob")
    evidence.append(services, None, NOW)
    return gateway


def kept(gateway: Gateway) -> dict[str, str]:
    """All that the books' tables hold, by table."""
    with gateway.services.db.read() as conn:
        return {
            table.name: "\n".join(str(tuple(row)) for row in conn.execute(select(table)))
            for table in tables.metadata.sorted_tables
        }


def shown(gateway: Gateway) -> str:
    """What the operator can read of it."""
    with gateway.services.db.read() as conn:
        names = Names(gateway.services, conn, None)
        found: list[Any] = [
            (names.shown(b.row.username), names.shown(b.row.explanation),
             [names.shown(e.note) for e in recon_store.history(conn, b.row.id)],
             (of := recon_store.line_of_break(conn, b.row)) and names.raw(of.raw))
            for b in recon_store.breaks(conn)
        ]  # fmt: skip
        found += [names.opened(q.raw) + names.shown(q.why) for q in conn.execute(select(QUARANTINE))]
        found += [names.opened(p.raw) for p in recon_store.statement_problems(conn, 1)]
    return json.dumps(found)


def test_no_table_of_the_books_names_a_person_and_whoever_may_reads_all_of_it(named: Gateway) -> None:
    assert [name for name, text in kept(named).items() if LOGIN in text] == []
    text = shown(named)
    assert text.count(LOGIN) >= 8, text
    for part in ("thesis", "agrees, so does al", "alice7 asked", "ran this at the centre without Penstock"):
        assert part in text, text


def test_once_the_key_is_dropped_nobody_reads_it_and_every_proof_holds(named: Gateway) -> None:
    before, services = kept(named), named.services
    with services.db.write() as conn:
        assert vault.erase(conn, named.person.user_id, now=NOW)
    text = shown(named)
    assert LOGIN not in text and "thesis" not in text and "asked" not in text, text
    assert "(erased)" in text
    after = kept(named)
    assert {name for name in before if before[name] != after[name]} == {"person_key"}
    with services.db.read() as conn:
        assert (log.check_log(conn), books.check_books(conn)) == ([], [])


def test_what_comes_after_the_erasure_keeps_nothing_of_the_person(named: Gateway) -> None:
    services = named.services
    with services.db.write() as conn:
        vault.erase(conn, named.person.user_id, now=NOW)
    count = len(kept(named)["recon_break"].splitlines())
    reconcile.reconcile(services, 1, rules=Rules(), by="admin")
    assert len(kept(named)["recon_break"].splitlines()) == count  # the same differences are the same breaks
    document = json.dumps({"lines": [line(7, username=LOGIN, Comment=f"of {LOGIN}"), line(8, quantity=LOGIN)],
                           "totals": {}}).encode()  # fmt: skip
    got = reconcile.receive(services, document, site_id="local", period="2026-11", currency="CNY", format_name="json",
                            by="centre")  # fmt: skip
    reconcile.reconcile(services, got.statement_id, rules=Rules(), by="admin")
    assert [name for name, text in kept(named).items() if LOGIN in text] == []


def test_a_login_that_several_people_share_names_nobody_and_a_word_in_a_word_is_none(gateway: Gateway) -> None:
    with gateway.services.db.write() as conn:
        conn.execute(update(ACCOUNTS).values(username="al"))
        names = Names(gateway.services, conn, "local", make=NOW)
        assert names.text("al, also al-2 and x.al").startswith("~")
        assert names.text("also al-2 and x.al") == "also al-2 and x.al"


def fetched_again(gateway: Gateway, **changes: str) -> int:
    """The centre's log comes in once more, as it does all the time; how many runs were charged."""
    services, person = gateway.services, gateway.person.user_id
    record = read_usage("sacct/1", row(1, User=LOGIN, JobName=f"thesis of {LOGIN}", **changes), site_id="local")
    assert isinstance(record, UsageRecord)
    with services.db.write() as conn:
        sealed = vault.seal_record(record, person=person, key=vault.keys_of(services, conn, [person], NOW)[person])
        item = books.Assigned(sealed, "j1", gateway.project_id, person, "CNY")
        return books.record_and_book(conn, [item], now=NOW).charged


def test_the_centres_log_fetched_again_after_the_erasure_charges_nothing_and_undoes_nothing(named: Gateway) -> None:
    """The same record is another text once the key is gone: it is known by what is not the person's."""
    assert fetched_again(named) == 0
    with named.services.db.write() as conn:
        vault.erase(conn, named.person.user_id, now=NOW)
    before = kept(named)
    assert fetched_again(named) == 0
    assert kept(named) == before, "the figure that both sides have agreed stands"
    assert fetched_again(named, ElapsedRaw="3000") == 1, "what has changed is still a reading of its own"
    count = len(kept(named)["usage_record"].splitlines())
    assert fetched_again(named, ElapsedRaw="3000") == 0
    assert len(kept(named)["usage_record"].splitlines()) == count
    with named.services.db.read() as conn:
        assert (log.check_log(conn), books.check_books(conn)) == ([], [])
