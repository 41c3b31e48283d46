"""A real Slurm docked in each way: over SSH, on its own host, with limits enforced, submitting through slurmrestd."""

from __future__ import annotations

import pwd
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from site_adapters.slurm.rest import RestSubmit
from site_adapters.types import Attributes, JobSpec, SiteAccount
from tests.builders import slurm_site
from tests.contract.breakage import Land
from tests.contract.centre import Centre, centre_of
from tests.lab.slurm import SlurmLab, wait_for

ALICE = "lab_alice"


def alpha_ssh(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Over SSH, with an observer and a meter; Slurm's default limits (it accepts what can never run)."""
    lab: SlurmLab = request.getfixturevalue("slurm_alpha")
    yield from _served(slurm(lab, slurm_site(lab), "slurm-ssh", Attributes(queue_name="nowhere")), lab)


def beta_enforced(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """A munge key of its own, `EnforcePartLimits=ALL`, no observer and no meter: each account is asked on its own."""
    lab: SlurmLab = request.getfixturevalue("slurm_beta")
    site = {**slurm_site(lab), "credentials": {}}
    too_long = Attributes(queue_name="short", duration=7 * 86400)
    yield from _served(slurm(lab, site, "slurm-enforced", too_long), lab)


def alpha_here(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """On the scheduler's own host, without SSH: root switches to the person."""
    lab: SlurmLab = request.getfixturevalue("slurm_alpha")
    yield from _served(slurm(lab, here(lab), "slurm-here", Attributes(queue_name="nowhere")), lab)


def alpha_rest(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """Submits through slurmrestd, looks over SSH."""
    lab: SlurmLab = request.getfixturevalue("slurm_alpha")
    rest = {"url": lab.rest_url, "jwt_key_file": str(lab.jwt_key_path)}
    site = slurm_site(lab, backend="rest", rest=rest)
    centre = slurm(lab, site, "slurm-rest", Attributes(queue_name="nowhere"))
    management: Any = centre.adapter.management
    centre.breakage = RestBreakage(management.backend)
    yield from _served(centre, lab)


def here(lab: SlurmLab, **more: Any) -> dict[str, Any]:
    """A lab centre without SSH."""
    own = {"username": "lab_gw"}
    environment = {"SLURM_CONF": lab.env["SLURM_CONF"]}
    return {"site": lab.cluster, "scheduler": "slurm", "transport": {"kind": "local", "switch_user": True},
            "credentials": {"observer": own, "meter": own}, "environment": environment, **more}  # fmt: skip


def slurm(lab: SlurmLab, site: dict[str, Any], name: str, refused: Attributes) -> Centre:
    """A centre of the lab, and what the lab can do to it."""
    account = pwd.getpwnam(ALICE)
    key = lab.user_key_path.read_text()
    deeds = _Deeds(lab)
    return centre_of(
        site, name=name, account=SiteAccount(ALICE, account.pw_dir, account.pw_uid),
        workplace=Path(account.pw_dir, f"contract-{name}"), keys=lambda _username: key,
        refused=JobSpec(script="#!/bin/sh\ntrue\n", attributes=refused), down=deeds.down, busy=deeds.busy,
        rename=deeds.rename, requeue=deeds.requeue, reserve=deeds.reserve,
    )  # fmt: skip


class _Deeds:
    """What the people and the daemons of a centre may do."""

    def __init__(self, lab: SlurmLab) -> None:
        self._lab = lab

    @contextmanager
    def down(self) -> Iterator[None]:
        self._lab.kill("ctld")
        try:
            yield
        finally:
            self._lab.start()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The queue is down: jobs are accepted and wait, which is quicker than to fill all cores."""
        self._lab.run("scontrol", "update", "partitionname=normal", "state=down")
        try:
            yield
        finally:
            self._lab.run("scontrol", "update", "partitionname=normal", "state=up")

    @contextmanager
    def reserve(self) -> Iterator[str]:
        name = f"contract-{secrets.token_hex(4)}"  # a controller that is killed next forgets that this one was deleted
        self._lab.run("scontrol", "create", "reservation", f"reservationname={name}", "starttime=now+1hour",
                      "duration=60", "nodes=ALL", "users=root", "flags=maint")  # fmt: skip
        try:
            yield name
        finally:
            self._lab.run("scontrol", "delete", f"reservationname={name}")

    def rename(self, native_id: str, name: str) -> None:
        self._lab.run("scontrol", "update", f"jobid={native_id}", f"name={name}", user=ALICE)

    def requeue(self, native_id: str) -> None:
        self._lab.run("scontrol", "requeue", native_id)


class RestBreakage:
    """Loses slurmrestd's answers: the request arrives (now or later), the connection breaks before the answer."""

    def __init__(self, backend: RestSubmit) -> None:
        self._backend: Any = backend
        self._kept: list[tuple[Any, Any]] = []

    @contextmanager
    def cut(self) -> Iterator[None]:
        real = self._backend._post
        with self._instead(real):
            yield

    @contextmanager
    def late(self) -> Iterator[Land]:
        def land() -> None:
            kept, self._kept = self._kept, []
            for job, headers in kept:
                with closing(self._backend._connection()) as connection:
                    self._backend._post(connection, job, headers)

        with self._instead(lambda _connection, job, headers: self._kept.append((job, headers))):
            yield land

    @contextmanager
    def _instead(self, deed: Any) -> Iterator[None]:
        def lost(_self: Any, connection: Any, job: Any, headers: Any) -> tuple[int, bytes]:
            deed(connection, job, headers)
            raise ConnectionResetError("the test lost the answer")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RestSubmit, "_post", lost)
            yield


def _served(centre: Centre, lab: SlurmLab) -> Iterator[Centre]:
    yield centre
    centre.adapter.close()
    lab.run("scancel", "-u", ALICE, check=False)
    wait_for(lambda: lab.run("squeue", "-h", "-o", "%i") == "", "an empty queue", 60)
