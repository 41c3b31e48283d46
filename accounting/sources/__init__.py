"""One file per raw format: `read(fields, site_id=...)` makes a usage record, nothing, or a reason why not.

`read_usage` picks the file by the format that the adapter named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from accounting.sources import (
    apel,
    condor,
    local,
    lsb_acct,
    northbound,
    ogf_ur,
    pbs_log,
    pbs_qstat,
    sacct,
    sunway,
    sunway_wrapper,
)
from accounting.usage import Unreadable, UsageRecord

# None: the row is no run of its own (a step, the bracket row of an array that was canceled before it started).
_READERS: dict[str, Callable[..., UsageRecord | None]] = {
    "sacct/1": sacct.read,
    "local/1": local.read,
    pbs_log.FORMAT: pbs_log.read,
    pbs_qstat.FORMAT: pbs_qstat.read,
    lsb_acct.FORMAT: lsb_acct.read,
    condor.FORMAT: condor.read,
    sunway.BLOCK: sunway.read_block,
    sunway.REPORT: sunway.read_report,
    sunway_wrapper.FORMAT: sunway_wrapper.read,
    northbound.FORMAT: northbound.read,
    apel.FORMAT: apel.read,
    ogf_ur.FORMAT: ogf_ur.read,
}


def read_usage(
    format_name: str, fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1
) -> UsageRecord | Unreadable | None:
    """The meaning of one framed row; never raises for what a row says."""
    reader = _READERS.get(format_name)
    if reader is None:
        return _unreadable(site_id, format_name, fields, f"no reader for {format_name!r}")
    try:
        return reader(fields, site_id=site_id, cpus_per_core=cpus_per_core)
    except (ValueError, KeyError, OverflowError) as exc:
        return _unreadable(site_id, format_name, fields, f"{type(exc).__name__}: {exc}")


def _unreadable(site_id: str, format_name: str, fields: Mapping[str, str], why: str) -> Unreadable:
    return Unreadable(site_id, format_name, json.dumps(dict(fields), sort_keys=True, ensure_ascii=True), why)
