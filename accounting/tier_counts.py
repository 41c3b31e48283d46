"""Count what a project uses under tiered prices, month by month."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accounting.price import PriceBook


class TierCounts:
    """What a project used and owes under each tiered price in each month.

    What the month costs is a function of its total alone, and each charge is by how much the total rose. So the sum
    of the charges is the price of the month, in whatever order records and corrections come.
    `load` brings (quantity, micro) of a count that is not known yet.
    """

    def __init__(self, project_id: str, load: Callable[[str, str], list[int]] | None = None) -> None:
        self.project_id = project_id
        self.load = load or (lambda _project, _key: [0, 0])
        self.counts: dict[tuple[str, str], list[int]] = {}
        self.touched: set[tuple[str, str]] = set()

    def _at(self, key: str) -> list[int]:
        where = (self.project_id, key)
        if where not in self.counts:
            self.counts[where] = self.load(*where)
        return self.counts[where]

    def count(self, key: str) -> int:
        return self._at(key)[0]

    def add(self, key: str, quantity: int, book: PriceBook) -> int:
        """Count a quantity; by how much the month's price rises over what is charged so far."""
        at = self._at(key)
        at[0] += quantity
        rise = book.month_price(key, at[0]) - at[1]
        at[1] += rise
        self.touched.add((self.project_id, key))
        return rise

    def remove(self, key: str, quantity: int, micro: int) -> None:
        """Take back a charge that is replaced."""
        at = self._at(key)
        at[0] -= quantity
        at[1] -= micro
        self.touched.add((self.project_id, key))

    def snapshot(self) -> dict[tuple[str, str], list[int]]:
        """The counts of this project as they stand."""
        return {k: list(v) for k, v in self.counts.items() if k[0] == self.project_id}

    def restore(self, before: Mapping[tuple[str, str], list[int]]) -> None:
        """Back to a snapshot."""
        for key in [k for k in self.counts if k[0] == self.project_id]:
            if key in before:
                self.counts[key] = list(before[key])
            else:
                del self.counts[key]
                self.touched.discard(key)
