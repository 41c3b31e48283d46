"""What documents and rules look like where leaves commit to them: plain JSON, quantities as strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

# What a rule says for ever; the end of an own rule may be set later, once, and is a leaf of its own then.
_OF_A_RULE = ("currency", "price_micro", "per", "resource", "site_id", "queue", "qos", "grade", "user_class",
              "project_id", "window", "tier_from", "zone", "valid_from", "tariff_sha256")  # fmt: skip


def price_rule(row: Mapping[str, Any]) -> dict[str, Any]:
    """A dated price as its leaf commits to it."""
    return {"v": 1, **{name: plain(row[name]) for name in _OF_A_RULE}}


def price_end(row: Mapping[str, Any]) -> dict[str, Any]:
    """When a price ends, as its leaf commits to it."""
    return {"v": 1, "rule": str(row["id"]), "valid_to": stamp(row["valid_to"])}


_OF_A_DISCOUNT = ("project_id", "numerator", "denominator", "valid_from", "valid_to", "site_id", "grade", "resource")


def discount(row: Mapping[str, Any]) -> dict[str, Any]:
    """A contract's ratio as its leaf commits to it; `order`: the priced order that has paid instead."""
    more = {"order": row["order_id"], "draws": row["draws"]}
    return {"v": 1, **{name: plain(row[name]) for name in _OF_A_DISCOUNT}, **{k: v for k, v in more.items() if v}}


def discount_end(row: Mapping[str, Any]) -> dict[str, Any]:
    """When a contract's ratio ends before its time, as its leaf commits to it."""
    return {"v": 1, "discount": str(row["id"]), "valid_to": stamp(row["ends_at"])}


_OF_AN_ORDER = ("entry", "order_id", "allocation_id", "project_id", "site_id", "kind", "commodity", "quantity",
                "currency", "price_micro", "payers", "service_start", "service_end")  # fmt: skip


def order_price(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was ordered at which price, as its leaf commits to it; `entry`: the key of the entry that charged it;
    `month`: what a whole month of a subscription is."""
    named = row["agreement_id"]
    agreement = None if named is None else f"{named}/{row['agreement_version']}"
    said = {"v": 1, "agreement": agreement, **{name: plain(row[name]) for name in _OF_AN_ORDER}}
    if row["month_zone"] is not None:
        whole = (str(row["month_quantity"]), str(row["month_micro"]), row["month_zone"])
        said["month"] = dict(zip(("quantity", "price_micro", "zone"), whole, strict=True))
    return said


def project_terms(row: Mapping[str, Any]) -> dict[str, Any]:
    """On what terms a project buys from a moment on, as its leaf commits to them: who pays in which parts."""
    names = ("project_id", "valid_from", "user_class", "payers")
    return {"v": 1, **{name: plain(row[name]) for name in names}}


def plain(value: Any) -> Any:
    """A value of the books as canonical JSON takes it: every integer as a string, times in ISO 8601."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is nothing that evidence holds")


def stamp(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
