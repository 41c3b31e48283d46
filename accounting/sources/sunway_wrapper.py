"""What our own wrapper wrote of a Sunway job whose block tells no end any more: the gateway's times, so estimated."""

from __future__ import annotations

import re
from collections.abc import Mapping

from accounting.sources.figures import between, epoch, whole
from accounting.sources.sunway import CORES_PER_CG
from accounting.usage import Kind, Meter, UsageRecord

FORMAT = "sunway-wrapper/1"
FENCED_EXIT = 75

_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One run by `start` and `end` (epoch seconds), `cgs`, and beside them what a block's reader takes as well."""
    start, end = epoch(fields["start"]), epoch(fields["end"])
    if start is None or end is None:
        raise ValueError("it has no start or no end")
    cgs, nodes = whole(fields["cgs"]), whole(fields.get("nodes", ""))
    if fields.get("cgs_per_node"):
        cgs = max(cgs, nodes * whole(fields["cgs_per_node"]))
    if cgs == 0:
        raise ValueError("nothing says how many core groups it had")
    code, elapsed = whole(fields["exit_code"]), between(start, end)
    cores = -(-cgs * whole(fields.get("cores_per_cg", str(CORES_PER_CG))) // cpus_per_core)
    tags = _TAG.findall(fields.get("name", ""))
    kind = Kind.FENCED_COPY if tags and code == FENCED_EXIT else Kind.RUN if elapsed > 0 else Kind.NEVER_RAN
    return UsageRecord(
        site_id=site_id,
        run_key=f"{fields['native_id']}:{fields['start']}",
        meter=Meter.CENTRE,
        kind=kind,
        native_id=fields["native_id"],
        state="COMPLETED" if code == 0 else "FAILED",
        username=fields["user"],
        job_name=fields.get("name", ""),
        start_time=start,
        end_time=end,
        cores=cores,
        nodes=nodes,
        elapsed_s=elapsed,
        core_seconds=cores * elapsed,
        node_seconds=nodes * elapsed,
        tag=tags[0] if tags else "",
        estimated=True,
        raw=dict(fields),
    )
