"""The log and the verifier: append leaves, prove, and check a month of N charges from its raw records.

python -m benchmarks evidence            LEAVES and MONTH as below (a million of each: about a quarter of an hour)
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs
from sqlalchemy import select

from accounting import price
from accounting import store as books
from accounting.evidence import log, merkle, note, personal
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle, sealed_text
from accounting.evidence.canonical import canonical, sha256_hex
from accounting.evidence.documents import stamp
from accounting.evidence.outbox import OUTBOX
from accounting.sources import read_usage
from accounting.store.schema import insert_all
from accounting.tariff import PriceRule
from accounting.usage import UsageRecord
from gateway.db import Database
from gateway.migrations import schema
from tests.lab.postgres import PostgresLab, missing_reason

LEAVES = int(os.environ.get("PENSTOCK_BENCH_LEAVES", "1000000"))
MONTH = int(os.environ.get("PENSTOCK_BENCH_MONTH", "20000"))
BILL = int(os.environ.get("PENSTOCK_BENCH_BILL", "1000000"))
T0 = datetime(2026, 11, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
LOG = note.Verifier("bench.example/log", note.LOG, note.public_bytes(KEY))
SEAL = partial(note.sign_text, name=LOG.name, key=KEY)
VERIFIER = Path(__file__).parents[1] / "docs" / "verify" / "penstock_verify.py"


def run() -> None:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"   {os.cpu_count()} cores; load of the machine over the last 1, 5, 15 minutes: {load}", flush=True)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)  # the server of the lab runs as another user
        for name, db in databases(Path(folder)):
            append(name, db)
        verify(month(Path(folder)), MONTH)
        verify(million(Path(folder)), BILL)


def databases(folder: Path) -> Iterator[tuple[str, Database]]:
    yield "SQLite", fresh(f"sqlite:///{folder / 'leaves.sqlite'}")
    if missing_reason() is None:
        lab = PostgresLab(folder / "pg", port=25777 - 10 * int(os.environ.get("PENSTOCK_LAB", "0")), durable=True)
        lab.start()
        try:
            yield "PostgreSQL", fresh(lab.fresh())
        finally:
            lab.stop()


def fresh(url: str) -> Database:
    db = Database(url)
    schema.upgrade(db)
    return db


@contextmanager
def timed(told: Callable[[float], str]) -> Iterator[None]:
    begun, cpu = time.monotonic(), time.process_time()
    yield
    print(
        f"   {told(time.monotonic() - begun)}; this process used {time.process_time() - cpu:.1f} s of CPU", flush=True
    )


def append(name: str, db: Database) -> None:
    """Documents of 200 bytes each: what the tree itself costs, with its rows, committed in batches of 5,000."""
    for first in range(0, LEAVES, 100_000):
        with db.write() as conn:
            insert_all(conn, OUTBOX, [
                {"kind": "document", "ref": str(n), "body": f'{{"sha256":"{n:064x}","t":"document","x":"{n:090}"}}'}
                for n in range(first, min(LEAVES, first + 100_000))
            ])  # fmt: skip
    with timed(lambda s: f"{name}: {LEAVES:,} leaves appended in {s:.1f} s ({LEAVES / s:,.0f}/s)"):
        while True:
            with db.write() as conn:
                if not log.append_waiting(conn, limit=5000):
                    break
    with db.write() as conn, timed(lambda s: f"{name}: root and checkpoint of all in {1000 * s:.1f} ms"):
        signed = log.make_checkpoint(conn, lambda size, root: note.sign(LOG.name, size, root, KEY), now=T0)
    assert signed is not None
    root, rng = note.parse(signed.note).root, random.Random(1)
    took = []
    for _ in range(500):
        index = rng.randrange(LEAVES)
        begun = time.monotonic()
        with db.read() as conn:
            path = merkle.inclusion(index, LEAVES, log.tiles(conn))
            leaf = conn.scalar(select(log.LEAVES.c.leaf_hash).where(log.LEAVES.c.seq == index))
        took.append(time.monotonic() - begun)
        merkle.check_inclusion(leaf, index, LEAVES, path, root)
    print(f"   {name}: inclusion proof {shown(took)}", flush=True)
    took = []
    for _ in range(200):
        old = rng.randrange(1, LEAVES)
        begun = time.monotonic()
        with db.read() as conn:
            merkle.consistency(old, LEAVES, log.tiles(conn))
        took.append(time.monotonic() - begun)
    print(f"   {name}: consistency proof {shown(took)}", flush=True)
    db.dispose()


def shown(took: list[float]) -> str:
    took = sorted(took)
    return f"p50 {1000 * took[len(took) // 2]:.2f} ms, p99 {1000 * took[int(len(took) * 0.99)]:.2f} ms"


def month(folder: Path) -> Path:
    """A month of charged runs: booked, logged, bundled."""
    db = fresh(f"sqlite:///{folder / 'month.sqlite'}")
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000, T0 - timedelta(days=9)), now=T0)
        books.open_project_accounts(conn, "p1", currency="CNY")
    with timed(lambda s: f"{MONTH:,} runs sealed and booked in {s:.1f} s ({MONTH / s:,.0f}/s)"):
        for first in range(0, MONTH, 10_000):
            with db.write() as conn:
                books.record_and_book(conn, [reading(n) for n in range(first, min(MONTH, first + 10_000))], now=T0)
    with timed(lambda s: f"their entries made leaves in {s:.1f} s ({MONTH / s:,.0f}/s)"):
        while True:
            with db.write() as conn:
                if not log.append_waiting(conn, limit=5000):
                    break
    with db.write() as conn:
        log.make_checkpoint(conn, lambda size, root: note.sign(LOG.name, size, root, KEY), now=T0)
    file = folder / "bundle.jsonl"
    about = About(T0 - timedelta(days=1), T0 + timedelta(days=40), "p1")
    told = timed(lambda s: f"bundle of {file.stat().st_size / 1e6:,.0f} MB written in {s:.1f} s")
    with told, db.read() as conn, file.open("w") as out:
        out.writelines(bundle(conn, about, log_key=LOG, seal=SEAL))
    db.dispose()
    return file


def million(folder: Path) -> Path:
    """A bundle of BILL different charges: the shape of real ones, numbers of their own, every hash computed."""
    first, *rest = (folder / "bundle.jsonl").read_text().splitlines()
    entry = json.loads(next(line for line in rest if line.startswith('{"t":"entry"')))
    rule = json.loads(next(line for line in rest if line.startswith('{"t":"leaf"')))
    leaves = [merkle.leaf_hash(canonical(rule["leaf"]))]
    total = seconds = 0
    file = folder / "million.jsonl"
    with file.open("w") as out, timed(lambda s: f"{BILL:,} lines of a bundle made in {s:.1f} s"):
        head = json.loads(first) | {"size": BILL + 1}
        body = (folder / "million.body").open("w+")
        body.write(json.dumps(rule | {"seq": 0}) + "\n")
        for n in range(BILL):
            amount, core_seconds = numbered(entry, n)
            total, seconds = total + amount, seconds + core_seconds
            leaves.append(merkle.leaf_hash(canonical(entry["leaf"])))
            body.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")
        signed = note.sign(LOG.name, BILL + 1, root_of(leaves), KEY)
        bill = {"site": "alpha", "queue": "cpu", "grade": "", "currency": "CNY", "amount": str(total),
                "gross": str(total), "borne": "0", "centre": "0", "tax": "0", "core_seconds": str(seconds),
                "runs": str(BILL)}  # fmt: skip
        out.write(json.dumps(head) + "\n" + json.dumps({"t": "checkpoint", "note": signed}) + "\n")
        body.seek(0)
        shutil.copyfileobj(body, out)
        out.write(json.dumps({"t": "bill", "lines": [bill], "totals": {"CNY": str(total)}}) + "\n")
        sealed = SEAL(sealed_text(LOG.name, head, range(BILL + 1)))
        out.write(json.dumps({"t": "seal", "note": sealed}) + "\n")
        body.close()
    return file


def numbered(entry: dict[str, Any], n: int) -> tuple[int, int]:
    """Make the entry that of run `n`; what it costs and its core-seconds."""
    item = reading(n).record
    charge, record = entry["charges"][0]["charge"], entry["charges"][0]["record"]
    amount = price.rate(item.core_seconds, 360_000)
    start, end = stamp(item.start_time), stamp(item.end_time)
    record |= {"run": item.run_key, "personal": item.raw[personal.SEALED]["commitment"],
               "fields": {k: v for k, v in item.raw.items() if k != personal.SEALED}}  # fmt: skip
    names = ("core_seconds", "node_seconds", "memory_mib_seconds", "elapsed_s", "cores", "cpus", "requested_cores")
    record["read"] |= {name: str(getattr(item, name)) for name in names} | {"start": start, "end": end}
    charge["segments"][0] |= {
        "start": start,
        "end": end,
        "quantity": str(item.core_seconds),
        "amount_micro": str(amount),
    }
    rule = f"{item.cores} allocated cores × {item.elapsed_s} s"
    charge |= {"record": sha256_hex(record), "gross": str(amount), "amount": str(amount), "rule": rule,
               "core_seconds": str(item.core_seconds)}  # fmt: skip
    postings = [
        (amount, "CNY"),
        (-amount, "CNY"),
        (item.core_seconds, "core-seconds"),
        (-item.core_seconds, "core-seconds"),
    ]
    for line, (value, commodity) in zip(entry["leaf"]["postings"], postings, strict=True):
        line[1:] = [commodity, str(value)]
    entry["leaf"] |= {"key": f"charge:{n}", "at": end, "memo": f"j{n} at alpha", "charges": [sha256_hex(charge)]}
    entry["seq"] = n + 1
    return amount, item.core_seconds


def root_of(leaves: list[bytes]) -> bytes:
    nodes = {(level, i): h for level, i, h in merkle.grown(0, leaves, lambda _level, _index: ())}

    def tile(level: int, index: int) -> list[bytes]:
        inside = range(256 * index, 256 * index + 256)
        return (
            leaves[inside.start : inside.stop]
            if level == 0
            else [nodes[level, i] for i in inside if (level, i) in nodes]
        )

    return merkle.root(len(leaves), tile)


def verify(file: Path, count: int) -> None:
    """The verifier as a process of its own, with what it and its workers used."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        argv = [sys.executable, "-I", str(VERIFIER), str(file), "--log-key", LOG.vkey]
        child = subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        told = said.read()
    print(f"   verifier: a month of {count:,} leaves ({file.stat().st_size / 1e6:,.0f} MB) in "
          f"{time.monotonic() - begun:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU on all cores, "
          f"{used.ru_maxrss / 1024:.0f} MiB: {told.splitlines()[-1]}", flush=True)  # fmt: skip
    assert child.returncode == 0, told


def reading(n: int) -> books.Assigned:
    """Run `n` as Slurm's sacct tells it, sealed as the gateway keeps it."""
    start, seconds, cpus = int(T0.timestamp()) + 2 * n % 2_500_000, 30 + n * 37 % 7200, 1 + n * 7 % 64
    raw = {
        "DBIndex": str(n), "Cluster": "alpha", "JobID": str(n), "JobIDRaw": str(n), "User": f"user{n % 50}",
        "UID": str(n % 50), "Account": "chem", "QOS": "normal", "Partition": "cpu", "State": "COMPLETED",
        "ExitCode": "0:0", "Submit": str(start), "Eligible": str(start), "Start": str(start),
        "End": str(start + seconds), "ElapsedRaw": str(seconds), "Suspended": "00:00:00", "AllocCPUS": str(cpus),
        "AllocNodes": "1", "AllocTRES": f"cpu={cpus},mem=4000M,node=1", "ReqTRES": f"cpu={cpus}", "Reason": "None",
        "NodeList": "n1", "SubmitLine": f"sbatch job{n}.sh", "Comment": "", "JobName": f"run {n}",
    }  # fmt: skip
    found = read_usage("sacct/1", raw, site_id="alpha")
    assert isinstance(found, UsageRecord)
    person = f"u{n % 50}"
    key = hashlib.sha256(person.encode()).digest()
    sealed = personal.seal(found.raw, person=person, key=key, ref=f"alpha/{found.run_key}/centre")
    record = structs.replace(found, raw=sealed, username=personal.pseudonym(found.username, key), job_name="")
    return books.Assigned(record, f"j{n}", "p1", person, "CNY")
