"""Emulated centres in the contract suite: real processes under a tiny scheduler that has the true quirks."""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from site_adapters.types import Attributes, JobSpec, SiteAccount
from tests.contract.centre import Centre, centre_of
from tests.emulators.site import PbsCluster, SunwayCluster, pbs_centre, sunway_centre


def openpbs(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """OpenPBS with an observer, and a meter that reads the accounting log."""
    cluster, site = pbs_centre(folder)
    yield from _served(pbs(folder, cluster, site, "pbs-emulated"))


def openpbs_own_logins(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Others' jobs are hidden, no observer, no log: each account asks for itself, and `qstat -x` is the meter."""
    cluster, site = pbs_centre(folder, query_other_jobs=False)
    site |= {"credentials": {}, "pbs": {}}
    yield from _served(pbs(folder, cluster, site, "pbs-hidden-emulated"))


def torque(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Torque: text only, `nodes=:ppn=`, no job history beyond keep_completed."""
    cluster, site = pbs_centre(folder, flavour="torque")
    yield from _served(pbs(folder, cluster, site, "torque-emulated"))


def pbs(folder: Path, cluster: PbsCluster, site: dict[str, Any], name: str) -> Centre:
    deeds = Deeds(cluster)
    me = pwd.getpwnam(getpass.getuser())
    return centre_of(
        site, name=name, account=SiteAccount(me.pw_name, me.pw_dir, os.getuid()), workplace=folder / "work",
        keys=lambda _username: None,
        refused=JobSpec(script="true", attributes=Attributes(queue_name="debug", duration=7200)), down=deeds.down,
        busy=deeds.busy, rename=deeds.rename, requeue=deeds.requeue,
    )  # fmt: skip


def sunway(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Sunway: words only, no year, no exit code, nothing found is exit code 0."""
    cluster, site = sunway_centre(folder, noise=True)
    site["zone"] = "UTC"
    deeds = Deeds(cluster)
    me = pwd.getpwnam(getpass.getuser())
    centre = centre_of(
        site, name="sunway-emulated", account=SiteAccount(me.pw_name, me.pw_dir, os.getuid()),
        workplace=folder / "work", keys=lambda _username: None,
        refused=JobSpec(script="true", attributes=Attributes(queue_name="q_x86_share")), down=deeds.down,
        busy=deeds.busy, shell="/bin/sh", queue_name="share",
    )  # fmt: skip

    @contextmanager
    def down() -> Iterator[None]:
        with deeds.down():
            yield
        assert centre.adapter.management.health().ok  # what was heard of it is remembered for a second

    centre.down = down
    yield from _served(centre)


class Deeds:
    """What the people and the server of an emulated centre may do."""

    def __init__(self, cluster: PbsCluster | SunwayCluster) -> None:
        self._cluster = cluster

    @contextmanager
    def down(self) -> Iterator[None]:
        self._cluster.fault("*", down=True)
        try:
            yield
        finally:
            self._cluster.heal()

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._cluster.put("scheduling", False)
        try:
            yield
        finally:
            self._cluster.put("scheduling", True)

    def rename(self, native_id: str, name: str) -> None:
        with self._cluster.locked():
            for job in self._of(native_id):
                job.name = name
                self._cluster.save(job)

    def requeue(self, native_id: str) -> None:
        with self._cluster.locked():
            for job in self._of(native_id):
                self._cluster.kill(job, "rerun")

    def _of(self, native_id: str) -> list[Any]:
        number = int(native_id.partition(".")[0].partition("[")[0])
        return list(self._cluster.jobs("seq = ?", number))


def _served(centre: Centre) -> Iterator[Centre]:
    yield centre
    centre.adapter.close()
