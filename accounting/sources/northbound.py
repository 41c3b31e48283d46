"""A northbound centre's history rows: one ended job, times by the centre's clock, cores as `procNumUsed`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from accounting.sources.figures import between, whole
from accounting.usage import Kind, Meter, UsageRecord

FORMAT = "northbound-job/1"

_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")
_ENDED = {"statC": "COMPLETED", "statD": "CANCELLED"}


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One row; None for a job that has not ended. Whole nodes are not told, so `nodes` is what the row says."""
    word = fields["jobStatus"]
    if word not in _ENDED:
        return None
    zone = ZoneInfo(fields.get("zone", "UTC"))
    submit, start, end = (_time(fields.get(name, ""), zone) for name in ("jobSubmitTime", "jobStartTime", "jobEndTime"))
    if end is None:
        raise ValueError("it has no end")
    elapsed = between(start, end) if start is not None else 0
    cores = -(-whole(fields.get("procNumUsed", "")) // cpus_per_core)
    nodes, gpus = whole(fields.get("nodeNumUsed", "")), whole(fields.get("gpuNumUsed", ""))
    tags = _TAG.findall(fields.get("jobName", ""))
    failed = word == "statC" and fields.get("exitCode", "0") not in ("0", "")
    return UsageRecord(
        site_id=site_id, run_key=f"{fields['jobId']}:{fields.get('jobSubmitTime', '')}", meter=Meter.CENTRE,
        kind=Kind.RUN if elapsed > 0 and cores > 0 else Kind.NEVER_RAN, native_id=fields["jobId"],
        state="FAILED" if failed else _ENDED[word], username=fields.get("userName", ""),
        job_name=fields.get("jobName", ""), queue=fields.get("queue", ""), submit_time=submit, start_time=start,
        end_time=end, cores=cores, nodes=nodes, elapsed_s=elapsed, core_seconds=cores * elapsed,
        node_seconds=nodes * elapsed, gpu_seconds=gpus * elapsed, tag=tags[0] if tags else "", raw=dict(fields),
    )  # fmt: skip


def _time(text: str, zone: ZoneInfo) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC) if text else None
