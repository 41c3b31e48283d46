"""Meter a usage record: what of it is billable under the agreement's policy, and why."""

from __future__ import annotations

from dataclasses import dataclass

from accounting.usage import Kind, UsageRecord

# Ends that the centre answers for (accounting.md, trap 15).
_CENTRE_FAULTS = frozenset({"NODE_FAIL", "BOOT_FAIL"})


@dataclass(frozen=True, slots=True)
class MeteringPolicy:
    """What operator and centre agreed to bill. `version` is stored with each charge."""

    version: str = "default-1"
    bill_requeued: bool = True
    bill_node_fail: bool = True
    bill_preempted: bool = True


@dataclass(frozen=True, slots=True)
class Metered:
    """`core_seconds` to be billed, and the rule that says so."""

    core_seconds: int
    rule: str


def meter(record: UsageRecord, policy: MeteringPolicy) -> Metered:
    """Allocated cores × elapsed time, or nothing where the policy (or the fence) says so."""
    if record.kind is Kind.FENCED_COPY:
        return Metered(0, "a copy that the fence turned away is never charged")
    if record.kind is Kind.NEVER_RAN:
        return Metered(0, "it never had resources")
    if record.state in _CENTRE_FAULTS and not policy.bill_node_fail:
        return Metered(0, f"{record.state}: the centre bears it")
    if record.state == "REQUEUED" and not policy.bill_requeued:
        return Metered(0, "requeued runs are not billed")
    if record.state == "PREEMPTED" and not policy.bill_preempted:
        return Metered(0, "preempted runs are not billed")
    return Metered(record.core_seconds, f"{record.cores} allocated cores × {record.elapsed_s} s")
