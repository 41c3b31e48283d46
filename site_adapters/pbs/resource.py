"""What a PBS centre has and how busy it is, from `qstat -Q`, `pbsnodes` and `pbs_rstat`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

from site_adapters.command import Command, Garbled, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CredentialRefused, Unsupported
from site_adapters.login_node.management import ask
from site_adapters.pbs.attributes import Attributes, Records, from_json, from_text, moment, seconds, size_bytes
from site_adapters.pbs.commands import ENV, classify, server
from site_adapters.transport import Connection, Logins
from site_adapters.types import Capacity, Limits, Node, Queue, Reservation, SiteAccount

T = TypeVar("T")
_AT_MARGIN = re.compile(r"(?m)^(?=[A-Za-z_][\w.-]* = )")
_DOWN = ("down", "offline", "unknown", "stale", "maintenance", "provisioning")


def shown(program: str, words: tuple[str, ...], member: str, read: Callable[[str], Records]) -> Command[Records]:
    """`qstat -Q -f` or `pbsnodes -a`: JSON where the server writes it well, else text."""

    def by_text(output: Output) -> Records:
        if output.exit_code != 0:
            raise classify(output)
        return read(output.text)

    text = Command((program, *words), by_text, deadline_s=30.0, env=ENV)

    def by_json(output: Output) -> Records:
        if output.exit_code != 0:
            raise classify(output)
        try:
            return from_json(output.text, member)
        except (ValueError, RecursionError) as exc:
            raise Garbled(f"{program}'s JSON is none", native_text=output.error_text, instead=text) from exc

    return Command((program, *words, "-F", "json"), by_json, deadline_s=30.0, env=ENV)


def pbsnodes_text(text: str) -> Records:
    """Nodes as text: a name at the margin, its attributes indented by five."""
    blocks = "\n".join(f"Node: {line}" if line and not line.startswith(" ") else line[1:] for line in text.split("\n"))
    return from_text(blocks, "Node")


@dataclass(frozen=True, slots=True)
class PbsResource:
    """Queues, nodes, capacity and reservations of one centre."""

    config: SiteConfig
    logins: Logins

    def queues(self) -> list[Queue]:
        program = self.config.command("qstat")
        found = self._ask(shown(program, ("-Q", "-f"), "Queue", lambda text: from_text(text, "Queue")))
        nodes = self.nodes()
        default = self._default_queue()
        known = {name: _queue(name, a, nodes, default) for name, a in found.rows}
        if not self.config.queues:
            return [q for q in known.values() if q is not None]
        named = []
        for name, ours in self.config.queues.items():
            native = known.get(ours.native)
            if native is not None:
                named.append(replace(native, name=name, exclusive=native.exclusive or ours.exclusive))
        return named

    def nodes(self) -> list[Node]:
        return [_node(name, a) for name, a in self._vnodes().rows]

    def capacity(self) -> Capacity:
        nodes = self.nodes()
        return Capacity(
            cores_total=sum(n.cores for n in nodes),
            cores_busy=sum(n.cores_busy for n in nodes),
            cores_down=sum(n.cores for n in nodes if any(word in n.state for word in _DOWN)),
            jobs_running=0,
            jobs_queued=0,
        )

    def software(self) -> NoReturn:
        raise Unsupported("PBS does not know what software a centre has")

    def limits(self, account: SiteAccount) -> Limits:
        return Limits()

    def reservations(self) -> list[Reservation]:
        if self.config.pbs.flavour == "torque":
            raise Unsupported("Torque leaves reservations to its scheduler")
        program = self.config.command("pbs_rstat")

        def read(output: Output) -> Records:
            if output.exit_code != 0:
                raise classify(output)
            # Unlike qstat's, its attributes begin at the margin.
            return from_text(_AT_MARGIN.sub("    ", output.text), "Resv ID")

        found = self._ask(Command((program, "-f"), read, deadline_s=30.0, env=ENV))
        return [r for name, a in found.rows if (r := _reservation(name, a)) is not None]

    def _vnodes(self) -> Records:
        torque = self.config.pbs.flavour == "torque"
        words = ("-a",) if torque else ("-a", "-v")
        return self._ask(shown(self.config.command("pbsnodes"), words, "nodes", pbsnodes_text))

    def _default_queue(self) -> str:
        from_server = self._ask(server(self.config.command("qstat")))
        return next((a.get("default_queue", "") for _, a in from_server.rows), "")

    def _ask(self, command: Command[T]) -> T:
        return ask(self._connection(), command)

    def _connection(self) -> Connection:
        connection = self.logins.anyone()
        if connection is None:
            raise CredentialRefused("no observer is configured, and nobody has logged in yet")
        return connection


def _queue(name: str, a: Attributes, nodes: list[Node], default: str) -> Queue | None:
    if a.get("queue_type", "Execution")[:1] == "R" and not a.get("route_destinations"):
        return None
    enabled, started = a.get("enabled") == "True", a.get("started") == "True"
    return Queue(
        name=name,
        open=enabled and started,
        default=name == default,
        duration_max=seconds(a.get("resources_max.walltime", "")),
        duration_default=seconds(a.get("resources_default.walltime", "")),
        nodes_max=_count(a.get("resources_max.nodect", "")),
        nodes_total=len(nodes) or None,
        cores_per_node_max=max((n.cores for n in nodes), default=None),
        cores_total=_count(a.get("resources_max.ncpus", "")) or sum(n.cores for n in nodes) or None,
        memory_per_node_max=max((n.memory_bytes for n in nodes if n.memory_bytes), default=None),
        native_state=f"{'enabled' if enabled else 'disabled'}, {'started' if started else 'stopped'}",
    )


def _node(name: str, a: Attributes) -> Node:
    cores = _count(a.get("resources_available.ncpus", "") or a.get("np", "")) or 0
    exclusive = "exclusive" in a.get("state", "")
    return Node(
        name=name,
        state=a.get("state", ""),
        cores=cores,
        cores_busy=cores if exclusive else _count(a.get("resources_assigned.ncpus", "")) or 0,
        memory_bytes=size_bytes(a.get("resources_available.mem", "")) or 0,
        queues=tuple(filter(None, (a.get("queue", ""),))),
    )


def _reservation(name: str, a: Attributes) -> Reservation | None:
    start, end = moment(a.get("reserve_start", "")), moment(a.get("reserve_end", ""))
    if start is None or end is None:
        return None
    # `pbs_rsub --hosts` names maintenance reservations M…, advance ones R…, standing ones S…
    return Reservation(name, start, end, a.get("resv_nodes", ""), maintenance=name.startswith("M"))


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
