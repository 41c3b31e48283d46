"""Load and save the books: set-based SQL on the caller's connection. Nothing here commits.

schema.py                      the tables as Core; what differs between the two databases
contracts.py prices.py         what was signed, what it costs
holds.py                       what a project may spend
readings.py charges.py posting.py   a reading becomes a charge, a charge becomes postings
journal.py                     entries, each once for ever
periods.py accruals.py         the billing calendar
payments.py adjustments.py allocations.py budgets.py   money and grants beside usage
openings.py                    what of an order is opened at which centre
reading.py check.py check_orders.py   what the books say, and whether they are sound
"""

from accounting.store.charges import Booked, charge_pending, record_and_book
from accounting.store.check import check_books
from accounting.store.holds import (
    Exposure,
    Hold,
    bought_there,
    commodities,
    credit_line,
    exposure,
    grant_credit,
    held_for,
    hold_amounts,
    mark_in_flight,
    open_account,
    open_project_accounts,
    place_hold,
    place_holds,
    raise_hold,
    release_hold,
    shortfall,
)
from accounting.store.journal import book, posting_lines
from accounting.store.prices import add_discount, add_tariff, close_tariff, discounts, estimate, price_book, tariffs
from accounting.store.reading import ChargeLine, Explained, balances, charges_of_job, explain
from accounting.store.readings import Assigned, quarantine, uncharged, unread
from accounting.store.schema import CHARGES, REVERSALS, USAGE, refresh_statistics

__all__ = [
    "Assigned", "Booked", "ChargeLine", "Explained", "Exposure", "Hold", "CHARGES", "REVERSALS", "USAGE",
    "add_discount",
    "add_tariff", "balances", "book", "bought_there", "charge_pending", "charges_of_job", "check_books", "close_tariff",
    "commodities",
    "credit_line", "discounts", "estimate", "explain", "exposure", "grant_credit", "held_for", "hold_amounts",
    "mark_in_flight",
    "open_account", "open_project_accounts", "place_hold", "place_holds", "posting_lines", "price_book", "quarantine",
    "raise_hold",
    "record_and_book", "refresh_statistics", "release_hold", "shortfall", "tariffs", "uncharged", "unread",
]  # fmt: skip
