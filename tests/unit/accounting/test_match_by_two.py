"""A large statement is matched by two connections, which see the same books; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from accounting import store as books
from accounting.reconciling import by_key
from accounting.reconciling import match as recon_match
from accounting.reconciling.found import Matched
from accounting.store.schema import CHARGES, ENTRIES, USAGE
from accounting.store.views import two_views
from gateway.billing import reconcile
from tests import builders
from tests.break_maker import make
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.accounting.test_breaks_injected import RULES, deliver

GROWING = (USAGE, CHARGES, ENTRIES)


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    yield made
    builders.OPENED.clear()
    made.services.close()


def matched(gateway: Gateway, statement_id: int, monkeypatch: pytest.MonkeyPatch) -> Matched:
    kept = []
    with monkeypatch.context() as m:
        real = recon_match.match
        m.setattr(recon_match, "match", lambda *args: kept.append(real(*args)) or kept[0])
        reconcile.look(gateway.services.db, statement_id, RULES)
    return kept[0]


def test_two_connections_find_what_one_finds(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    statement_id = deliver(gateway, make(600, seed=11, every=4))
    alone = matched(gateway, statement_id, monkeypatch)
    pairs = []
    lent = by_key.two_views

    def seen(conn: object, growing: object) -> object:
        pairs.append(lent(conn, growing))  # type: ignore[arg-type]
        return pairs[-1]

    monkeypatch.setattr(by_key, "_MANY", 1)
    monkeypatch.setattr(by_key, "two_views", seen)
    together = matched(gateway, statement_id, monkeypatch)
    assert len(pairs) == 1
    assert sorted(zip(alone.agreeing.readings, alone.agreeing.lines, strict=True)) == sorted(
        zip(together.agreeing.readings, together.agreeing.lines, strict=True)
    )
    for name in ("lines", "runs", "agreed", "pairs", "proposals", "duplicates", "unknown", "missing", "sums"):
        assert getattr(alone, name) == getattr(together, name), name
    assert len(alone.agreeing) > 300
    assert alone.pairs
    assert alone.missing
    assert alone.duplicates


def test_each_of_two_views_has_what_the_other_has_whoever_writes_meanwhile(gateway: Gateway) -> None:
    deliver(gateway, make(30, seed=1, every=10**9))
    db, project = gateway.services.db, gateway.project_id
    with db.read() as conn:
        before = conn.scalar(select(ENTRIES.c.id).order_by(ENTRIES.c.id.desc()).limit(1))
        with two_views(conn, GROWING) as pair:
            assert pair is not None
            with db.write() as writer:
                books.grant_credit(writer, project_id=project, commodity="CNY", amount=1, idem_key="late",
                                   now=gateway.services.clock())  # fmt: skip
            newest = [each.scalar(select(ENTRIES.c.id).order_by(ENTRIES.c.id.desc()).limit(1)) for each in pair]
    assert newest == [before, before]


def test_where_both_cannot_see_the_same_one_does_it_alone(gateway: Gateway) -> None:
    """SQLite: somebody wrote since the first began to look. PostgreSQL: what it has not committed, no other sees."""
    db, project, now = gateway.services.db, gateway.project_id, gateway.services.clock()
    if db.is_sqlite:
        with db.read() as conn:
            conn.scalar(select(ENTRIES.c.id).limit(1))
            with db.write() as writer:
                books.grant_credit(writer, project_id=project, commodity="CNY", amount=1, idem_key="late", now=now)
            with two_views(conn, GROWING) as pair:
                assert pair is None
    else:
        with db.write() as conn:
            books.grant_credit(conn, project_id=project, commodity="CNY", amount=1, idem_key="mine", now=now)
            with two_views(conn, GROWING) as pair:
                assert pair is None
