"""The independent verifier against bundles of both databases: it re-adds the bill, and finds whatever was changed."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from accounting.evidence import log, note, personal
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle
from accounting.evidence.leaves import Charged
from accounting.store.contracts import Terms, set_terms
from accounting.tables import metadata
from gateway.db import Database
from tests.unit.accounting.evidence_case import LOG, SEAL, T0, append_all, book, checkpoint, open_books, person_key

FILE = Path(__file__).parents[3] / "docs" / "verify" / "penstock_verify.py"
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
WITNESS = note.Verifier("alpha.example", note.COSIGNATURE, note.public_bytes(WITNESS_KEY))
OLDER = 66  # leaves of the first checkpoint
MONTH = About(T0.replace(day=1, hour=0), T0.replace(month=12, day=1, hour=0))


@pytest.fixture(scope="module")
def verifier() -> ModuleType:
    spec = importlib.util.spec_from_file_location("penstock_verify", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    found = Database(db_url)
    with found.write() as conn:
        open_books(conn, "p1", "p2")
        set_terms(conn, Terms("p1", T0 - timedelta(days=99), "uni", (("uni", 60), ("grant", 40))), now=T0)
        book(conn, range(40))
        book(conn, range(40, 60), project="p2")
        append_all(conn)
        checkpoint(conn)
        book(conn, range(60, 80))
        book(conn, [3, 4], ElapsedRaw="500")  # the centre changed its mind
        append_all(conn)
        signed = checkpoint(conn)
        line = note.cosign(note.parse(signed.note).body, name=WITNESS.name, key=WITNESS_KEY, timestamp=1_700_000_000)
        log.keep_cosignature(conn, size=signed.size, key_id=WITNESS.key_id.hex(), line=line, now=T0)
    yield found
    found.dispose()


def shown(charged: Charged) -> dict[str, Any] | None:
    raw = {personal.SEALED: {"sealed": charged.sealed, "person": charged.person, "ref":
           f"{charged.record['site']}/{charged.record['run']}/{charged.record['meter']}"}}  # fmt: skip
    disclosed = personal.disclose(raw, key=person_key(charged.person))
    return None if disclosed is None else {"fields": dict(disclosed.fields), "salt": disclosed.salt}


def lines_of(conn: Connection, about: About = MONTH, seen: int | None = OLDER) -> list[str]:
    return list(bundle(conn, about, log_key=LOG, seal=SEAL, witnesses=[WITNESS], seen=seen, shown=shown))


def check(verifier: ModuleType, lines: list[str], seen: str | None = None) -> list[str]:
    options = verifier.Options(LOG.vkey, [WITNESS.vkey], seen, 1)
    try:
        findings, _, _ = verifier.main_of(iter(lines), options)
    except (ValueError, KeyError, TypeError, StopIteration, AttributeError) as exc:
        return [f"unreadable: {exc!r}"]
    return list(findings)


def test_an_honest_bill_fits_on_both_databases(db: Database, verifier: ModuleType) -> None:
    with db.read() as conn:
        everything = lines_of(conn)
        assert check(verifier, everything) == []
        assert check(verifier, lines_of(conn, About(MONTH.start, MONTH.end, project_id="p2"))) == []
        assert check(verifier, lines_of(conn, About(MONTH.start, MONTH.end, "p1", "alpha"), seen=None)) == []
        kept = log.checkpoint(conn, OLDER)
        assert kept is not None
        assert check(verifier, everything, seen=kept.note) == []
        assert "ask for ?seen" in check(verifier, lines_of(conn, seen=None), seen=kept.note)[0]


@pytest.mark.parametrize(("words", "told"), [
    (("--log-key", "abc"), "'abc' is no key of a log or a witness: it is written name+id+key"),
    (("--witness", "KEY"), "'KEY' is no key of a log or a witness"),
    (("--signer", "KEY"), "--signer KEY: write NAME=KEY"),
    (("--signer", "op=KEY"), "--signer op=KEY: write NAME=KEY"),
])  # fmt: skip
def test_an_option_that_is_none_is_named(words: tuple[str, ...], told: str) -> None:
    done = subprocess.run([sys.executable, FILE, "-", *words], input="{}", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_the_verifier_imports_nothing_of_ours() -> None:
    source = FILE.read_text()
    imported = {
        line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
    }
    assert imported <= sys.stdlib_module_names


def scalars(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from scalars(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from scalars(item, (*path, index))
    elif value is not None:
        yield path


def changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice([-1, 1, 1000])
    if value == "":
        return "x"
    at = rng.randrange(len(value))
    letter = value[at]
    others = "0123456789" if letter.isdigit() else "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return value[:at] + rng.choice([c for c in others if c != letter]) + value[at + 1 :]


def mutate(lines: list[str], rng: random.Random) -> tuple[list[str], str]:
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    path = rng.choice(list(scalars(value)))
    at = value
    for part in path[:-1]:
        at = at[part]
    before, at[path[-1]] = at[path[-1]], changed(at[path[-1]], rng)
    what = f"line {number} {path}: {before!r} -> {at[path[-1]]!r}"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
    return [*lines[:number], text, *lines[number + 1 :]], what


def campaign(db: Database, verifier: ModuleType, count: int, seed: int) -> list[str]:
    """What the verifier did not find of `count` random changes of single values."""
    with db.read() as conn:
        lines = lines_of(conn)
    rng = random.Random(seed)
    missed = []
    for _ in range(count):
        forged, what = mutate(lines, rng)
        if not check(verifier, forged):
            missed.append(what)
    return missed


def test_changed_values_of_a_bundle_are_found(db: Database, verifier: ModuleType) -> None:
    """Other values on each database: what is read from either is the same bundle."""
    assert campaign(db, verifier, 75, seed=1 if db.is_sqlite else 100) == []


@pytest.mark.soak
def test_ten_thousand_changed_values_of_a_bundle_are_found(db: Database, verifier: ModuleType) -> None:
    assert campaign(db, verifier, 5_000, seed=2) == []  # on each database


# What of the books is evidence-bearing: each column that a leaf commits to, and how to change a value of it.
BOOKS = {
    "usage_record": ("run_key", "revision", "kind", "state", "account", "queue", "qos", "cores", "nodes", "elapsed_s",
                     "suspended_s", "core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds",
                     "threads_per_core", "start_time", "end_time", "raw"),
    "charge": ("currency", "amount_micro", "gross_micro", "borne_micro", "centre_micro", "tax_micro", "core_seconds",
               "policy_version", "grade", "user_class", "rule", "reason", "segments", "payers"),
    "journal_entry": ("idem_key", "kind", "effective_at", "memo"),
    "posting": ("amount", "account_id"),
    "project_terms": ("payers", "user_class", "valid_from"),
    "price_rule": ("price_micro", "per", "resource", "currency", "valid_from"),
    "evidence_leaf": ("leaf_hash",),
    "evidence_checkpoint": ("note",),
}  # fmt: skip


def in_books(conn: Connection, table: Any, column: str, rng: random.Random) -> str:
    """Change one value of one row behind the triggers' back."""
    keys = list(table.primary_key.columns)
    rows = conn.execute(table.select().order_by(*keys)).all()
    newest = table.name == "evidence_checkpoint"
    row = rows[-1] if newest else rng.choice([r for r in rows if r._mapping.get("idem_key", "c").startswith("c")])
    before = row._mapping[column]
    after: Any
    if isinstance(before, datetime):
        after = before + timedelta(seconds=1)
    elif isinstance(before, bytes):
        after = bytes([before[0] ^ 1]) + before[1:]
    elif isinstance(before, dict | list):
        after = json.loads(json.dumps(before))
        paths = [p for p in scalars(after) if p[-1] not in ("sealed", "ref", "person")]
        path = rng.choice(paths)
        at = after
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = changed(at[path[-1]], rng)
    else:
        after = changed(before, rng)
    conn.execute(table.update().where(*(key == row._mapping[key.name] for key in keys)).values({column: after}))
    return f"{table.name}.{column} of {[row._mapping[k.name] for k in keys]}: {before!r} -> {after!r}"


def database_campaign(db: Database, verifier: ModuleType, rounds: int, seed: int) -> list[str]:
    """What neither the verifier nor the log's own check found of changes of each column, each undone after it."""
    rng, missed = random.Random(seed), []
    with db.write() as conn:
        for name in BOOKS:
            for verb in ("update", "delete"):
                if name != "price_rule":
                    conn.execute(text(f"DROP TRIGGER {name}_no_{verb}" + ("" if db.is_sqlite else f" ON {name}")))
    for name, columns in BOOKS.items():
        for column in columns * rounds:
            with pytest.raises(RollBack), db.write() as conn:
                try:
                    what = in_books(conn, metadata.tables[name], column, rng)
                except IntegrityError as exc:  # the database itself sees that it cannot be
                    raise RollBack from exc
                try:
                    found = check(verifier, lines_of(conn)) or log.check_log(conn)
                except (ValueError, KeyError) as exc:
                    found = [str(exc)]
                if not found:
                    missed.append(what)
                raise RollBack
    return missed


class RollBack(Exception):
    """Ends a transaction that must leave nothing."""


def test_each_evidence_bearing_column_of_the_books_is_watched(db: Database, verifier: ModuleType) -> None:
    assert database_campaign(db, verifier, 1, seed=3) == []


@pytest.mark.parametrize("keep", [lambda k: k != "entry", lambda k: k != "gaps", lambda k: k != "checkpoint",
                                  lambda k: k != "bill", lambda k: k != "seal"])  # fmt: skip
def test_a_bundle_with_a_part_left_out_does_not_fit(db: Database, verifier: ModuleType, keep: Any) -> None:
    with db.read() as conn:
        lines = lines_of(conn)
    assert check(verifier, [line for line in lines if keep(json.loads(line)["t"])])


def test_one_entry_left_out_or_doubled_is_found(db: Database, verifier: ModuleType) -> None:
    with db.read() as conn:
        lines = lines_of(conn)
    entry = next(i for i, line in enumerate(lines) if '"t":"entry"' in line)
    assert check(verifier, lines[:entry] + lines[entry + 1 :])
    assert check(verifier, [*lines[:entry], lines[entry], *lines[entry:]])


# ---------------------------------------------------------------- the question that a bundle answers


HALF = About(MONTH.start, T0 + timedelta(hours=5))


@pytest.mark.parametrize("sealed_as", ["the half", "the month"])
def test_half_a_month_that_is_passed_off_as_the_whole_is_found(
    db: Database, verifier: ModuleType, sealed_as: str
) -> None:
    """Its entries, its hashes and its bill fit together: all that is wrong is what it claims to answer."""
    with db.read() as conn:
        whole, half = lines_of(conn), lines_of(conn, HALF)
    assert check(verifier, half) == []
    forged = [whole[0], *half[1:-1], half[-1] if sealed_as == "the half" else whole[-1]]
    assert check(verifier, forged) == [
        "THE BUNDLE IS NOT WHAT WAS SEALED: another project, site or time, or other leaves"
    ]


@pytest.mark.parametrize(("name", "value"), [
    ("from", (MONTH.start + timedelta(hours=1)).isoformat()), ("to", (MONTH.end - timedelta(days=1)).isoformat()),
    ("to", (MONTH.end + timedelta(days=30)).isoformat()), ("project", None), ("site", "alpha"),
])  # fmt: skip
def test_a_question_that_was_changed_is_found(
    db: Database, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    with db.read() as conn:
        lines = lines_of(conn, About(MONTH.start, MONTH.end, "p2"))
    head = json.loads(lines[0])
    head["about"][name] = value
    forged = [json.dumps(head) + "\n", *lines[1:]]
    assert "WHAT WAS SEALED" in " ".join(check(verifier, forged))
    monkeypatch.setattr(verifier, "check_seal", lambda _whole: None)
    assert check(verifier, forged) == []  # nothing but the seal knows


def test_a_seal_of_another_key_is_found(db: Database, verifier: ModuleType) -> None:
    with db.read() as conn:
        lines = lines_of(conn)
    text = json.loads(lines[-1])["note"].rpartition("\n\n")[0] + "\n"
    forged = note.sign_text(text, name=LOG.name, key=WITNESS_KEY)
    assert check(verifier, [*lines[:-1], json.dumps({"t": "seal", "note": forged})]) == [
        f"{LOG.name} did not seal the bundle"
    ]


# ---------------------------------------------------------------- what is not metered again


def test_a_record_that_cannot_be_metered_again_is_never_called_verified(
    db: Database, verifier: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with db.read() as conn:
        (tmp_path / "bundle").write_text("".join(lines_of(conn)))
    arguments = [str(tmp_path / "bundle"), "--log-key", LOG.vkey, "--processes", "1"]
    assert verifier.main(arguments) == 0
    assert "80 of 80 charges" in capsys.readouterr().out
    read = verifier.reader_of
    monkeypatch.setattr(verifier, "reader_of", lambda f: None if f["JobID"] in ("5", "6") else read(f))
    assert verifier.main([*arguments, "--runs"]) == 3
    told = capsys.readouterr().out
    assert "78 of 80 charges" in told
    assert "NOT METERED AGAIN: 2 charges, a record in no format that this verifier can read" in told
    assert "everything fits" not in told
    assert told.count("NOT METERED AGAIN (a record") == 2
