"""A test gets a database that another test had: it cannot tell it from a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.builders import local_site, make_gateway
from tests.lab.postgres import PostgresLab

_COUNTERS = "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"


def told(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as conn:
        return conn.execute(query).fetchall()


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    names = [name for (name,) in told(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    return {name: told(url, f"SELECT * FROM {name}") for name in names}


@pytest.fixture
def lab(postgres: PostgresLab, _postgres_template: str) -> tuple[PostgresLab, str]:
    return postgres, _postgres_template


def test_what_a_test_wrote_is_gone_and_the_counters_begin_anew(lab: tuple[PostgresLab, str], tmp_path: Path) -> None:
    postgres, template = lab
    url = postgres.lend(template)
    first, counters = rows(url), told(url, _COUNTERS)
    gateway = make_gateway(tmp_path, url, local_site(tmp_path))
    gateway.submit("local")
    assert rows(url) != first

    postgres.give_back(url, template)

    assert postgres.lend(template) == url
    assert rows(url) == first
    assert told(url, _COUNTERS) == counters
    postgres.give_back(url, template)


@pytest.mark.parametrize("harm", ["DROP TRIGGER journal_entry_in_open ON journal_entry", "CREATE TABLE more (n int)",
                                  "ALTER TABLE jobs DROP COLUMN tag CASCADE"])  # fmt: skip
def test_a_database_whose_schema_was_changed_is_lent_to_nobody(lab: tuple[PostgresLab, str], harm: str) -> None:
    postgres, template = lab
    url = postgres.lend(template)
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as conn:
        conn.execute(harm)

    postgres.give_back(url, template)

    other = postgres.lend(template)
    assert other != url
    postgres.give_back(other, template)
