"""What was bought for a place is a commodity of its own: `core-seconds@site:alpha` is drawn by runs at alpha alone.

    site:S          an order for a site            runs there
    agreement:A     an order by an agreement       runs at the agreement's sites
    unagreed        an order that no agreement     runs under no agreement, whose centre has no share of prices either
    unagreed:S      divided (at one site)

What was granted for no place is the bare commodity: it bounds the runs that no order pays for.
"""

from __future__ import annotations

from collections.abc import Mapping

_AT = "@"
_UNAGREED = "unagreed"
WIDTH = 80  # a unit's name, and the place with its longest id


def bound(commodity: str, *, site_id: str | None, agreement_id: str | None) -> str:
    """The commodity for a place; `agreement_id`: of the agreement that divides its price, None where none does."""
    if agreement_id is None:
        return f"{commodity}{_AT}{_UNAGREED}" + ("" if site_id is None else f":{site_id}")
    return f"{commodity}{_AT}" + (f"agreement:{agreement_id}" if site_id is None else f"site:{site_id}")


def kind_of(commodity: str) -> str:
    """What it is, wherever it may be used: core-seconds, GPU-seconds, a unit's name, a currency."""
    return commodity.partition(_AT)[0]


def place_of(commodity: str) -> str | None:
    """Where it may be used: `site:S`, `agreement:A`, `unagreed`, `unagreed:S`; None: not bound to a place."""
    return commodity.partition(_AT)[2] or None


def is_unagreed(commodity: str | None) -> bool:
    """Whether it is drawn by runs under no agreement alone."""
    return commodity is not None and (place_of(commodity) or "").partition(":")[0] == _UNAGREED


def of_kind(amounts: Mapping[str, int], kind: str) -> int:
    """The sum over all places of one kind."""
    return sum(amount for commodity, amount in amounts.items() if kind_of(commodity) == kind)
