"""APEL's individual-job message: `Key: value` lines, records ended by `%%` (APEL wiki, "Message format")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from accounting.sources.figures import between, epoch, seconds, whole
from accounting.sources.reading import Reading, read_rows
from accounting.usage import Kind, Meter, UsageRecord

FORMAT = "apel/1"
_HEADS = ("APEL-individual-job-message: v0.2", "APEL-individual-job-message: v0.3")


def read_document(text: str, *, site_id: str, cpus_per_core: int = 1) -> Reading:
    """Every record of one message; another kind of message is one problem."""
    return read_rows(
        frame(text),
        lambda row: read(row, site_id=site_id, cpus_per_core=cpus_per_core),
        site_id=site_id,
        format_name=FORMAT,
    )


def frame(text: str) -> Iterator[dict[str, str]]:
    head, _, rest = text.lstrip().partition("\n")
    if head.strip() not in _HEADS:
        yield {"line": text}
        return
    for block in rest.split("\n%%"):
        lines = [line for line in block.split("\n") if line.strip()]
        if lines:
            pairs = [line.partition(":") for line in lines]
            names = [name.strip() for name, _, _ in pairs]
            whole_block = len(set(names)) == len(names) and all(colon for _, colon, _ in pairs)
            yield {n: v.strip() for n, (_, _, v) in zip(names, pairs, strict=True)} if whole_block else {"line": block}


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One job. `Processors` is optional there: without it one processor is meant, and the record is an estimate."""
    if "line" in fields:
        raise ValueError("no APEL job record")
    start, end = epoch(fields["StartTime"]), epoch(fields["EndTime"])
    if start is None or end is None:
        raise ValueError("it has no start or no end")
    elapsed = seconds(fields["WallDuration"])
    counted = fields.get("Processors", "") not in ("", "0")
    cores = -(-whole(fields["Processors"]) // cpus_per_core) if counted else 1
    nodes = whole(fields.get("NodeCount", "")) or 1
    suspicious = abs(between(start, end) - elapsed) > 1
    return UsageRecord(
        site_id=site_id,
        run_key=f"{fields['LocalJobId']}:{fields['StartTime']}",
        meter=Meter.CENTRE,
        kind=Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=fields["LocalJobId"],
        state="",
        username=fields.get("LocalUserId") or fields.get("GlobalUserName", ""),
        account=fields.get("VO", ""),
        queue=fields.get("Queue", ""),
        start_time=start,
        end_time=end,
        cores=cores,
        nodes=nodes,
        elapsed_s=elapsed,
        core_seconds=cores * elapsed,
        node_seconds=nodes * elapsed,
        estimated=not counted or suspicious,
        raw=dict(fields),
    )
