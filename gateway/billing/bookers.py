"""Book prepared readings beside whoever prepares them; on PostgreSQL in two connections at once.

Each connection books the projects of its own, so that neither waits for what the other has locked: one computes while
the server writes for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

from accounting import store as books
from accounting.evidence.outbox import put_rows
from accounting.store.schema import bucket
from gateway.jobs import repository
from gateway.jobs.provisional import POLICY
from gateway.services import Lease, Services

# SQLite has one writer.
_LANES = {"sqlite": 1, "postgresql": 2}
# So many readings in one transaction while others wait for that one writer (DESIGN: 50 ms; docs/performance.md).
_FEW = 300


class Bookers:
    """Books readings in the order of each project; `recorded` counts those that were new or changed."""

    def __init__(self, services: Services, lease: Lease, now: datetime) -> None:
        self._services, self._lease, self._now = services, lease, now
        count = _LANES[services.db.engine.dialect.name]
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix="book") for _ in range(count)]
        self._writing: list[Future[int] | None] = [None] * count
        self.recorded = 0

    def __enter__(self) -> Bookers:
        return self

    def __exit__(self, *exc: object) -> None:
        for lane in self._lanes:
            lane.shutdown(cancel_futures=True)

    def book(self, sealed: Sequence[books.Assigned]) -> None:
        """Book these, each lane's part in a transaction; waits for the part before it."""
        parts: list[list[books.Assigned]] = [[] for _ in self._lanes]
        for item in sealed:
            parts[bucket(item.project_id) % len(parts)].append(item)
        for number, part in enumerate(parts):
            if part:
                self._settle(number)
                self._writing[number] = self._lanes[number].submit(self._record, part)

    def finish(self) -> None:
        """Wait until all is booked; raises what booking raised."""
        for number in range(len(self._lanes)):
            self._settle(number)

    def _settle(self, number: int) -> None:
        writing, self._writing[number] = self._writing[number], None
        if writing is not None:
            self.recorded += writing.result()

    def _record(self, sealed: Sequence[books.Assigned]) -> int:
        recorded = 0
        while sealed:
            count = _FEW if self._services.db.others_write else len(sealed)
            recorded += self._booked(sealed[:count])
            sealed = sealed[count:]
        return recorded

    def _booked(self, sealed: Sequence[books.Assigned]) -> int:
        """How many of these were new or changed; in one transaction."""
        with self._services.db.write() as conn:
            repository.assert_served_by(conn, self._lease)
            recorded = books.record_and_book(conn, sealed, policy=POLICY, now=self._now).recorded
            if recorded:
                put_rows(conn, self._lease.site_id, [item.content_sha256 for item in sealed], [])
            return recorded
