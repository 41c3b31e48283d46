"""What this machine has: one queue, one node."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import NoReturn

from site_adapters.config import SiteConfig
from site_adapters.errors import Unsupported
from site_adapters.types import Capacity, Limits, Node, Queue, Reservation, SiteAccount


@dataclass(frozen=True, slots=True)
class LocalResource:
    """The machine as a centre of one queue."""

    config: SiteConfig
    cores: int

    def queues(self) -> list[Queue]:
        return [
            Queue("default", open=True, default=True, duration_max=self.config.policy.duration_max,
                  duration_default=3600, nodes_max=1, nodes_total=1, cores_per_node_max=self.cores,
                  cores_total=self.cores, memory_per_node_max=_memory(), native_state="UP")
        ]  # fmt: skip

    def nodes(self) -> list[Node]:
        return [Node(platform.node(), "UP", self.cores, 0, _memory(), ("default",))]

    def capacity(self) -> Capacity:
        return Capacity(self.cores, 0, 0, 0, 0)

    def software(self) -> NoReturn:
        raise Unsupported("nobody keeps a list of this machine's software")

    def limits(self, account: SiteAccount) -> Limits:
        return Limits()

    def reservations(self) -> list[Reservation]:
        return []


def cores_of_machine() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
