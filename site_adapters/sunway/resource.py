"""What a Sunway centre has and how busy it is, from `qload` and `cnload`; its queues stand in the site file.

Columns are found by their headings: no public source gives the whole table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CredentialRefused, Unsupported
from site_adapters.sunway.commands import classify
from site_adapters.transport import Connection, Logins
from site_adapters.types import Capacity, Limits, Node, Queue, Reservation, RowProblem, SiteAccount

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# sunway.md section 3: words of cnload for nodes that are out of service.
_FAULTY = ("softft", "hartft", "down", "boot")
_NODE = re.compile(r"vn\d+\Z", re.ASCII)
_DIGIT = re.compile(r"\d", re.ASCII)
_COUNT = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """(queue, its nodes by state: CONFIG, IDLE, BUSY …), and lines that are no queue."""

    rows: tuple[tuple[str, dict[str, int]], ...]
    problems: tuple[RowProblem, ...]


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """(node, its state, its queue), and lines that are no node."""

    rows: tuple[tuple[str, str, str], ...]
    problems: tuple[RowProblem, ...]


def qload(program: str) -> Command[QueueLoad]:
    """Nodes of each queue by state."""

    def read(output: Output) -> QueueLoad:
        if output.exit_code != 0:
            raise classify(output)
        return read_qload(output.text)

    return Command((program, "-w"), read, deadline_s=30.0)


def read_qload(text: str) -> QueueLoad:
    """Rows under a heading that names QUEUE and CONFIG. A row has figures; rules and greetings have none."""
    headings: list[str] = []
    rows: list[tuple[str, dict[str, int]]] = []
    problems: list[RowProblem] = []
    for line in _rows(text):
        words = line.split()
        upper = [word.upper() for word in words]
        if "CONFIG" in upper and any(word.startswith("QUEUE") for word in upper):
            headings = upper
            continue
        row = dict(zip(headings, words, strict=False))
        name = next((row.get(word, "") for word in headings if word.startswith("QUEUE")), "")
        figures = {key: int(value) for key, value in row.items() if _COUNT.fullmatch(value)}
        if len(words) == len(headings) and name and len(figures) >= len(headings) - 1:
            rows.append((name, figures))
        elif _DIGIT.search(line):
            problems.append(RowProblem(line, "no queue under the heading"))
    return QueueLoad(tuple(rows), tuple(problems))


def cnload(program: str) -> Command[NodeLoad]:
    """Each compute node."""

    def read(output: Output) -> NodeLoad:
        if output.exit_code != 0:
            raise classify(output)
        return read_cnload(output.text)

    return Command((program, "-b"), read, deadline_s=30.0)


def read_cnload(text: str) -> NodeLoad:
    """Lines that begin with a node: its state is the fifth word, its queue the last that names one."""
    rows: list[tuple[str, str, str]] = []
    problems: list[RowProblem] = []
    for line in _rows(text):
        words = line.split()
        if len(words) >= 5 and _NODE.match(words[0]):
            queue = next((word for word in reversed(words) if word.startswith("q_")), "")
            rows.append((words[0], words[4], queue))
        elif _DIGIT.search(line):
            problems.append(RowProblem(line, "no node"))
    return NodeLoad(tuple(rows), tuple(problems))


def _rows(text: str) -> list[str]:
    return [line for line in _ANSI.sub("", text).split("\n") if line.strip()]


@dataclass(frozen=True, slots=True)
class SunwayResource:
    """Queues of the site file with qload's figures; nodes of cnload."""

    config: SiteConfig
    logins: Logins

    def queues(self) -> list[Queue]:
        load = dict(self._connection().run(qload(self.config.command("qload"))).rows)
        chip, names = self.config.sunway.chip, self.config.queues
        shown = {name: q.native for name, q in names.items()} or {name: name for name in load}
        per_node = chip.cgs_per_node * chip.cores_per_cg
        queues = []
        for index, (name, native) in enumerate(shown.items()):
            nodes = load.get(native, {}).get("CONFIG")
            queues.append(
                Queue(
                    name=name,
                    open=native in load,
                    default=index == 0,
                    duration_max=self.config.policy.duration_max,
                    nodes_total=nodes,
                    cores_per_node_max=per_node,
                    cores_total=None if nodes is None else nodes * per_node,
                    exclusive=name in names and names[name].exclusive,
                    cores_per_process=chip.cores_per_cg,
                    native_state="shown by qload" if native in load else "not shown by qload",
                )
            )
        return queues

    def nodes(self) -> list[Node]:
        chip = self.config.sunway.chip
        cores = chip.cgs_per_node * chip.cores_per_cg
        found = self._connection().run(cnload(self.config.command("cnload"))).rows
        ours = {queue.native: name for name, queue in self.config.queues.items()}
        return [
            Node(
                name,
                state,
                cores,
                cores if "busy" in state.lower() else 0,
                0,
                tuple(filter(None, (ours.get(queue, queue),))),
            )
            for name, state, queue in found
        ]

    def capacity(self) -> Capacity:
        nodes = self.nodes()
        return Capacity(
            cores_total=sum(n.cores for n in nodes),
            cores_busy=sum(n.cores_busy for n in nodes),
            cores_down=sum(n.cores for n in nodes if n.state.lower() in _FAULTY),
            jobs_running=0,
            jobs_queued=0,
        )

    def software(self) -> NoReturn:
        raise Unsupported("nobody keeps a list of a Sunway's software that could be asked")

    def limits(self, account: SiteAccount) -> Limits:
        return Limits()

    def reservations(self) -> list[Reservation]:
        raise Unsupported("no command of Sunway is known that tells reservations")

    def _connection(self) -> Connection:
        connection = self.logins.anyone()
        if connection is None:
            raise CredentialRefused("nobody has logged in yet, and no observer is configured")
        return connection
