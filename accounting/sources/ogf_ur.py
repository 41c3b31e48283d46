"""OGF Usage Records (GFD.98, `http://schema.ogf.org/urf/2003/09/urf`): one job in XML, or many in `UsageRecords`.

Read by defusedxml: a centre's file may come from anywhere. Numbers with a comma of seconds (`PT3600.0S`) are cut to
whole seconds. `Resource`s by the names of our usage records (as our own export writes them: seconds of cores, GPUs and
memory, units, the scheduler's own state) say what GFD.98 has no word for, and more exactly than processors x duration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from accounting.sources.figures import COUNT_MAX, SECONDS_MAX, between, moment, whole
from accounting.sources.reading import Reading, read_rows
from accounting.usage import UNIT, Kind, Meter, Unreadable, UsageRecord

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

FORMAT = "ogf-ur/1"
_NS = "{http://schema.ogf.org/urf/2003/09/urf}"
_DURATION = re.compile(
    r"P(?:(\d{1,6})D)?(?:T(?:(\d{1,7})H)?(?:(\d{1,9})M)?(?:(\d{1,11})(?:\.\d*)?S)?)?\Z", re.ASCII
)  # fmt: skip
# GFD.98 section 7.1: the words every reader must know; sites add their own, which then is no state of ours.
_STATES = {"aborted": "CANCELLED", "completed": "COMPLETED", "failed": "FAILED", "held": "HELD", "queued": "QUEUED",
           "started": "RUNNING", "suspended": "SUSPENDED"}  # fmt: skip
# Before the name of a `Resource` in a flat record.
RESOURCE = "Resource:"
QUANTITY_MAX = 10**17
_STATE_MAX = 32
_LIVE = frozenset({"held", "queued", "started", "suspended"})


def read_document(text: str, *, site_id: str, cpus_per_core: int = 1) -> Reading:
    """Every usage record; a document that is no XML (or tries to be more than that) is one problem."""
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as exc:  # LookupError: its encoding
        return Reading(problems=(Unreadable(site_id, FORMAT, text, f"no XML: {exc}"[:500]),))
    found = [root] if _is_record(root) else [child for child in root if _is_record(child)]
    others = len(root) - len(found) if not _is_record(root) else 0
    reading = read_rows(
        [_flat(element) for element in found],
        lambda row: read(row, site_id=site_id, cpus_per_core=cpus_per_core),
        site_id=site_id,
        format_name=FORMAT,
    )
    return Reading(reading.records, reading.problems, reading.passed + others)


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One record as flat fields; None while the job goes on."""
    status = fields["Status"].strip()
    if status in _LIVE:
        return None
    if status not in _STATES:
        raise ValueError(f"unknown status {status!r}")
    start = moment(fields.get("StartTime", ""))
    end = moment(fields["EndTime"])
    if end is None:
        raise ValueError("it has no end")
    elapsed = _duration(fields["WallDuration"]) if "WallDuration" in fields else None
    if elapsed is None:
        if start is None:
            raise ValueError("it has neither a wall duration nor a start")
        elapsed = between(start, end)
    exact = {name.removeprefix(RESOURCE): text for name, text in fields.items() if name.startswith(RESOURCE)}

    def said(name: str, otherwise: int, limit: int = QUANTITY_MAX) -> int:
        return whole(exact[name], limit) if name in exact else otherwise

    if "core_seconds" in exact:
        cpus_per_core = 1  # who counts core-seconds counts cores
    cores = said("cores", -(-whole(fields.get("Processors", "1")) // cpus_per_core), COUNT_MAX)
    nodes = said("nodes", whole(fields.get("NodeCount", "1")), COUNT_MAX)
    local_id = fields.get("LocalJobId", fields["RecordIdentity"])
    return UsageRecord(
        site_id=site_id,
        run_key=fields["RecordIdentity"],
        meter=Meter.CENTRE,
        kind=Kind(exact.get("kind", "run" if elapsed > 0 else "never_ran")),
        native_id=local_id,
        state=exact.get("state", _STATES[status])[:_STATE_MAX],
        username=fields.get("LocalUserId", fields.get("GlobalUserName", "")),
        job_name=fields.get("JobName", ""),
        account=fields.get("ProjectName", ""),
        queue=fields.get("Queue", ""),
        qos=exact.get("qos", ""),
        start_time=start,
        end_time=end,
        cores=cores,
        nodes=nodes,
        elapsed_s=elapsed,
        core_seconds=said("core_seconds", cores * elapsed),
        node_seconds=said("node_seconds", nodes * elapsed),
        gpu_seconds=said("gpu_seconds", 0),
        memory_mib_seconds=said("memory_mib_seconds", 0),
        suspended_s=said("suspended_s", 0, SECONDS_MAX),
        exclusive=bool(said("exclusive", 0)),
        requested_cores=whole(exact["requested_cores"]) if "requested_cores" in exact else None,
        cpus=whole(exact["cpus"]) if "cpus" in exact else None,
        threads_per_core=said("threads_per_core", 1, COUNT_MAX),
        estimated=bool(said("estimated", "Processors" not in fields and "core_seconds" not in exact)),
        units={name[5:]: _sum(text) for name, text in fields.items() if name.startswith("unit:")}
        | {name[5:]: whole(text, QUANTITY_MAX) for name, text in exact.items() if name.startswith("unit:")},
        raw=dict(fields),
    )


def _is_record(element: Element) -> bool:
    return element.tag in (f"{_NS}UsageRecord", f"{_NS}JobUsageRecord")


def _flat(element: Element) -> dict[str, str]:
    """Members by name; of one that is there twice (a host, a duration of another type) the first without attributes."""
    found: dict[str, str] = {}
    for child in element.iter():
        name = child.tag.removeprefix(_NS) if isinstance(child.tag, str) else ""
        if name == "RecordIdentity":
            found["RecordIdentity"] = child.get(f"{_NS}recordId", "")
            if not found["RecordIdentity"]:
                found.pop("RecordIdentity")
        elif name == "Resource":
            found.setdefault(f"{RESOURCE}{child.get(f'{_NS}description', '')}", (child.text or "").strip())
        elif name == "Charge":
            found |= {"Charge": (child.text or "").strip(), "ChargeUnit": child.get(f"{_NS}unit", "")}
        elif name == "ConsumableResource" and UNIT.match(unit := child.get(f"{_NS}description", "")):
            before = f"{found[f'unit:{unit}']}+" if f"unit:{unit}" in found else ""
            found[f"unit:{unit}"] = before + (child.text or "").strip()
        elif child.text and child.text.strip() and name not in found:
            found[name] = child.text.strip()
    return found


def _sum(text: str) -> int:
    """A resource that is named more than once is taken so often; the schema makes floats of whole numbers."""
    return sum(whole(re.sub(r"\.0*\Z", "", part)) for part in text.split("+"))


def _duration(text: str) -> int:
    match = _DURATION.match(text)
    if match is None or text in ("P", "PT"):
        raise ValueError(f"{text!r} is no duration")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if total > SECONDS_MAX:
        raise ValueError(f"{text!r} is longer than a machine lives")
    return total
