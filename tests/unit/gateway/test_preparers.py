"""Rows that helpers prepare are what they would be without: whatever dies, and whatever the rows hold."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.billing import preparers as module
from gateway.billing.prepare import Prepared
from gateway.billing.preparers import Preparers
from gateway.identity import vault
from gateway.jobs.repository import ACCOUNTS, JOBS
from site_adapters.types import SiteUsage
from tests.builders import Gateway, local_site, make_gateway


@pytest.fixture
def gateway(tmp_path: Path, db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(module, "CHUNK", 200)
    monkeypatch.setattr(module, "_MANY", 1_000)
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    made.submit("local")
    yield made
    made.services.close()


def rows(gateway: Gateway, count: int = 1_300) -> list[SiteUsage]:
    """Runs of the gateway's only job as sacct tells of them; every hundredth cannot be read."""
    with gateway.services.db.read() as conn:
        tag = conn.scalar(select(JOBS.c.tag))
        user = conn.scalar(select(ACCOUNTS.c.username))
    return [
        SiteUsage("sacct/1", {
            "DBIndex": str(n), "Cluster": "c", "JobID": str(n), "JobIDRaw": str(n), "User": user,
            "Account": "a", "QOS": "normal", "Partition": "cpu", "State": "FAILED" if n % 100 else "WEATHER",
            "ExitCode": "1:0", "Submit": "1793491200", "Start": str(1793491200 + n), "End": str(1793491260 + n),
            "ElapsedRaw": "60", "Suspended": "00:00:00", "AllocCPUS": "4", "AllocNodes": "1",
            "AllocTRES": "cpu=4,mem=400M,node=1", "NodeList": "n1", "Reason": "None",
            "SubmitLine": f"sbatch --job-name={tag}.1 run.sh", "Comment": "", "JobName": f"{tag}.1",
        })
        for n in range(1, count + 1)
    ]  # fmt: skip


def prepared(gateway: Gateway, usages: list[SiteUsage]) -> Iterator[Prepared]:
    with Preparers(gateway.services, "local", gateway.services.clock()) as preparers:
        yield from preparers.prepared(usages)


@pytest.fixture
def expected(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> tuple[list[SiteUsage], list[Prepared]]:
    """Rows, and what this process alone makes of them; from then on there are two helpers."""
    usages = rows(gateway)
    monkeypatch.setattr(module, "_HELPERS", 0)
    alone = list(prepared(gateway, usages))
    monkeypatch.setattr(module, "_HELPERS", 2)
    assert sum(len(part.sealed) for part in alone) == 1_287 and sum(len(part.unreadable) for part in alone) == 13
    return usages, alone


def test_helpers_make_of_rows_what_this_process_makes_of_them(
    gateway: Gateway, expected: tuple[list[SiteUsage], list[Prepared]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usages, alone = expected
    monkeypatch.setattr(Preparers, "_here", lambda *_args: pytest.fail("a helper was passed over"))
    assert list(prepared(gateway, usages)) == alone


def test_what_a_dead_helper_owes_is_prepared_here(
    gateway: Gateway, expected: tuple[list[SiteUsage], list[Prepared]]
) -> None:
    usages, alone = expected
    found = []
    with Preparers(gateway.services, "local", gateway.services.clock()) as preparers:
        for part in preparers.prepared(usages):
            found.append(part)
            for helper in preparers._helpers:
                helper._process.kill()
    assert found == alone


def test_a_chunk_that_cannot_be_passed_on_is_prepared_here(
    gateway: Gateway, expected: tuple[list[SiteUsage], list[Prepared]]
) -> None:
    usages, alone = expected
    odd = dict(usages[600].fields) | {"Reason": "half a pair: \udc80"}
    usages[600] = SiteUsage("sacct/1", odd)
    found = list(prepared(gateway, usages))
    assert found[:3] == alone[:3] and found[4:] == alone[4:]
    assert sum("half a pair" in item.raw_text for item in found[3].sealed) == 1


def test_a_person_without_a_key_gets_one_here(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELPERS", 1)
    usages = rows(gateway)
    person = gateway.person.user_id
    with gateway.services.db.read() as conn:
        assert vault.key_of(gateway.services, conn, person) is None
    found = list(prepared(gateway, usages))
    assert not any(part.keyless for part in found) and sum(len(part.sealed) for part in found) == 1_287
    with gateway.services.db.read() as conn:
        key = vault.key_of(gateway.services, conn, person)
    assert key is not None and all(person in item.raw_text for part in found for item in part.sealed[:1])


def test_few_rows_start_no_helper(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_Helper", lambda *_args: pytest.fail("a helper was started"))
    assert len(list(prepared(gateway, rows(gateway, 300)))) == 2


def test_a_helper_ends_with_whoever_started_it(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "gateway.billing.preparers"]
    place = module.msgpack.encode(module._Place(f"sqlite:///{tmp_path / 'db'}", "nowhere", "g", "local"))
    helper = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert helper.stdin is not None and helper.stdout is not None
    with helper.stdin, helper.stdout:
        module._write(helper.stdin, place)
        helper.stdin.close()
        assert helper.stdout.read() == b""
    assert helper.wait() == 0
