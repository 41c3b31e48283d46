"""The local centre's own records: one per run, written by its shim with times in whole nanoseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from accounting.usage import Kind, Meter, UsageRecord

FENCED_EXIT = "75"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One finished run; None while it has no end. Elapsed time is rounded up to a whole second, as schedulers do."""
    if not fields["end"]:
        return None
    start_ns, end_ns = int(fields["start"] or 0), int(fields["end"])
    ran = start_ns > 0
    if ran and end_ns < start_ns:
        raise ValueError("it ends before it starts")
    elapsed = -(-(end_ns - start_ns) // 1_000_000_000) if ran else 0
    cores = -(-int(fields["cores"]) // cpus_per_core)
    fenced = fields.get("exit_code") == FENCED_EXIT and fields.get("state") == "fenced"
    task = fields.get("task", "")
    return UsageRecord(
        site_id=site_id,
        run_key=fields["run_key"],
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if fenced else Kind.RUN if ran else Kind.NEVER_RAN,
        native_id=fields["native_id"],
        task=int(task) if task not in ("", "-1") else None,
        state=fields.get("state", ""),
        username=fields["username"],
        queue="default",
        start_time=_time(start_ns) if ran else None,
        end_time=_time(end_ns),
        cores=cores,
        nodes=1 if ran else 0,
        elapsed_s=elapsed,
        core_seconds=cores * elapsed,
        node_seconds=elapsed,
        units=json.loads(fields.get("units") or "{}") if ran else {},
        tag=f"{fields['tag']}.{fields['attempt']}" if fields.get("tag") else "",
        raw=dict(fields),
    )


def _time(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
