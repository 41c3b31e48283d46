"""Every site file becomes a site: an open one, or a closed one that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from site_adapters import registry
from site_adapters.config import BrokenSite, SiteConfig
from site_adapters.errors import SiteClosed, SiteUnreachable


def config(**more: Any) -> SiteConfig:
    wanted = {"site": "here", "scheduler": "local", "transport": {"kind": "local"}, "title": {"en": "Here"}, **more}
    return SiteConfig.model_validate(wanted)


def no_keys(_username: str) -> None:
    return None


def test_a_good_file_is_an_open_site() -> None:
    adapter = registry.build(config(), keys=no_keys)
    assert (adapter.site_id, adapter.title, adapter.closed_reason) == ("here", "Here", None)
    assert adapter.management.health().ok
    adapter.close()


def test_a_broken_file_is_a_closed_site_with_all_reasons() -> None:
    adapter = registry.build(BrokenSite("ill", ("line 1: a", "line 2: b")), keys=no_keys)
    assert (adapter.site_id, adapter.closed_reason) == ("ill", "line 1: a; line 2: b")
    adapter.close()


def test_every_call_to_a_closed_site_raises_its_reason() -> None:
    adapter = registry.build(BrokenSite("ill", ("no file",)), keys=no_keys)
    calls = [
        lambda: adapter.management.observe([]),
        lambda: adapter.resource.queues(),
        lambda: adapter.auth.probe("x"),
        lambda: adapter.billing.usage(*[None] * 2),  # type: ignore[list-item]
        lambda: adapter.log.read(None, "x", offset=0, limit=1),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(SiteClosed, match="no file"):
            call()


@pytest.mark.parametrize("error", [SiteUnreachable("down"), ValueError("odd"), ImportError("no libslurm")])
def test_a_site_whose_building_fails_is_closed_and_keeps_its_name(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_config: SiteConfig, _logins: object) -> NoReturn:
        raise error

    monkeypatch.setitem(registry.BUILDERS, "local", build)
    adapter = registry.build(config(), keys=no_keys)
    assert adapter.title == "Here" and adapter.closed_reason is not None and str(error) in adapter.closed_reason


def test_a_missing_key_file_closes_no_site_but_refuses_the_login(tmp_path: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPSBCfU+FQW+FLJQhDQuazKmtigehI5okhTX1S4Ei0Hp"
    own = {"username": "gw", "key_file": str(tmp_path / "none")}
    site = config(
        site="far", scheduler="slurm", credentials={"observer": own},
        transport={"kind": "ssh", "host": "127.0.0.1", "port": 1, "host_key": key},
    )  # fmt: skip
    adapter = registry.build(site, keys=no_keys)
    assert adapter.closed_reason is None
    assert "cannot be read" in adapter.management.health().detail
