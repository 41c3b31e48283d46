"""The prices that hold: the operator's own rules, and those of tariffs that both sides signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from accounting.calendar import Window
from accounting.errors import AccountingError, TariffOverlap
from accounting.evidence.documents import discount as discount_json
from accounting.evidence.documents import discount_end, price_end, price_rule
from accounting.evidence.outbox import put
from accounting.price import PriceBook, quote
from accounting.store.schema import (
    AGREEMENTS,
    CHARGES,
    DISCOUNT_ENDS,
    DISCOUNTS,
    RULES,
    SIGNATURES,
    TARIFFS,
    USAGE,
    lock,
    upsert,
)
from accounting.tariff import Discount, PriceRule, Scope, overlaps, problems
from accounting.terms import Wrong, discount_problems, rule_problems
from accounting.usage import CORE_SECONDS

_RULES = select(RULES).order_by(RULES.c.id)
_DISCOUNTS = (
    select(DISCOUNTS, DISCOUNT_ENDS.c.ends_at)
    .outerjoin(DISCOUNT_ENDS, DISCOUNT_ENDS.c.id == DISCOUNTS.c.id)
    .order_by(DISCOUNTS.c.id)
)
# Written once: they are asked for with every few hundred runs, and made in thrice the time that they take.
_BY = SIGNATURES.alias("by_operator"), SIGNATURES.alias("by_centre")
_SIGNED_AGREEMENTS = (
    select(AGREEMENTS.c.id, AGREEMENTS.c.payload)
    .join(_BY[0], (_BY[0].c.document_sha256 == AGREEMENTS.c.sha256) & (_BY[0].c.party_id == AGREEMENTS.c.operator_id))
    .join(_BY[1], (_BY[1].c.document_sha256 == AGREEMENTS.c.sha256) & (_BY[1].c.party_id == AGREEMENTS.c.centre_id))
)
_SIGNED = (
    select(SIGNATURES.c.document_sha256, func.max(SIGNATURES.c.signed_at).label("at"))
    .group_by(SIGNATURES.c.document_sha256)
    .subquery()
)
# A new version of an agreement keeps its parties.
_BETWEEN = select(AGREEMENTS.c.id, AGREEMENTS.c.operator_id, AGREEMENTS.c.centre_id).distinct().subquery()
_SIGNED_TARIFFS = (
    select(
        TARIFFS.c.id, TARIFFS.c.version, TARIFFS.c.agreement_id, TARIFFS.c.sha256, TARIFFS.c.valid_from, _SIGNED.c.at
    )
    .join(_BETWEEN, _BETWEEN.c.id == TARIFFS.c.agreement_id)
    .join(_SIGNED, _SIGNED.c.document_sha256 == TARIFFS.c.sha256)
    .join(_BY[0], (_BY[0].c.document_sha256 == TARIFFS.c.sha256) & (_BY[0].c.party_id == _BETWEEN.c.operator_id))
    .join(_BY[1], (_BY[1].c.document_sha256 == TARIFFS.c.sha256) & (_BY[1].c.party_id == _BETWEEN.c.centre_id))
    .order_by(TARIFFS.c.id, TARIFFS.c.version)
)
_FIELDS = ("currency", "price_micro", "resource", "per", "site_id", "queue", "qos", "grade", "user_class", "project_id",
           "tier_from", "zone", "valid_from", "valid_to")  # fmt: skip


def add_tariff(conn: Connection, rule: PriceRule, *, now: datetime) -> int:
    """Add a dated price of the operator's own; raises `TariffOverlap` where a rival holds at the same time."""
    if wrong := own_rule_problems(rule):
        raise AccountingError("; ".join(wrong))
    lock(conn, {"own-tariffs"})
    own = [r for r in tariffs(conn) if r.tariff_id is None]
    for other in own:
        if overlaps(rule, other):
            until = "" if other.valid_to is None else f" to {other.valid_to.isoformat()}"
            said = f"rule {other.id} of the same scope holds from {other.valid_from.isoformat()}{until}"
            raise TariffOverlap(said, rule_id=other.id)
    if wrong := problems([*(r for r in own if r.scope[:-1] == rule.scope[:-1]), rule]):
        raise AccountingError("; ".join(wrong))
    return insert_rule(conn, rule, tariff_sha256=None, now=now)


def own_rule_problems(rule: PriceRule) -> list[str]:
    """What is wrong with a price of the operator's own, whatever others there are."""
    ends = rule.valid_to is not None and rule.valid_to <= rule.valid_from
    return [*rule_problems(rule), *([Wrong("it ends before it begins", "valid_to")] if ends else [])]


def insert_rule(conn: Connection, rule: PriceRule, *, tariff_sha256: str | None, now: datetime) -> int:
    """Store a rule; its id."""
    values = _in_utc({name: getattr(rule, name) for name in _FIELDS})
    window = None if rule.window is None else asdict(rule.window)
    query = insert(RULES).values(**values, window=window, tariff_sha256=tariff_sha256, created_at=now)
    rule_id = int(conn.execute(query.returning(RULES.c.id)).scalar_one())
    put(conn, "price_rule", str(rule_id), price_rule({**values, "window": window, "tariff_sha256": tariff_sha256}))
    if tariff_sha256 is None and rule.valid_to is not None:
        put(conn, "price_end", str(rule_id), price_end({"id": rule_id, "valid_to": values["valid_to"]}))
    return rule_id


def _in_utc(values: Mapping[str, Any]) -> dict[str, Any]:
    """As the database gives them back: a leaf commits to the text, and `+08:00` is another text for the same moment."""
    return {k: v.astimezone(UTC) if isinstance(v, datetime) else v for k, v in values.items()}


def close_tariff(conn: Connection, rule_id: int, *, valid_to: datetime) -> bool:
    """End an open rule of the operator's own at a moment, once. What it priced stays priced: raises `TariffOverlap`
    for a moment before the end of a run that is charged in its currency at its site."""
    rule = conn.execute(select(RULES.c.currency, RULES.c.site_id).where(RULES.c.id == rule_id)).one_or_none()
    if rule is not None:
        _assert_not_charged(charged_until(conn, site_id=rule.site_id, currency=rule.currency), valid_to)
    query = update(RULES).where(
        RULES.c.id == rule_id,
        RULES.c.valid_to.is_(None),
        RULES.c.valid_from < valid_to,
        RULES.c.tariff_sha256.is_(None),
    )
    closed = conn.execute(query.values(valid_to=valid_to)).rowcount == 1
    if closed:
        put(conn, "price_end", str(rule_id), price_end(_in_utc({"id": rule_id, "valid_to": valid_to})))
    return closed


def tariffs(conn: Connection) -> list[PriceRule]:
    """Every rule that holds or held, also those that have ended: older usage is priced by them.

    A signed rule holds at the sites of its agreement and nowhere else, whatever it names: once for each of them where
    it names none. No centre sets another's prices.
    """
    stored = conn.execute(_RULES).all()
    spans = _effective(conn) if any(r.tariff_sha256 for r in stored) else {}
    sites = _signed_sites(conn) if spans else {}
    found = []
    for r in stored:
        rule = _rule(r)
        if r.tariff_sha256 is None:
            found.append(rule)
        elif r.tariff_sha256 in spans:
            name, agreement, start, end = spans[r.tariff_sha256]
            rule = replace(
                rule, tariff_id=name, valid_from=max(rule.valid_from, start), valid_to=_first(rule.valid_to, end)
            )
            if rule.valid_to is None or rule.valid_from < rule.valid_to:
                found += [
                    replace(rule, site_id=site) for site in sites.get(agreement, ()) if rule.site_id in (None, site)
                ]
    return found


def price_book(conn: Connection) -> PriceBook:
    """All prices and discounts, for pricing many runs. As long as none changes it is the same object in every call."""
    return _book(tuple(tariffs(conn)), tuple(discounts(conn)))


@lru_cache(maxsize=4)
def _book(rules: tuple[PriceRule, ...], ratios: tuple[Discount, ...]) -> PriceBook:
    return PriceBook(rules, ratios)


def add_discount(conn: Connection, discount: Discount, *, now: datetime) -> int:
    """A contract's ratio on prices from a moment on; refused where one of the same scope holds, or runs since then
    are charged: no price is made afterwards (an adjustment gives back what was too much).

    What is paid otherwise (a ratio of 0) goes before any other (`PriceBook.discount`): the two are no rivals.
    """
    if wrong := discount_problems(discount):
        raise AccountingError("; ".join(wrong))
    lock(conn, {f"discounts:{discount.project_id}"})
    _assert_not_charged(charged_until(conn, project_id=discount.project_id, site_id=discount.site_id),
                        discount.valid_from)  # fmt: skip
    for other in discounts(conn):
        ends = other.valid_to is not None and other.valid_to <= discount.valid_from
        begins = discount.valid_to is not None and discount.valid_to <= other.valid_from
        alike = (other.numerator == 0) == (discount.numerator == 0)
        drawn = other.draws == discount.draws or None in (other.draws, discount.draws)
        rivals = other.scope == discount.scope and alike and drawn
        if rivals and not (ends or begins):
            raise TariffOverlap(f"discount {other.id} of the same scope holds from {other.valid_from.isoformat()}")
    values = _in_utc({k: v for k, v in asdict(discount).items() if k != "id"})
    query = insert(DISCOUNTS).values(**values, created_at=now).returning(DISCOUNTS.c.id)
    made = int(conn.execute(query).scalar_one())
    put(conn, "discount", str(made), discount_json(values))
    return made


def end_discount(conn: Connection, discount_id: int, *, ends_at: datetime, now: datetime) -> None:
    """Let a contract's ratio hold no longer, once; what it has priced stays so."""
    row = {"id": discount_id, "ends_at": ends_at.astimezone(UTC), "recorded_at": now}
    if conn.execute(upsert(conn, DISCOUNT_ENDS).on_conflict_do_nothing().returning(DISCOUNT_ENDS.c.id), [row]).all():
        put(conn, "discount_end", str(discount_id), discount_end(row))


def charged_until(conn: Connection, **of: str | None) -> datetime | None:
    """The end of the latest run that is charged, of a `project_id`, at a `site_id`, in a `currency`, where these are
    given; None where none is."""
    columns = {"project_id": USAGE.c.project_id, "site_id": USAGE.c.site_id, "currency": CHARGES.c.currency}
    query = select(USAGE.c.end_time).join(CHARGES, CHARGES.c.usage_record_id == USAGE.c.id)
    query = query.where(USAGE.c.end_time.is_not(None), *(columns[n] == value for n, value in of.items() if value))
    found: datetime | None = conn.scalar(query.order_by(USAGE.c.end_time.desc()).limit(1))
    return found


def _assert_not_charged(charged: datetime | None, moment: datetime) -> None:
    if charged is not None and charged > moment:
        raise TariffOverlap(f"runs until {charged.isoformat()} are charged already: not before then")


def discounts(conn: Connection) -> list[Discount]:
    """Every contract's ratio, also those that have ended."""
    return [
        Discount(r.id, r.project_id, r.numerator, r.denominator, r.valid_from, _first(r.valid_to, r.ends_at), r.site_id,
                 r.grade, r.resource, r.reason, r.order_id, r.draws)
        for r in conn.execute(_DISCOUNTS)
    ]  # fmt: skip


def estimate(
    prices: PriceBook, where: Scope, *, core_seconds: int, at: datetime, more: Mapping[str, int] | None = None,
    runs: int = 1,
) -> int | None:  # fmt: skip
    """Micro-units for core-seconds (and `more` resources) at the prices of this moment; None where there is none."""
    return quote(prices, where, {CORE_SECONDS: core_seconds, **(more or {})}, at, runs=runs)


def _signed_sites(conn: Connection) -> dict[str, tuple[str, ...]]:
    """The sites of each agreement, by any version that both sides signed."""
    found: dict[str, set[str]] = {}
    for row in conn.execute(_SIGNED_AGREEMENTS):
        found.setdefault(row.id, set()).update(json.loads(row.payload)["site_ids"])
    return {name: tuple(sorted(sites)) for name, sites in found.items()}


def _effective(conn: Connection) -> dict[str, tuple[str, str, datetime, datetime | None]]:
    """Signed tariffs by hash: the name `id/version`, the agreement, and from when until when they hold.

    A tariff holds from its date, but never before the second signature: no price is made afterwards.
    """
    versions: dict[str, list[Any]] = {}
    for row in conn.execute(_SIGNED_TARIFFS):
        versions.setdefault(row.id, []).append(row)
    found = {}
    for rows in versions.values():
        starts = [max(row.valid_from, row.at) for row in rows]
        for i, row in enumerate(rows):
            found[row.sha256] = (
                f"{row.id}/{row.version}",
                row.agreement_id,
                starts[i],
                min(starts[i + 1 :], default=None),
            )
    return found


def _rule(r: Any) -> PriceRule:
    window = None
    if r.window is not None:
        window = Window(r.window["from_minute"], r.window["to_minute"], tuple(r.window["weekdays"]))
    return PriceRule(r.id, window=window, **{name: getattr(r, name) for name in _FIELDS})


def _first(a: datetime | None, b: datetime | None) -> datetime | None:
    return min((moment for moment in (a, b) if moment is not None), default=None)
