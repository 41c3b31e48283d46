"""A sample of a month's charges, computed again run by run from the raw record, by fractions."""

from __future__ import annotations

from typing import Any


def sampled(conn: Any, *, rules: Any) -> str:
    return "not proved yet"
