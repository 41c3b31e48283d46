"""What a REST centre shows of itself: the queues that our user may use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

from site_adapters.config import SiteConfig
from site_adapters.errors import Unsupported
from site_adapters.northbound.commands import Api
from site_adapters.transport.http import HttpConnection
from site_adapters.types import Capacity, Limits, Node, Queue, Reservation, SiteAccount


@dataclass(frozen=True, slots=True)
class NorthboundResource:
    """Queues of one centre; the API tells neither nodes nor reservations."""

    config: SiteConfig
    connection: HttpConnection
    api: Api

    def queues(self) -> list[Queue]:
        manager = self.connection.run(self.api.clusters())
        found = {row["queueName"]: _queue(row) for row in self.connection.run(self.api.queues(manager))}
        if not self.config.queues:
            return list(found.values())
        ours = self.config.queues.items()
        return [replace(found[q.native], name=name, exclusive=q.exclusive) for name, q in ours if q.native in found]

    def nodes(self) -> list[Node]:
        raise Unsupported("this centre's API shows no nodes")

    def capacity(self) -> Capacity:
        raise Unsupported("this centre's API shows no capacity")

    def software(self) -> NoReturn:
        raise Unsupported("this centre's API shows no software")

    def limits(self, account: SiteAccount) -> Limits:
        return Limits()

    def reservations(self) -> list[Reservation]:
        raise Unsupported("this centre's API shows no reservations")


def _queue(row: dict[str, Any]) -> Queue:
    cores, nodes = str(row.get("queMaxPPN", "")), str(row.get("queMaxNodect", ""))
    return Queue(
        name=row["queueName"], open=True, nodes_max=int(nodes) if nodes.isdigit() else None,
        cores_per_node_max=int(cores) if cores.isdigit() else None, native_state="shown to our user",
    )  # fmt: skip
