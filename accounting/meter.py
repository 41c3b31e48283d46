"""Meter a usage record: what of it is billable under the agreement's policy, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from msgspec import Struct

from accounting.usage import CORE_SECONDS, GPU_SECONDS, MEMORY, NODE_SECONDS, Kind, UsageRecord


class Basis(StrEnum):
    """Which cores are billed."""

    ALLOCATED = "allocated"  # what the scheduler gave (accounting.md, trap 11)
    REQUESTED = "requested"  # what was asked for


@dataclass(frozen=True, slots=True)
class Bears:
    """Who bears a run that ended in a certain state, as weights: 0/1/0 the centre alone, 1/1/0 shared."""

    payer: int = 1
    centre: int = 0
    operator: int = 0

    def __post_init__(self) -> None:
        if min(self.payer, self.centre, self.operator) < 0 or self.payer + self.centre + self.operator == 0:
            raise ValueError("somebody bears it, and nobody less than nothing")


PAYER, CENTRE, OPERATOR = Bears(1, 0, 0), Bears(0, 1, 0), Bears(0, 0, 1)


@dataclass(frozen=True, slots=True)
class MeteringPolicy:
    """What operator and centre agreed to bill; dated by the agreement that holds it. `version` is kept on each charge.

    `liability`: native end state → who bears it; the payer where it is not named. `held_while_suspended`: resources
    that stay taken (a suspended job gives back its cores only). `exclusive_whole_nodes`: else an exclusive run is
    billed by what was asked. `cores_per_node`: queue (`*`: any) → cores billed for each node of an exclusive run;
    without it the cores that the record names. `threads_per_core`: the same for records that count threads.
    """

    version: str = "default-1"
    basis: Basis = Basis.ALLOCATED
    exclusive_whole_nodes: bool = True
    cores_per_node: Mapping[str, int] = field(default_factory=dict)
    threads_per_core: Mapping[str, int] = field(default_factory=dict)
    held_while_suspended: tuple[str, ...] = (GPU_SECONDS, MEMORY)
    bill_requeued: bool = True
    liability: Mapping[str, Bears] = field(default_factory=dict)

    def bearer(self, state: str) -> Bears:
        return self.liability.get(state, PAYER)


class Metered(Struct, frozen=True, gc=False):
    """Quantities by resource that a price applies to, who bears them, and the rule that says so."""

    quantities: Mapping[str, int]
    rule: str
    bears: Bears = PAYER

    @property
    def core_seconds(self) -> int:
        return self.quantities.get(CORE_SECONDS, 0)


_NOTHING: Mapping[str, int] = {}


def meter(record: UsageRecord, policy: MeteringPolicy) -> Metered:
    """Cores × time and all else the run held, or nothing where the policy (or the fence) says so."""
    if record.kind is Kind.FENCED_COPY:
        return Metered(_NOTHING, "a copy that the fence turned away is never charged")
    if record.kind is Kind.TOLD_AGAIN:
        return Metered(_NOTHING, "the centre told this run under another key too")
    if record.kind is Kind.NEVER_RAN:
        return Metered(_NOTHING, "it never had resources")
    if record.state == "REQUEUED" and not policy.bill_requeued:
        return Metered(_NOTHING, "requeued runs are not billed")
    cores, how = billed_cores(record, policy)
    core_time = record.wall_s if CORE_SECONDS in policy.held_while_suspended else record.elapsed_s
    quantities = dict(record.resources)
    quantities[CORE_SECONDS] = cores * core_time if cores != record.cores else _core_seconds(record, core_time)
    for name in (GPU_SECONDS, NODE_SECONDS, MEMORY):
        if record.suspended_s and name in quantities:
            quantities[name] = _suspended(record, policy, name, quantities[name])
    bears = policy.bearer(record.state)
    rule = f"{cores} {how} × {core_time} s"
    if bears != PAYER:
        rule += f"; {record.state}: borne payer {bears.payer} : centre {bears.centre} : operator {bears.operator}"
    return Metered({k: v for k, v in quantities.items() if v}, rule, bears)


def billed_cores(record: UsageRecord, policy: MeteringPolicy) -> tuple[int, str]:
    """How many cores are billed, and what they are called on the invoice line."""
    if record.exclusive and policy.exclusive_whole_nodes:
        per_node = _of_queue(policy.cores_per_node, record.queue)
        if per_node is not None and record.nodes:
            return per_node * record.nodes, f"cores of {record.nodes} whole nodes"
    threads = _of_queue(policy.threads_per_core, record.queue)
    asked = record.requested_cores
    by_request = policy.basis is Basis.REQUESTED or (record.exclusive and not policy.exclusive_whole_nodes)
    if by_request and asked is not None:
        if threads is not None and record.cpus is not None and record.threads_per_core == 1:
            return threads_as_cores(asked, record.nodes, threads), f"cores of {asked} requested threads"
        return asked, "requested cores"
    if threads is not None and record.cpus is not None:
        return threads_as_cores(record.cpus, record.nodes, threads), f"cores of {record.cpus} threads"
    return record.cores, "allocated cores"


def threads_as_cores(cpus: int, nodes: int, threads_per_core: int) -> int:
    """Whole cores on each node for CPUs that are threads, spread evenly: 5 threads of 2 on one node are 3 cores."""
    if nodes <= 1:
        return -(-cpus // threads_per_core)
    each, more = divmod(cpus, nodes)
    return (nodes - more) * -(-each // threads_per_core) + more * -(-(each + 1) // threads_per_core)


def _core_seconds(record: UsageRecord, core_time: int) -> int:
    """The record's own figure, which may be finer than cores × elapsed; suspension comes on top where it is billed."""
    return record.core_seconds + record.cores * (core_time - record.elapsed_s)


def _suspended(record: UsageRecord, policy: MeteringPolicy, name: str, quantity: int) -> int:
    """Sources give GPUs and memory with the suspended time, nodes without: move to what the policy says."""
    held = name in policy.held_while_suspended
    if name == NODE_SECONDS:
        return quantity + record.nodes * record.suspended_s if held else quantity
    return quantity if held or record.wall_s == 0 else quantity * record.elapsed_s // record.wall_s


def _of_queue(by_queue: Mapping[str, int], queue: str) -> int | None:
    return by_queue.get(queue, by_queue.get("*"))
