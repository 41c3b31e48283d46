"""The agent's one connection, cut at random: nothing is lost, nothing is done twice."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.services import Services
from site_adapters.errors import SiteUnreachable
from site_adapters.types import Accepted, Unknown
from tests.builders import compose_gateway, served
from tests.docking import Docked, dialling, dock
from tests.fake_site import FakeSite, submission
from tests.lab.slurm import wait_for

pytestmark = pytest.mark.live  # the wire between two servers, cut again and again


class CuttingProxy:
    """A TCP relay that drops every connection when told to, in the middle of whatever it carries."""

    def __init__(self, port: int) -> None:
        self._target, self._pairs, self._lock = port, set[tuple[socket.socket, socket.socket]](), threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._pairs.add((near, far))
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> int:
        """How many connections there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for one in pair:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        return len(pairs)

    def close(self) -> None:
        self._server.close()
        self.cut()


@pytest.fixture
def docked(tmp_path: Path) -> Docked:
    site = {"site": "fake", "scheduler": "local", "transport": {"kind": "local"}}
    return dock(tmp_path, site, accounts=["alice"])


@contextmanager
def through_proxy(tmp_path: Path, docked: Docked, site: FakeSite) -> Iterator[tuple[Services, CuttingProxy]]:
    services = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file("agent"))
    with served(services) as url:
        proxy = CuttingProxy(int(url.rpartition(":")[2]))
        centre = docked.compose(adapter=site.adapter())
        with dialling(centre, f"http://127.0.0.1:{proxy.port}"):
            wait_for(lambda: services.hub.lines["fake"].is_connected, "the agent")
            yield services, proxy
        proxy.close()


@pytest.mark.parametrize("cuts", [60, pytest.param(500, marks=pytest.mark.soak)])
def test_nothing_is_lost_and_nothing_doubled_over_random_cuts(tmp_path: Path, docked: Docked, cuts: int) -> None:
    site, chance = FakeSite(delay_s=0.02), random.Random(7)
    stop = threading.Event()
    lock, outcomes, numbers = threading.Lock(), list[tuple[int, object]](), iter(range(10**9))
    with through_proxy(tmp_path, docked, site) as (services, proxy):
        management = services.sites["fake"].management

        def submit_until_stopped() -> None:
            while not stop.is_set():
                with lock:
                    number = next(numbers)
                outcome = management.submit([submission(number)])[0]
                with lock:
                    outcomes.append((number, outcome))

        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(submit_until_stopped)
            made = 0
            while made < cuts:
                time.sleep(chance.uniform(0.0, 0.12))
                made += proxy.cut()
            stop.set()
        accepted = [n for n, o in outcomes if isinstance(o, Accepted)]
        unknown = [n for n, o in outcomes if isinstance(o, Unknown)]

    assert max(site.handed.values()) == 1  # never doubled
    assert not unknown  # each answer came, in the end
    assert all(site.handed[submission(n).fence_name] == 1 for n in accepted)  # never lost
    assert len(site.handed) == len(accepted)  # what was said to be refused was not done
    assert len(accepted) > cuts / 4


def test_a_call_without_an_agent_is_refused_soon_and_not_done(tmp_path: Path, docked: Docked) -> None:
    services = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file("agent"))
    wait_for(lambda: services.hub.lines["fake"]._away() > 3.1, "the grace to be over")
    with pytest.raises(SiteUnreachable, match="not connected"):
        services.sites["fake"].auth.probe("alice")


def test_an_agent_of_another_key_is_not_let_in(tmp_path: Path, docked: Docked) -> None:
    services = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file("agent"))
    stranger = dock(tmp_path / "stranger", docked.site, accounts=["alice"])
    with served(services) as url, dialling(stranger.compose(adapter=FakeSite().adapter()), url) as agent:
        time.sleep(1.0)
        assert agent.connections == 0 and not services.hub.lines["fake"].is_connected


def test_a_worker_without_http_reaches_the_agent_through_the_relay(tmp_path: Path, docked: Docked) -> None:
    site = FakeSite()
    with through_proxy(tmp_path, docked, site) as (services, _), served(services) as url:
        worker = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file("agent"),
                                 hub_url=url)  # fmt: skip
        outcome = worker.sites["fake"].management.submit([submission(1)])[0]
    assert isinstance(outcome, Accepted) and site.handed.total() == 1
