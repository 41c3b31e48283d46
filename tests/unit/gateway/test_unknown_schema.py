"""A database that another version wrote is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.bootstrap import open_database
from gateway.errors import GatewayError
from gateway.settings import Settings


def test_database_of_an_unknown_schema_is_a_sentence_that_says_what_to_do(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    db = open_database(settings)
    with db.write() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999_from_the_future'"))
    db.dispose()

    with pytest.raises(GatewayError, match=r"9999_from_the_future.*the version that wrote it") as caught:
        open_database(settings)

    assert "\n" not in str(caught.value)
