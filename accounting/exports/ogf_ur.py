"""Charged runs as Open Grid Forum usage records (GFD.98, namespace urf 2003/09), valid by its schema.

`Charge` is a float in the schema, and it has no GPUs, no memory over time and no state but five words. So what the
meter reads stands beside it as `Resource`s (text), by the names of our usage records, and the file read back meters the
same (`accounting/sources/ogf_ur.py`); with `charge_micro` and `billed_core_seconds`, what it cost and was billed for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from accounting.money import format_micro

NAMESPACE = "http://schema.ogf.org/urf/2003/09/urf"
_NS = f"{{{NAMESPACE}}}"
_DOMAIN = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9'\-]*[a-zA-Z0-9]\.)*([a-zA-Z0-9][a-zA-Z0-9'\-]*[a-zA-Z0-9])\Z")
_ILLEGAL = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# GFD.98 section 7.1 knows few words; the scheduler's own stands in the description.
_STATUS = {"COMPLETED": "completed", "CANCELLED": "aborted", "PREEMPTED": "aborted", "REQUEUED": "aborted"}
# The states that a reader makes of those words.
_PLAIN = frozenset({"COMPLETED", "CANCELLED", "FAILED"})


@dataclass(frozen=True, slots=True)
class ChargedRun:
    """A run with what it cost; what the export needs of it."""

    run_key: str
    site_id: str
    native_id: str
    job_id: str
    job_name: str
    username: str
    user: str
    project: str
    queue: str
    state: str
    cores: int
    nodes: int
    elapsed_s: int
    start: datetime | None
    end: datetime | None
    core_seconds: int
    node_seconds: int
    gpu_seconds: int
    memory_mib_seconds: int
    currency: str
    charge_micro: int
    rule: str
    billed_core_seconds: int = 0
    kind: str = "run"
    suspended_s: int = 0
    exclusive: bool = False
    requested_cores: int | None = None
    cpus: int | None = None
    threads_per_core: int = 1
    estimated: bool = False
    qos: str = ""
    units: Mapping[str, int] = field(default_factory=dict)


def ogf_ur_xml(runs: Iterable[ChargedRun], *, created: datetime) -> str:
    """A `UsageRecords` document."""
    ElementTree.register_namespace("urf", NAMESPACE)
    root = Element(f"{_NS}UsageRecords")
    for run in runs:
        _record(root, run, created)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=False)


def _record(root: Element, run: ChargedRun, created: datetime) -> None:
    record = SubElement(root, f"{_NS}JobUsageRecord")
    identity = SubElement(record, f"{_NS}RecordIdentity")
    identity.set(f"{_NS}recordId", " ".join(_text(run.run_key).split()))
    identity.set(f"{_NS}createTime", _time(created))
    job = SubElement(record, f"{_NS}JobIdentity")
    _add(job, "GlobalJobId", run.job_id)
    _add(job, "LocalJobId", run.native_id)
    person = SubElement(record, f"{_NS}UserIdentity")
    _add(person, "LocalUserId", run.username)
    _add(person, "GlobalUserName", run.user)
    _add(record, "JobName", run.job_name)
    charge = _add(record, "Charge", format_micro(run.charge_micro), always=True)
    charge.set(f"{_NS}unit", run.currency)
    charge.set(f"{_NS}formula", _text(run.rule))
    status = _add(record, "Status", _STATUS.get(run.state.split(" ")[0], "failed"), always=True)
    status.set(f"{_NS}description", _text(run.state))
    _add(record, "WallDuration", f"PT{run.elapsed_s}S", always=True)
    if run.nodes > 0:
        _add(record, "NodeCount", str(run.nodes))
    if run.cores > 0:
        _add(record, "Processors", str(run.cores))
    for name, at in (("EndTime", run.end), ("StartTime", run.start)):
        if at is not None:
            _add(record, name, _time(at))
    if _DOMAIN.match(run.site_id):
        _add(record, "MachineName", run.site_id)
    _add(record, "Queue", run.queue)
    _add(record, "ProjectName", run.project)
    for name, value in _exact(run).items():
        _add(record, "Resource", value).set(f"{_NS}description", _text(name))


def _exact(run: ChargedRun) -> dict[str, str]:
    """What the meter reads, and what it cost; what is as in any record is left out, but never what the schema says
    otherwise (no cores) or what a reader would work out another way."""
    figures = {"core_seconds": run.core_seconds, "billed_core_seconds": run.billed_core_seconds,
               "charge_micro": run.charge_micro, "node_seconds": run.node_seconds}  # fmt: skip
    if_any = {"gpu_seconds": run.gpu_seconds, "memory_mib_seconds": run.memory_mib_seconds,
              "suspended_s": run.suspended_s, "exclusive": int(run.exclusive),
              "estimated": int(run.estimated)}  # fmt: skip
    if_any |= {f"unit:{name}": count for name, count in run.units.items()}
    found = {name: str(value) for name, value in figures.items()}
    found |= {name: str(value) for name, value in if_any.items() if value}
    counts = {"requested_cores": run.requested_cores, "cpus": run.cpus}
    found |= {name: str(value) for name, value in counts.items() if value is not None}
    found |= {name: "0" for name, value in (("cores", run.cores), ("nodes", run.nodes)) if not value}
    if run.threads_per_core != 1:
        found["threads_per_core"] = str(run.threads_per_core)
    words = {
        "state": "" if run.state in _PLAIN else run.state,
        "kind": "" if run.kind == "run" else run.kind,
        "qos": run.qos,
    }
    return found | {name: value for name, value in words.items() if value}


def _add(parent: Element, name: str, text: str, *, always: bool = False) -> Element:
    """A member with text; without text it is left out (the element returned then belongs to nobody)."""
    cleaned = _text(text)
    if not cleaned and not always:
        return Element(f"{_NS}{name}")
    element = SubElement(parent, f"{_NS}{name}")
    element.text = cleaned
    return element


def _text(text: str) -> str:
    """Without characters that XML 1.0 cannot hold."""
    return _ILLEGAL.sub("\ufffd", text)


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
