"""The log on both databases: nothing booked is without a leaf, nothing changed goes unseen, erasing breaks no proof."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError

from accounting.evidence import log, merkle, note, outbox, personal
from accounting.evidence.leaves import entries
from accounting.store.schema import USAGE
from gateway.db import Database
from tests.unit.accounting.evidence_case import LOG, T0, append_all, book, checkpoint, open_books, person_key, record

OPENED = 5  # leaves of the opened books: two prices, when the first one ends, two grants
_KEY = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    found = Database(db_url)
    with found.write() as conn:
        open_books(conn, "p1", "p2")
    yield found
    found.dispose()


def test_every_entry_becomes_a_leaf_in_the_order_of_booking(db: Database) -> None:
    with db.write() as conn:
        book(conn, range(20))
        outbox.put(conn, "document", "bill-1", b"a centre's bill", site="alpha")
    with db.write() as conn:
        assert append_all(conn, limit=7) == OPENED + 20 + 1
        assert log.waiting(conn) == 0
        assert append_all(conn) == 0
        signed = checkpoint(conn)
    with db.read() as conn:
        assert log.check_log(conn) == []
        checked = note.parse(signed.note)
        assert note.signed_by(checked, LOG)
        document = log.find(conn, "document", "bill-1")
        assert document is not None
        assert document.seq == OPENED + 20
        path = merkle.inclusion(document.seq, checked.size, log.tiles(conn))
        merkle.check_inclusion(document.leaf_hash, document.seq, checked.size, path, checked.root)


def test_a_document_is_looked_for_without_a_walk_over_the_entries_that_wait(db: Database) -> None:
    """A month waits while it is booked: with a walk for each look at the meter, booking it was quadratic."""
    with db.write() as conn:
        book(conn, range(3))
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of three rows a walk is cheapest
        query = select(outbox.waits("meter_log", "0" * 64)).compile(conn, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if conn.dialect.name == "sqlite" else "EXPLAIN"
        plan = "\n".join(str(row) for row in conn.exec_driver_sql(f"{explain} {query}"))
    assert "ix_evidence_outbox_document" in plan, plan


def test_one_file_that_two_bring_at_once_stops_no_log(db: Database) -> None:
    """Found by hand on PostgreSQL: two leaves of one file waited, neither could be made, and no other ever after."""
    ready = threading.Barrier(4)

    def bring(way: str) -> None:
        ready.wait(30)
        with db.write() as conn:
            outbox.put_source(conn, "bank_file", b"a file", format=way)

    crowd = [threading.Thread(target=bring, args=(way,)) for way in ("csv", "camt.053") * 2]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    with db.write() as conn:
        assert append_all(conn) == OPENED + 1
        assert checkpoint(conn).size == OPENED + 1


def test_a_document_that_waits_twice_is_one_leaf_and_another_text_of_it_is_none(db: Database) -> None:
    with db.write() as conn:
        for ref in ("a", "a", "b"):
            outbox.put(conn, "document", ref, b"the same", site="alpha")
        append_all(conn)
        assert log.tree_size(conn) == OPENED + 2
        outbox.put(conn, "document", "a", b"the same", site="alpha")
        append_all(conn)
        assert (log.tree_size(conn), log.waiting(conn), log.check_log(conn)) == (OPENED + 2, 0, [])
    with pytest.raises(DBAPIError), db.write() as conn:
        outbox.put(conn, "document", "a", b"another", site="alpha")
        append_all(conn)


def test_two_ticks_sign_one_checkpoint_at_once(db: Database) -> None:
    with db.write() as conn:
        append_all(conn)
    signed, ready = [], threading.Barrier(3)

    def sign() -> None:
        ready.wait(30)
        with db.write() as conn:
            signed.append(log.make_checkpoint(conn, lambda size, root: note.sign("o", size, root, _KEY), now=T0))

    crowd = [threading.Thread(target=sign) for _ in range(3)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert len(signed) == 3
    assert len([one for one in signed if one is not None]) == 1


def test_a_source_document_becomes_one_leaf_whether_it_waits_or_stands(db: Database) -> None:
    for _ in range(2):
        with db.write() as conn:
            outbox.put_source(conn, "bank_file", b"a file")
            outbox.put_source(conn, "bank_file", b"a file")
        with db.write() as conn:
            append_all(conn)
    with db.read() as conn:
        assert log.tree_size(conn) == OPENED + 1


def test_a_booking_that_is_rolled_back_leaves_nothing_to_log(db: Database) -> None:
    with pytest.raises(RuntimeError), db.write() as conn:
        book(conn, range(3))
        raise RuntimeError
    with db.write() as conn:
        assert append_all(conn) == OPENED


def test_two_processes_that_append_make_one_tree(db: Database) -> None:
    for start in range(0, 300, 100):
        with db.write() as conn:
            book(conn, range(start, start + 100))

    def work() -> None:
        more = True
        while more:
            with db.write() as conn:
                more = log.append_waiting(conn, limit=13) > 0

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.write() as conn:
        assert log.tree_size(conn) == OPENED + 300
        checkpoint(conn)
        assert log.check_log(conn) == []


def test_checkpoints_of_a_growing_log_are_consistent(db: Database) -> None:
    notes = []
    for start in range(0, 600, 120):
        with db.write() as conn:
            book(conn, range(start, start + 120))
            append_all(conn)
            notes.append(note.parse(checkpoint(conn).note))
    with db.read() as conn:
        for older in notes:
            for newer in notes:
                if older.size <= newer.size:
                    proof = merkle.consistency(older.size, newer.size, log.tiles(conn))
                    merkle.check_consistency(older.size, newer.size, older.root, newer.root, proof)
        assert log.make_checkpoint(conn, lambda *_: "", now=T0) is None  # it has not grown


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE posting SET amount = amount + 1 WHERE entry_id = 5 AND line = 0", "entry 5 of the books"),
        ("UPDATE charge SET amount_micro = amount_micro - 1 WHERE id = 3", "of the books is not what the log has"),
        ("UPDATE usage_record SET core_seconds = 1 WHERE id = 2", "of the books is not what the log has"),
        ("UPDATE journal_entry SET memo = 'other' WHERE id = 4", "entry 4 of the books"),
        ("DELETE FROM charge WHERE id = 3", "of the books is not what the log has"),
        ("DELETE FROM evidence_leaf WHERE seq = 7", "1 leaves are missing"),
        ("UPDATE evidence_leaf SET payload = 'x' WHERE seq = 7", "leaf 7: its text is not what was hashed"),
        ("UPDATE evidence_node SET idx = 9", "is not that of its leaves"),
    ],
)
def test_whoever_goes_round_the_triggers_is_seen(db: Database, statement: str, told: str) -> None:
    with db.write() as conn:
        book(conn, range(300))
        append_all(conn)
        checkpoint(conn)
    with db.write() as conn:
        for table in ("posting", "charge", "usage_record", "journal_entry", "evidence_leaf", "evidence_node"):
            for verb in ("update", "delete"):
                on = "" if db.is_sqlite else f" ON {table}"
                conn.execute(text(f"DROP TRIGGER {table}_no_{verb}{on}"))
        conn.execute(text(statement))
    with db.read() as conn:
        found = log.check_log(conn)
    assert any(told in line for line in found), found


def test_a_forger_who_also_rewrites_the_leaf_is_caught_by_the_checkpoint(db: Database) -> None:
    with db.write() as conn:
        book(conn, range(10))
        append_all(conn)
        checkpoint(conn)
    with db.write() as conn:
        for table in ("posting", "evidence_leaf"):
            conn.execute(text(f"DROP TRIGGER {table}_no_update" + ("" if db.is_sqlite else f" ON {table}")))
        conn.execute(text("UPDATE posting SET amount = 2 * amount WHERE entry_id = 5"))
        forged = next(entries(conn, [5])).payload
        seq = log.find(conn, "entry", "5")
        assert seq is not None
        values = {"payload": forged.decode(), "leaf_hash": merkle.leaf_hash(forged)}
        conn.execute(update(log.LEAVES).where(log.LEAVES.c.seq == seq.seq).values(values))
        assert log.check_log(conn) == [f"checkpoint {OPENED + 10}: the leaves have another root"]


def test_an_entry_that_never_reached_the_log_is_named(db: Database) -> None:
    with db.write() as conn:
        book(conn, range(3))
        conn.execute(outbox.OUTBOX.delete().where(outbox.OUTBOX.c.ref == "4"))
        append_all(conn)
        assert log.check_log(conn) == ["entry 4: neither a leaf nor on its way to be one"]


def test_a_correction_names_what_it_replaces(db: Database) -> None:
    with db.write() as conn:
        book(conn, [1])
        book(conn, [1], ElapsedRaw="1000")
        last = max(entries(conn, range(1, 10)), key=lambda e: e.entry_id)
    assert [r["entry"] for r in last.charged[0].charge["replaces"]] == ["charge:1"]
    assert last.leaf["kind"] == "correction"
    assert last.charged[0].record["revision"] == 2


# ---------------------------------------------------------------- persons


def test_nothing_of_a_person_is_in_leaf_or_books_and_erasing_them_keeps_the_proof(db: Database) -> None:
    with db.write() as conn:
        book(conn, range(10))
        append_all(conn)
        signed = note.parse(checkpoint(conn).note)
    with db.read() as conn:
        everything = str(conn.execute(text("SELECT * FROM usage_record")).all()) + str(
            conn.execute(text("SELECT * FROM evidence_leaf")).all()
        )
        assert "user3" not in everything
        assert "secret" not in everything
        row = conn.execute(USAGE.select().where(USAGE.c.id == 4)).one()
        disclosed = personal.disclose(row.raw, key=person_key("u3"))
        assert disclosed is not None
        assert disclosed.fields["User"] == "user3"
        assert personal.commitment(disclosed.fields, disclosed.salt) == row.raw[personal.SEALED]["commitment"]
        with pytest.raises(personal.Erased):
            personal.disclose(row.raw, key=None)
        with pytest.raises(ValueError, match="another key"):
            personal.disclose(row.raw, key=person_key("u4"))
        assert log.check_log(conn) == []
        assert signed.size == OPENED + 10


def test_the_same_record_read_twice_is_sealed_the_same_and_booked_once(db: Database) -> None:
    assert record(5).raw == record(5).raw
    with db.write() as conn:
        book(conn, [5])
        book(conn, [5])
        assert append_all(conn) == OPENED + 1


@given(st.dictionaries(st.sampled_from(["User", "JobName", "SubmitLine", "Account"]), st.text(), max_size=4))
def test_whatever_a_record_holds_comes_back_whole(raw: dict[str, str]) -> None:
    try:
        sealed = personal.seal(raw, person="u", key=person_key("u"), ref="r")
    except ValueError:  # half a surrogate pair cannot be written
        return
    assert personal.whole(sealed, key=person_key("u")) == raw
    assert not {"User", "JobName", "SubmitLine"} & sealed.keys()


def test_a_cosignature_is_kept_once_and_given_out_with_the_checkpoint(db: Database) -> None:
    with db.write() as conn:
        append_all(conn)
        signed = checkpoint(conn)
        line = note.cosign(note.parse(signed.note).body, name="alpha.example", key=_KEY, timestamp=5)
        key_id = note.Verifier("alpha.example", note.COSIGNATURE, note.public_bytes(_KEY)).key_id.hex()
        later = T0 + timedelta(seconds=1)
        assert log.keep_cosignature(conn, size=signed.size, key_id=key_id, line=line, now=later)
        assert not log.keep_cosignature(conn, size=signed.size, key_id=key_id, line=line, now=later)
        found = log.checkpoint(conn)
        assert found is not None
        assert found.note == signed.note + line


@pytest.mark.parametrize("table", ["leaf", "node", "checkpoint", "cosignature"])
def test_the_log_refuses_update_and_delete(db: Database, table: str) -> None:
    with db.write() as conn:
        book(conn, range(256))
        append_all(conn)
        size = checkpoint(conn).size
        log.keep_cosignature(conn, size=size, key_id="k", line="l", now=T0)
    column = {"leaf": "kind", "node": "hash"}.get(table, "size")
    for statement in (f"UPDATE evidence_{table} SET {column} = {column}", f"DELETE FROM evidence_{table}"):
        with pytest.raises(DBAPIError, match="append-only"), db.write() as conn:
            conn.execute(text(statement))
