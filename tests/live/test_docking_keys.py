"""The gateway's key towards a centre is replaced without a pause, over both ways to dock."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.admin import docking
from gateway.errors import Conflict
from gateway.services import Services
from site_adapters.if2 import keys
from tests.builders import compose_gateway, local_site, served
from tests.docking import Docked, dialling, dock, serving
from tests.lab.slurm import wait_for


@pytest.fixture
def docked(tmp_path: Path) -> Docked:
    return dock(tmp_path, local_site(tmp_path), accounts=[getpass.getuser()])


@contextmanager
def reached(kind: str, folder: Path, docked: Docked) -> Iterator[Services]:
    url = f"sqlite:///{folder / 'gw.sqlite'}"
    if kind == "service":
        with serving(docked.compose()) as address:
            yield compose_gateway(folder / "gw", url, docked.site_file(url=address))
    else:
        services = compose_gateway(folder / "gw", url, docked.site_file("agent"))
        with served(services) as address, dialling(docked.compose(), address):
            yield services


def rotate(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(services.settings.home))
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", services.settings.effective_database_url)
    docking.dock_rotate(argparse.Namespace(site="local"))


@pytest.mark.parametrize("kind", ["service", "agent"])
def test_a_new_key_signs_once_the_centre_has_taken_it(
    tmp_path: Path, docked: Docked, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys.load(docked.gateway_key).public
    with reached(kind, tmp_path, docked) as services:
        wait_for(lambda: services.sites["local"].management.health().ok, "the centre")
        rotate(services, monkeypatch)
        if kind == "agent":
            assert keys.load(docked.gateway_key).public == before  # the gateway that runs has the line, not the command
            services.sites["local"].renew_keys()
        after = keys.load(docked.gateway_key).public

        assert after != before and not docked.gateway_key.with_suffix(".next").exists()
        assert services.sites["local"].management.health().ok
    lasting = [k.kid for k in docked.home.trust.all() if k.until is None]
    assert lasting == [after.kid]  # the old one ends within a day


def test_a_key_that_two_centres_share_is_not_rotated_for_one(
    tmp_path: Path, docked: Docked, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: dict[str, Any] = {**docked.site_file("agent"), "site": "other"}
    services = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file("agent"), other)
    with pytest.raises(Conflict, match="also the key towards other"):
        rotate(services, monkeypatch)
