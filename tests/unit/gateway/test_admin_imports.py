"""`gateway admin` loads what the command that is typed needs, and nothing of the service for its help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from gateway.admin import commands
from tests.unit.gateway.test_admin_texts import every_command, parser

# The service, the books and what they stand on: a second and more of imports.
HEAVY = (
    "gateway.app", "gateway.bootstrap", "gateway.jobs", "gateway.billing", "accounting.store", "accounting.invoicing",
    "accounting.tables", "site_adapters.registry", "sqlalchemy", "fastapi", "pydantic", "paramiko", "cryptography",
    "alembic", "fpdf", "uvicorn", "structlog",
)  # fmt: skip


def loaded_by(*words: str) -> set[str]:
    """The modules in a process that typed this."""
    program = (
        "import sys\nfrom gateway.__main__ import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("words", [(), ("admin",), ("admin", "credit"), ("serve",)])
def test_help_loads_nothing_of_the_service(words: tuple[str, ...]) -> None:
    found = loaded_by(*words, "--help")
    assert "gateway.admin.commands" in found
    assert sorted(found & set(HEAVY)) == []


def test_a_command_without_books_or_sites_loads_no_web() -> None:
    found = loaded_by("admin", "dock", "alpha", "no key")
    assert "gateway.admin.docking" in found
    assert sorted(found & {"fastapi", "fpdf", "gateway.app", "uvicorn"}) == []


def test_every_command_of_the_table_is_there() -> None:
    places = list(_places())
    assert len(places) > 20
    for place in places:
        assert callable(commands.command(place)), place


def _places() -> Iterator[str]:
    for one in every_command(parser()):
        run = one.get_default("run")
        assert isinstance(run, partial)
        yield run.args[0]
