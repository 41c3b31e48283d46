"""Admin commands about money that need no centre: credit for a project, a price."""

from __future__ import annotations

import argparse
from contextlib import closing

from accounting import store as books
from accounting.ledger import CORE_SECONDS
from accounting.money import MICRO, format_micro, parse_amount
from accounting.tariff import PriceRule
from gateway.admin.named import project_named
from gateway.admin.texts import tr
from gateway.bootstrap import compose, utc_now
from gateway.errors import Invalid
from gateway.ids import new_id
from gateway.jobs import repository
from gateway.settings import Settings


def credit(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services:
        now = utc_now()
        with services.db.write() as conn:
            project_id = project_named(conn, args.project)
            currency = repository.project_currency(conn, project_id)
            micro = _amount(args.amount)
            if args.core_hours and micro * 3600 % MICRO:
                raise Invalid(tr("{amount} core-hours are no whole number of core-seconds.", amount=args.amount))
            amount = micro * 3600 // MICRO if args.core_hours else micro
            commodity = CORE_SECONDS if args.core_hours else currency
            key = f"grant:admin:{args.key or new_id('g', now)}"
            booked = books.grant_credit(conn, project_id=project_id, commodity=commodity, amount=amount, idem_key=key,
                                        now=now)  # fmt: skip
        told = "{project} may use {amount} {unit} more" if booked else "granted before: {project} {amount} {unit}"
        unit = tr("core-hours") if args.core_hours else currency
        print(tr(told, project=args.project, amount=format_micro(micro), unit=unit))


def tariff(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services:
        now = utc_now()
        currency = args.currency or services.settings.currency
        price = _amount(args.price)
        with services.db.write() as conn:
            made = books.add_tariff(conn, PriceRule(0, currency, price, now, None, args.site, args.queue), now=now)
        where = ", ".join(filter(None, (args.site, args.queue))) or tr("everywhere")
        print(tr("price {number}: {price} {currency} per core-hour, {where}, from {since} on", number=made,
                 price=format_micro(price), currency=currency, where=where,
                 since=f"{now:%Y-%m-%d %H:%M} UTC"))  # fmt: skip


def _amount(text: str) -> int:
    """Micro-units of what was typed."""
    try:
        return parse_amount(text)
    except ValueError as exc:
        raise Invalid(tr("{text} is no amount; write it like 0.10, with at most six decimals.", text=text)) from exc
