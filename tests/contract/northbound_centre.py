"""A stand-in for a northbound REST centre in the contract suite: no login, no fence, everything by requests."""

from __future__ import annotations

import getpass
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from site_adapters.northbound.auth import NO_UID
from site_adapters.types import Attributes, JobSpec, SiteAccount
from tests.contract.centre import Centre, centre_of

sys.path.insert(0, str(Path(__file__).parents[1] / "emulators"))
import northbound

_SUBMIT = "POST /hpc/openapi/v2/apptemplates/BASIC/BASE/job"


class RestBreakage:
    """The answer of the next submission is lost: it was done, and nobody hears of it."""

    def __init__(self, cluster: northbound.RestCluster) -> None:
        self._cluster = cluster

    @contextmanager
    def cut(self) -> Iterator[None]:
        self._cluster.fault(_SUBMIT, drop=True)
        try:
            yield
        finally:
            self._cluster.heal()

    @contextmanager
    def late(self) -> Iterator[Callable[[], None]]:
        pytest.skip("a request that is done is done before its answer: this API lands nothing late")
        yield lambda: None


def rest(_request: pytest.FixtureRequest, folder: Path) -> Iterator[Centre]:
    """One user of the operator's for all, by a signed login."""
    cluster = northbound.RestCluster(folder / "state")
    cluster.put("cores_per_node", 8)
    server = northbound.serve(folder / "state")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    (folder / "access").write_text(northbound.ACCESS)
    (folder / "secret").write_text(northbound.SECRET)
    (folder / "home").mkdir()
    site: dict[str, Any] = {
        "site": "hangzhou", "scheduler": "northbound", "transport": {"kind": "http"},
        "northbound": {"url": f"http://127.0.0.1:{server.server_address[1]}", "user": getpass.getuser(),
                       "cluster": "ai", "access_key_file": str(folder / "access"),
                       "secret_key_file": str(folder / "secret"), "home": str(folder / "home")},
    }  # fmt: skip

    @contextmanager
    def down() -> Iterator[None]:
        cluster.fault("*", down=True)
        try:
            yield
        finally:
            cluster.heal()

    @contextmanager
    def busy() -> Iterator[None]:
        cluster.put("scheduling", False)
        try:
            yield
        finally:
            cluster.put("scheduling", True)

    centre = centre_of(
        site, name="northbound-emulated", account=SiteAccount(getpass.getuser(), str(folder / "home"), NO_UID),
        workplace=folder / "work", keys=lambda _username: None, breakage=RestBreakage(cluster), queue_name="train",
        refused=JobSpec(script="true", attributes=Attributes(queue_name="no-such-queue")), down=down, busy=busy,
    )  # fmt: skip
    yield centre
    centre.adapter.close()
    server.shutdown()
    server.server_close()
