"""Books with charges in them, for the tests of the evidence: one sealed record after another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs
from sqlalchemy import Connection

from accounting import store as books
from accounting.evidence import log, note, personal
from accounting.meter import MeteringPolicy
from accounting.sources import read_usage
from accounting.tariff import PriceRule
from accounting.usage import UsageRecord

T0 = datetime(2026, 11, 3, 12, 0, tzinfo=UTC)
MICRO = 1_000_000
POLICY = MeteringPolicy()
LOG_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
ORIGIN = "gw.example/log"
LOG = note.Verifier(ORIGIN, note.LOG, note.public_bytes(LOG_KEY))
SEAL = partial(note.sign_text, name=ORIGIN, key=LOG_KEY)


def person_key(person: str) -> bytes:
    return hashlib.sha256(f"key of {person}".encode()).digest()


def sacct(number: int, **changes: str) -> dict[str, str]:
    """Run `number` of a centre: between 1 and 64 cores for some minutes, one every ten minutes from T0."""
    cpus, seconds = 1 + number * 7 % 64, 60 + number * 37 % 7200
    start = int(T0.timestamp()) + 600 * number
    row = {
        "DBIndex": str(1000 + number), "Cluster": "alpha", "JobID": str(number), "JobIDRaw": str(number),
        "User": f"user{number % 7}", "UID": str(5000 + number % 7), "Account": "chem", "QOS": "normal",
        "Partition": "gpu" if number % 5 == 0 else "cpu", "State": "COMPLETED", "ExitCode": "0:0",
        "Submit": str(start - 10), "Eligible": str(start - 10), "Start": str(start), "End": str(start + seconds),
        "ElapsedRaw": str(seconds), "Suspended": "00:00:00", "AllocCPUS": str(cpus), "AllocNodes": "1",
        "AllocTRES": f"cpu={cpus},mem=400M,node=1", "ReqTRES": f"cpu={cpus}", "Reason": "None", "NodeList": "n1",
        "SubmitLine": f"sbatch secret{number}.sh", "Comment": "", "JobName": f"thesis of user{number % 7}",
    }  # fmt: skip
    return row | changes


def record(number: int, **changes: str) -> UsageRecord:
    """The reading as it is kept: sealed."""
    found = read_usage("sacct/1", sacct(number, **changes), site_id="alpha")
    assert isinstance(found, UsageRecord)
    person = f"u{number % 7}"
    ref = f"{found.site_id}/{found.run_key}/{found.meter.value}"
    raw = personal.seal(found.raw, person=person, key=person_key(person), ref=ref)
    return structs.replace(found, raw=raw, username=personal.pseudonym(found.username, person_key(person)))


def open_books(conn: Connection, *projects: str) -> None:
    """Projects with credit, and a price that changes once."""
    change = T0 + timedelta(days=2)
    books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=99), change), now=T0)
    books.add_tariff(conn, PriceRule(0, "CNY", 396_001, change), now=T0)
    for project in projects:
        books.open_project_accounts(conn, project, currency="CNY")
        books.grant_credit(conn, project_id=project, commodity="CNY", amount=10**6 * MICRO, idem_key=f"g:{project}",
                           now=T0, reason="start")  # fmt: skip


def book(conn: Connection, numbers: Sequence[int], *, project: str = "p1", **changes: str) -> None:
    assigned = [books.Assigned(record(n, **changes), f"j{n}", project, f"u{n % 7}", "CNY") for n in numbers]
    books.record_and_book(conn, assigned, policy=POLICY, now=T0 + timedelta(days=20))


def append_all(conn: Connection, *, limit: int = 2000) -> int:
    total = 0
    while appended := log.append_waiting(conn, limit=limit):
        total += appended
    return total


def checkpoint(conn: Connection) -> log.Signed:
    made = log.make_checkpoint(conn, lambda size, root: note.sign(ORIGIN, size, root, LOG_KEY), now=T0)
    assert made is not None
    return made
