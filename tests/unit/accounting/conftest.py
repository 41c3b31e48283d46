"""Books on each kind of database, with a project that may spend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accounting import store as books
from gateway.db import Database
from tests.unit.accounting.makers import LONG_AGO, NOW, PROJECT


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    """One project with a large credit in CNY; no prices."""
    database = Database(db_url)
    with database.write() as conn:
        books.open_project_accounts(conn, PROJECT, currency="CNY")
        books.grant_credit(conn, project_id=PROJECT, commodity="CNY", amount=10**12, idem_key="g", now=LONG_AGO)
    yield database
    database.dispose()


@pytest.fixture
def now() -> object:
    return NOW
