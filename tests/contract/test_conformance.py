"""The conformance kit on emulated centres and on this machine: what staff would see, before there is such a centre."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from site_adapters.centre.conformance.kit import Target
from site_adapters.centre.conformance.run import Found, run
from tests.builders import local_site
from tests.docking import dock
from tests.emulators.site import pbs_centre, sunway_centre

# What root can do here is what these rules forbid at a centre.
OF_ROOT = {"auth/who", "auth/root", "docking/root is not given", "log/others' files"}


def openpbs(folder: Path) -> dict[str, Any]:
    return pbs_centre(folder)[1]


def torque(folder: Path) -> dict[str, Any]:
    return pbs_centre(folder, flavour="torque", nodes=4)[1]


def sunway(folder: Path) -> dict[str, Any]:
    return {**sunway_centre(folder)[1], "zone": "UTC"}


def local(folder: Path) -> dict[str, Any]:
    return local_site(folder)


def conformance(folder: Path, site: dict[str, Any], only: tuple[str, ...], queue: str | None) -> Found:
    login = getpass.getuser()
    centre = dock(folder, site, accounts=[login]).compose()
    try:
        target = Target.at_the_centre(centre, login, queue)
        target.slow = not only
        return run(target, only=only, say=print)
    finally:
        centre.close()


def told(found: Found) -> str:
    left_out = OF_ROOT if os.geteuid() == 0 else set()
    return "\n".join(f"{r.name}: {r.detail}" for r in found.failed if r.name not in left_out)


@pytest.mark.soak
@pytest.mark.parametrize(("centre", "queue"), [(openpbs, None), (torque, None), (sunway, "share"), (local, None)])
def test_a_centre_keeps_every_rule(tmp_path: Path, centre: Callable[[Path], dict[str, Any]], queue: str | None) -> None:
    found = conformance(tmp_path, centre(tmp_path), (), queue)
    print(found.summary)
    assert not told(found)


# What needs no waiting: texts, refusals, outputs, fences, the docking, the policy, the orders.
SHARE = ("name/", "argument/", "output/", "refused/", "fence/", "log/", "docking/", "policy/", "orders/")


@pytest.mark.parametrize(("centre", "queue"), [(openpbs, None), (sunway, "share"), (local, None)])
def test_a_centre_keeps_the_rules(tmp_path: Path, centre: Callable[[Path], dict[str, Any]], queue: str | None) -> None:
    found = conformance(tmp_path, centre(tmp_path), SHARE, queue)
    assert not told(found)
    assert found.count("passed") >= 70, found.summary
