"""Emulated centres in the contract suite: real processes under a tiny scheduler that has the true quirks."""

from __future__ import annotations

import getpass
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from site_adapters.types import Attributes, JobSpec, SiteAccount
from tests.contract.centre import Centre, Lasting, centre_of
from tests.emulators.site import PbsCluster, SlurmCluster, SunwayCluster, pbs_centre, slurm_centre, sunway_centre


def slurm(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Slurm with an observer and a meter, for machines that cannot have the real one."""
    cluster, site = slurm_centre(folder)
    deeds = SlurmDeeds(cluster)
    me = pwd.getpwnam(getpass.getuser())
    centre = centre_of(
        site, name="slurm-emulated", account=SiteAccount(me.pw_name, me.pw_dir, os.getuid()),
        workplace=folder / "work", keys=lambda _username: None,
        refused=JobSpec(script="#!/bin/sh\ntrue\n", attributes=Attributes(queue_name="nowhere")),
        busy=deeds.busy, rename=deeds.rename, requeue=deeds.requeue, reserve=deeds.reserve,
    )  # fmt: skip
    centre.down = forgotten_after(deeds.down, centre)
    yield from _served(centre)


def openpbs(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """OpenPBS with an observer, and a meter that reads the accounting log."""
    cluster, site = pbs_centre(folder)
    yield from _served(pbs(folder, cluster, site, "pbs-emulated"))


def openpbs_own_logins(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Others' jobs are hidden, no observer, no log: each account asks for itself, and `qstat -x` is the meter.

    Its nodes spool output and copy it back at the end."""
    cluster, site = pbs_centre(folder, query_other_jobs=False)
    site |= {"credentials": {}, "pbs": {"direct_write": False}}
    yield from _served(pbs(folder, cluster, site, "pbs-hidden-emulated"))


def torque(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Torque: text only, `nodes=:ppn=`, no job history beyond keep_completed."""
    cluster, site = pbs_centre(folder, flavour="torque")
    yield from _served(pbs(folder, cluster, site, "torque-emulated"))


def pbs(folder: Path, cluster: PbsCluster, site: dict[str, Any], name: str) -> Centre:
    deeds = PbsDeeds(cluster)
    me = pwd.getpwnam(getpass.getuser())
    reserve = deeds.reserve if not cluster.torque else None  # Torque leaves reservations to its scheduler
    return centre_of(
        site, name=name, account=SiteAccount(me.pw_name, me.pw_dir, os.getuid()), workplace=folder / "work",
        keys=lambda _username: None,
        refused=JobSpec(script="true", attributes=Attributes(queue_name="debug", duration=7200)), down=deeds.down,
        busy=deeds.busy, rename=deeds.rename, requeue=deeds.requeue, reserve=reserve,
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
        refused=JobSpec(script="true", attributes=Attributes(queue_name="q_x86_share")),
        busy=deeds.busy, shell="/bin/sh", queue_name="share",
    )  # fmt: skip

    centre.down = forgotten_after(deeds.down, centre)
    yield from _served(centre)


def forgotten_after(down: Lasting, centre: Centre) -> Lasting:
    """An outage, and a fresh look after it: what was heard of a scheduler is remembered for a second."""

    @contextmanager
    def outage() -> Iterator[None]:
        with down():
            yield
        assert centre.adapter.management.health().ok

    return outage


class Deeds:
    """What the people and the server of an emulated centre may do."""

    def __init__(self, cluster: PbsCluster | SlurmCluster | SunwayCluster) -> None:
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


class PbsDeeds(Deeds):
    """By the commands of a centre's own people, where it has them."""

    def requeue(self, native_id: str) -> None:
        self._as_operator("qrerun", native_id)

    @contextmanager
    def reserve(self) -> Iterator[str]:
        begin = datetime.fromtimestamp(self._cluster.now() + 3600, UTC)
        end = begin + timedelta(hours=1)
        times = ("-R", f"{begin:%Y%m%d%H%M.%S}", "-E", f"{end:%Y%m%d%H%M.%S}")
        made = self._as_operator("pbs_rsub", "-N", "service", *times, "--hosts", "cn001", "cn002", "cn003")
        name = made.split()[0]
        try:
            yield name
        finally:
            self._as_operator("pbs_rdel", name)

    def _as_operator(self, program: str, *words: str) -> str:
        self._cluster.put("operators", [getpass.getuser()])
        try:
            argv = [self._cluster.root.parent / "bin" / program, *words]
            return subprocess.run(argv, check=True, env={"TZ": "UTC"}, stdout=subprocess.PIPE, text=True).stdout
        finally:
            self._cluster.put("operators", [])


class SlurmDeeds(Deeds):
    """By the commands of a centre's own people."""

    def rename(self, native_id: str, name: str) -> None:
        self._scontrol("update", f"jobid={native_id}", f"name={name}")

    def requeue(self, native_id: str) -> None:
        self._scontrol("requeue", native_id)

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._scontrol("update", "partitionname=normal", "state=down")
        try:
            yield
        finally:
            self._scontrol("update", "partitionname=normal", "state=up")

    @contextmanager
    def reserve(self) -> Iterator[str]:
        self._cluster.put("admins", [getpass.getuser()])
        self._scontrol("create", "reservation", "reservationname=service", "starttime=now+1hour", "duration=60",
                       "nodes=ALL", "users=root", "flags=maint")  # fmt: skip
        try:
            yield "service"
        finally:
            self._scontrol("delete", "reservationname=service")
            self._cluster.put("admins", [])

    def _scontrol(self, *words: str) -> None:
        subprocess.run([self._cluster.root.parent / "bin" / "scontrol", *words], check=True, env={"TZ": "UTC"})


def _served(centre: Centre) -> Iterator[Centre]:
    yield centre
    centre.adapter.close()
