"""Processes of this machine as a centre of two cores."""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from site_adapters.types import JobSpec, Resources, SiteAccount
from tests.contract.centre import Centre, Work, centre_of


def local(request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """No scheduler, no root."""
    me = pwd.getpwnam(getpass.getuser())
    site = {"site": "local", "scheduler": "local", "transport": {"kind": "local"},
            "staging_root": str(folder / "staging"), "policy": {"cores_max": 2}}  # fmt: skip
    centre = centre_of(
        site, name="local", account=SiteAccount(me.pw_name, me.pw_dir, os.getuid()), workplace=folder / "work",
        keys=lambda _username: None, refused=JobSpec(script="true", resources=Resources(process_count=3)),
    )  # fmt: skip

    @contextmanager
    def busy() -> Iterator[None]:
        blocker = Work(centre, seconds=300, spec={"resources": Resources(process_count=2)}).submit()
        try:
            yield
        finally:
            blocker.cancel()
            blocker.end()

    centre.busy = busy
    yield centre
    centre.adapter.close()
