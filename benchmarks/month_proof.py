"""A sample of a month's charges computed again in fractions, from the raw record and the price list alone."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from sqlalchemy import Connection, select

from accounting.store.schema import CHARGES, REVERSALS, USAGE
from benchmarks import month_made as made

EVERY = 97


def sampled(conn: Connection) -> str:
    """How many charges were computed again; AssertionError names the first that differs.

    The tiered grade costs what a project's month comes to: there each charge's parts are added up, and the sum of a
    project's month must be the price of its total.
    """
    checked, tiered = 0, dict[str, list[int]]()
    query = select(CHARGES.c.project_id, CHARGES.c.gross_micro, CHARGES.c.grade, CHARGES.c.segments, USAGE.c.raw)
    query = query.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    query = query.outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)  # a break that was settled took its place
    query = query.where(CHARGES.c.gross_micro > 0, REVERSALS.c.charge_id.is_(None))
    for number, row in enumerate(conn.execution_options(stream_results=True, yield_per=5000).execute(query)):
        if row.grade == "quality":
            month = tiered.setdefault(row.project_id, [0, 0])
            month[0] += sum(s["quantity"] for s in row.segments)
            month[1] += row.gross_micro
        elif number % EVERY == 0 and "DBIndex" in row.raw:
            expected = price(row.raw)
            # Each segment is rounded once; of a suspended run each may also have a core-second too many or too few.
            slack = len(row.segments) * (Fraction(1, 2) if row.raw["Suspended"] == "00:00:00" else made.DAY // 3600)
            assert abs(expected - row.gross_micro) <= slack, (row.raw, row.gross_micro, float(expected))
            checked += 1
    for project, (seconds, micro) in tiered.items():
        parts = (min(seconds, made.MORE_FROM) * made.QUALITY, max(0, seconds - made.MORE_FROM) * made.QUALITY_MORE)
        assert abs(micro - Fraction(sum(parts), 3600)) <= 1, (project, seconds, micro)
    return f"{checked:,} charges and {len(tiered)} projects' tiers computed again by fractions: equal"


def price(raw: dict[str, Any]) -> Fraction:
    """The exact price of a run of the economy or super grade, in micro-units, second by second of its raw record."""
    start, end, elapsed, cores = (int(raw[name]) for name in ("Start", "End", "ElapsedRaw", "AllocCPUS"))
    if raw["Partition"] == "super":
        gpus = next(int(w.partition("=")[2]) for w in raw["AllocTRES"].split(",") if w.startswith("gres/gpu="))
        return Fraction(cores * elapsed * made.SUPER + gpus * (end - start) * made.SUPER_GPU, 3600)
    dear = sum(1 for at in range(start, end) if 8 <= (at // 3600 + 8) % 24 < 22)
    mixed = dear * made.DAY + (end - start - dear) * made.NIGHT
    return Fraction(cores * elapsed * mixed, 3600 * (end - start))
