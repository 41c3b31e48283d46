"""What a Slurm centre has and how busy it is, from `scontrol` and `sinfo` (fields asked by name)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NoReturn

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.directives import duration
from site_adapters.errors import CommandFailed, CredentialRefused, SiteUnreachable, Unsupported
from site_adapters.slurm.commands import classify, ping
from site_adapters.transport import Connection, Logins
from site_adapters.types import Capacity, Limits, Node, Queue, Reservation, RowProblem, SiteAccount

_PAIR = re.compile(r"(?:^|\s)([A-Za-z_/:]+)=(\S*)")
_DOWN = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Shown:
    """Records by their words, and lines that are none."""

    rows: tuple[dict[str, str], ...]
    problems: tuple[RowProblem, ...]


# What names a record, and the figures that it must have, where it has them, as figures.
_NAMED = {"partition": "PartitionName", "node": "NodeName", "reservation": "ReservationName"}
_FIGURES = ("CPUTot", "CPUAlloc", "RealMemory")


def scontrol_show(program: str, what: str) -> Command[Shown]:
    """`scontrol show WHAT -o`: one record a line."""

    def parse(output: Output) -> Shown:
        if output.exit_code != 0:
            raise classify(output)
        rows, problems = [], []
        for line in output.text.split("\n"):
            record = dict(_PAIR.findall(line))
            if record.get(_NAMED[what]) and all(_figure(record.get(name, "0")) for name in _FIGURES):
                rows.append(record)
            elif line.strip() and not line.startswith("No reservations in the system"):
                problems.append(RowProblem(line, f"no {what}"))
        return Shown(tuple(rows), tuple(problems))

    return Command((program, "show", what, "-o", "--all"), parse, deadline_s=30.0)


def _figure(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def cluster_name(program: str) -> Command[str]:
    """What slurmdbd calls this cluster (`scontrol show config`): one database may serve several."""

    def parse(output: Output) -> str:
        if output.exit_code != 0:
            raise classify(output)
        names = [line.partition("=")[2].strip() for line in output.text.splitlines() if line.startswith("ClusterName ")]
        if not names or not names[0]:
            raise CommandFailed("scontrol names no ClusterName", native_text=output.text[:500])
        return names[0]

    return Command((program, "show", "config"), parse, deadline_s=30.0)


def associations(program: str, username: str, cluster: str) -> Command[Limits]:
    """Accounts and QOS of a login at one cluster (`sacctmgr show assoc`)."""

    def parse(output: Output) -> Limits:
        if output.exit_code != 0:
            raise classify(output)
        rows = [line.split("|") for line in output.text.splitlines() if line.count("|") >= 2]
        accounts = tuple(sorted({row[0] for row in rows}))
        qos = tuple(sorted({q for row in rows for q in row[1].split(",") if q}))
        default = next((row[2] for row in rows if row[2]), None)
        return Limits(accounts, qos, default)

    argv = (
        program,
        "-nP",
        "show",
        "user",
        username,
        "withassoc",
        f"cluster={cluster}",
        "format=account,qos,defaultaccount",
    )
    return Command(argv, parse, deadline_s=30.0)


@dataclass(frozen=True, slots=True)
class SlurmResource:
    """Queues, nodes, capacity and reservations of one centre."""

    config: SiteConfig
    logins: Logins

    def queues(self) -> list[Queue]:
        partitions = self._show("partition")
        nodes = {record["NodeName"]: record for record in self._show("node")}
        found = {record["PartitionName"]: _queue(record, list(nodes.values())) for record in partitions}
        if not self.config.queues:
            return list(found.values())
        named = []
        for name, ours in self.config.queues.items():
            native = found.get(ours.native)
            if native is not None:
                named.append(_renamed(native, name, ours.exclusive))
        return named

    def nodes(self) -> list[Node]:
        return [_node(record) for record in self._show("node")]

    def capacity(self) -> Capacity:
        nodes = self.nodes()
        down = sum(n.cores for n in nodes if any(word in n.state for word in _DOWN))
        return Capacity(
            cores_total=sum(n.cores for n in nodes),
            cores_busy=sum(n.cores_busy for n in nodes),
            cores_down=down,
            jobs_running=0,
            jobs_queued=0,
        )

    def software(self) -> NoReturn:
        raise Unsupported("Slurm does not know what software a centre has")

    def limits(self, account: SiteAccount) -> Limits:
        connection = self.logins.actor(account.username)
        cluster = connection.run(cluster_name(self.config.command("scontrol")))
        return connection.run(associations(self.config.command("sacctmgr"), account.username, cluster))

    def reservations(self) -> list[Reservation]:
        return [
            Reservation(
                name=record["ReservationName"],
                start=_time(record["StartTime"]),
                end=_time(record["EndTime"]),
                nodes=record.get("Nodes", ""),
                maintenance="MAINT" in record.get("Flags", ""),
            )
            for record in self._show("reservation")
        ]

    def _show(self, what: str) -> tuple[dict[str, str], ...]:
        connection = self._connection()
        program = self.config.command("scontrol")
        up, detail = connection.run(ping(program))
        if not up:
            raise SiteUnreachable(f"the scheduler does not answer: {detail}")
        show = scontrol_show(program, what)
        return connection.run(Command(show.argv, show.parse, deadline_s=show.deadline_s, env=(("TZ", "UTC"),))).rows

    def _connection(self) -> Connection:
        connection = self.logins.anyone()
        if connection is None:
            raise CredentialRefused("no observer is configured, and nobody has logged in yet")
        return connection


def _queue(record: dict[str, str], nodes: Sequence[dict[str, str]]) -> Queue:
    name = record["PartitionName"]
    own = [n for n in nodes if name in n.get("Partitions", "").split(",")]
    state = record.get("State", "")
    allowed = record.get("AllowAccounts", "ALL")
    return Queue(
        name=name,
        open=state == "UP",
        default=record.get("Default") == "YES",
        duration_max=_limit(record.get("MaxTime", "")),
        duration_default=_limit(record.get("DefaultTime", "")),
        nodes_max=_count(record.get("MaxNodes", "")),
        nodes_total=_count(record.get("TotalNodes", "")),
        cores_per_node_max=max((int(n["CPUTot"]) for n in own if n.get("CPUTot", "").isdigit()), default=None),
        cores_total=_count(record.get("TotalCPUs", "")),
        memory_per_node_max=max(
            (int(n["RealMemory"]) * 1024**2 for n in own if n.get("RealMemory", "").isdigit()), default=None
        ),
        accounts_allowed=None if allowed == "ALL" else tuple(allowed.split(",")),
        exclusive=record.get("OverSubscribe") == "EXCLUSIVE",
        native_state=state,
    )


def _renamed(queue: Queue, name: str, exclusive: bool) -> Queue:
    return replace(queue, name=name, exclusive=queue.exclusive or exclusive)


def _node(record: dict[str, str]) -> Node:
    return Node(
        name=record["NodeName"],
        state=record.get("State", ""),
        cores=int(record.get("CPUTot", "0")),
        cores_busy=int(record.get("CPUAlloc", "0")),
        memory_bytes=int(record.get("RealMemory", "0")) * 1024**2,
        queues=tuple(filter(None, record.get("Partitions", "").split(","))),
    )


def _limit(text: str) -> int | None:
    return None if text in ("", "UNLIMITED", "NONE", "INFINITE") else duration(text)


def _count(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
