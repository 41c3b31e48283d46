"""What runs were charged through time: each charge with what took its place, so that a moment's price can be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from accounting.store.schema import CHARGES, REVERSALS, USAGE, among


@dataclass(frozen=True, slots=True)
class Priced:
    """One charge of a run. `ended_by`: the entry that replaced it; None: it stands. `parts`: by payer, "" for all."""

    charge_id: int
    usage_record_id: int
    entry_id: int
    ended_by: int | None
    replaced_by: int | None
    site_id: str
    run_key: str
    parts: Mapping[str, int]

    def part(self, payer: str | None) -> int:
        """What a payer owes of it; None: all of it."""
        return sum(self.parts.values()) if payer is None else self.parts.get(payer, 0)


@dataclass(frozen=True, slots=True)
class RunHistory:
    """The charges of one run. The books give entries of one project their numbers in the order of their commits."""

    charges: tuple[Priced, ...]

    @property
    def newest(self) -> Priced:
        """The charge that stands."""
        return next(c for c in self.charges if c.ended_by is None)

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(c.charge_id for c in self.charges)

    def at(self, entry_id: int, payer: str | None) -> int:
        """What the run cost when an entry was booked."""
        return sum(
            c.part(payer)
            for c in self.charges
            if c.entry_id < entry_id and (c.ended_by is None or c.ended_by >= entry_id)
        )


def histories(conn: Connection, job_ids: Collection[str]) -> list[RunHistory]:
    """The runs of these jobs."""
    query = (
        select(CHARGES.c.id, CHARGES.c.usage_record_id, CHARGES.c.entry_id, CHARGES.c.amount_micro, CHARGES.c.payers,
               REVERSALS.c.entry_id.label("ended_by"), REVERSALS.c.by_usage_record_id, USAGE.c.site_id, USAGE.c.run_key)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(among(conn, CHARGES.c.job_id, job_ids))
    )  # fmt: skip
    rows = [_priced(row) for row in conn.execute(query)]
    return [RunHistory(tuple(charges)) for charges in _by_run(rows)]


def _priced(row: Any) -> Priced:
    parts = {payer: int(part) for payer, part in row.payers.items()} if row.payers else {"": int(row.amount_micro)}
    return Priced(row.id, row.usage_record_id, row.entry_id, row.ended_by, row.by_usage_record_id, row.site_id,
                  row.run_key, parts)  # fmt: skip


def _by_run(rows: Collection[Priced]) -> Iterator[list[Priced]]:
    """Charges that lead to the same standing one."""
    of_record = {row.usage_record_id: row for row in rows}
    runs: dict[int, list[Priced]] = defaultdict(list)
    for row in rows:
        last = row
        while last.replaced_by is not None:
            last = of_record[last.replaced_by]
        runs[last.charge_id].append(row)
    yield from runs.values()
