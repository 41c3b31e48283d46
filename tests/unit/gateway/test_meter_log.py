"""What a look at a centre's meter brought is a leaf of the log: each row by its hash, unreadable ones too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select, text, update

from accounting.evidence import log
from accounting.evidence.canonical import sha256_hex
from accounting.store.schema import QUARANTINE, USAGE
from gateway.billing import evidence
from site_adapters.types import RowProblem, UsageBatch
from tests.builders import Gateway


@pytest.fixture
def charged(gateway: Gateway) -> str:
    job_id = gateway.submit("local")
    gateway.until(job_id, "completed")
    gateway.charged(job_id)
    return job_id


def meter_logs(gateway: Gateway) -> list[dict[str, Any]]:
    """What the leaves of the meters say, in the order of the log."""
    evidence.append(gateway.services, None, gateway.services.clock())
    with gateway.services.db.read() as conn:
        assert log.check_log(conn) == []
        query = select(log.LEAVES.c.payload).where(log.LEAVES.c.kind == "meter_log").order_by(log.LEAVES.c.seq)
        return [json.loads(payload) for payload in conn.scalars(query)]


def said(records: list[str], unreadable: list[str]) -> dict[str, Any]:
    """The leaf of a look that brought these rows."""
    digest = sha256_hex({"v": 1, "site": "local", "records": records, "unreadable": unreadable})
    return {"v": 1, "t": "meter_log", "ref": digest, "sha256": digest, "site": "local"}


def test_a_look_that_brought_a_record_is_a_leaf_that_commits_to_it(gateway: Gateway, charged: str) -> None:
    with gateway.services.db.read() as conn:
        query = select(USAGE.c.content_sha256).where(USAGE.c.job_id == charged, USAGE.c.meter == "centre")
        records = list(conn.scalars(query))
    assert len(records) == 1
    assert meter_logs(gateway) == [said(records, [])]


def test_a_look_that_brought_nothing_new_is_no_leaf(gateway: Gateway, charged: str) -> None:
    first = meter_logs(gateway)
    gateway.tick("collect")  # the windows overlap: the same record comes again
    gateway.tick("collect")
    assert meter_logs(gateway) == first
    assert len(first) == 1


def test_a_row_that_nobody_can_read_is_committed_to_as_well(
    gateway: Gateway, charged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = UsageBatch((), (RowProblem("77|half a row", "it is cut"),))
    monkeypatch.setattr(type(gateway.services.sites["local"].billing), "usage", lambda *_args: rows)
    gateway.tick("collect")
    gateway.tick("collect")
    with gateway.services.db.read() as conn:
        (kept,) = conn.scalars(select(QUARANTINE.c.content_sha256))
    assert meter_logs(gateway)[1:] == [said([], [kept])]


def test_a_meters_leaf_that_is_changed_in_the_books_is_found(gateway: Gateway, charged: str) -> None:
    (leaf,) = meter_logs(gateway)
    with gateway.services.db.write() as conn:
        for verb in ("update", "delete"):
            conn.execute(text(f"DROP TRIGGER evidence_leaf_no_{verb}{on(gateway)}"))
        other = json.dumps(leaf | {"site": "beta"}, sort_keys=True, separators=(",", ":"))
        conn.execute(update(log.LEAVES).where(log.LEAVES.c.kind == "meter_log").values(payload=other))
        told = [told.partition(": ")[2] for told in log.check_log(conn)]
    assert told == ["its text is not what was hashed", "the leaves have another root"]


def on(gateway: Gateway) -> str:
    return "" if gateway.services.db.is_sqlite else " ON evidence_leaf"
