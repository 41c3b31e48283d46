"""Watching 10,000 jobs is one question for each tick and login, on every dialect."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from site_adapters import registry
from site_adapters.command import Command
from site_adapters.config import SiteConfig
from site_adapters.transport.local import LocalConnection
from site_adapters.types import JobRef
from tests.emulators.site import pbs_centre, sunway_centre

CENTRES: dict[str, tuple[Callable[..., tuple[Any, dict[str, Any]]], tuple[str, ...], Callable[[Any], str]]] = {
    "pbs": (pbs_centre, ("qsub", "-N", "many"), lambda job: f"{job.seq}.pbs01"),
    "sunway": (sunway_centre, ("bsub", "-q", "q_sw_share", "-J", "many", "/bin/true"), lambda job: str(job.seq)),
}


@pytest.mark.parametrize("name", CENTRES)
def test_ten_thousand_jobs_are_one_question(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, submit, id_of = CENTRES[name]
    cluster, site = make(tmp_path, scheduling=False)
    config = SiteConfig.model_validate(site)
    adapter = registry.build(config, keys=lambda _username: None)
    me = getpass.getuser()
    connection = LocalConnection(me, environment=config.environment, switch_user=False)
    connection.run(Command(submit, lambda out: out, stdin=b"true\n"))
    first = cluster.jobs()[0]
    with cluster.locked():
        copies = []
        for number in range(1, 10_000):
            copy = deepcopy(first)
            copy.seq = first.seq + number
            copies.append(copy)
        cluster.save(*copies)
    refs = [JobRef(id_of(job), "", me, "ptest00000000001.1", datetime.now(UTC)) for job in cluster.jobs()]
    asked: list[tuple[str, ...]] = []
    run = LocalConnection.run

    def counted(self: LocalConnection, command: Command[Any]) -> Any:
        asked.append(command.argv)
        return run(self, command)

    monkeypatch.setattr(LocalConnection, "run", counted)
    seen = adapter.management.observe(refs)

    assert seen.queue.good and len(seen.queue.runs) == len(refs) == 10_000
    assert (len(asked), seen.queries) == (1, 1)
