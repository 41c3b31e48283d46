"""`gateway admin check` asks what the credentials that are there can answer, and says what was not asked and why."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.__main__ import main
from gateway.identity.service import STAFF
from site_adapters.if2 import keys
from tests.builders import compose_gateway, people
from tests.emulators.site import pbs_centre


def lines_of_check(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What the command says of each probe of the site."""
    monkeypatch.setenv("PENSTOCK_HOME", str(folder))
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", f"sqlite:///{folder / 'p.sqlite'}")
    capsys.readouterr()
    main(["admin", "check"])
    rows = [line.split(": ", 2) for line in capsys.readouterr().out.splitlines() if "jinan" in line]
    return {name: f"{where[0]} {detail}" for where, name, detail in rows}


def test_without_an_observer_a_persons_login_asks_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, site = pbs_centre(tmp_path)
    site |= {"credentials": {}}
    services = compose_gateway(tmp_path, f"sqlite:///{tmp_path / 'p.sqlite'}", site)

    told = lines_of_check(tmp_path, monkeypatch, capsys)
    assert "nobody has linked an account" in told["a person's login"]
    for name in ("controller", "history", "clock skew"):
        assert told[name].startswith("✓ not asked: nobody's login has been let in yet"), told

    people(services, site, login=getpass.getuser())
    told = lines_of_check(tmp_path, monkeypatch, capsys)
    assert "is let in" in told["a person's login"]
    assert told["controller"] == "✓ the server answers"
    assert told["history"] == "✓ ended jobs are remembered"
    assert "from ours" in told["clock skew"]
    assert told["hidden jobs"].startswith("✓ not asked: no observer is configured")
    assert told["accounting"] == "✓ not asked: no meter is configured that could read the accounting log"


def test_a_linked_login_that_is_not_let_in_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, site = pbs_centre(tmp_path)
    services = compose_gateway(tmp_path, f"sqlite:///{tmp_path / 'p.sqlite'}", site)
    people(services, site, login=getpass.getuser())
    with services.db.write() as conn:
        conn.exec_driver_sql("UPDATE site_accounts SET username = 'nobody_there'")

    told = lines_of_check(tmp_path, monkeypatch, capsys)

    assert told["a person's login"].startswith("✗ none of 1 is let in: nobody_there: ")
    assert "penstock account verify" in told["a person's login"]


def test_a_centre_that_does_not_answer_is_a_failed_line_and_the_rest_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It dials in, and no gateway runs here that it could have dialled."""
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_PORT", "1")
    main(["admin", "dock", "far", keys.public_text(keys.load_or_create(tmp_path / "theirs").public)])
    capsys.readouterr()

    assert main(["admin", "check"]) == 1

    told = capsys.readouterr().out
    assert "✗ far: the site: " in told and "penstock-site" in told
    assert "✓ books: every entry sums to zero" in told


def test_who_speaks_for_a_centre_is_said_and_taken_back_by_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, site = pbs_centre(tmp_path)
    services = compose_gateway(tmp_path, f"sqlite:///{tmp_path / 'p.sqlite'}", site)
    people(services, site, login=getpass.getuser())
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", f"sqlite:///{tmp_path / 'p.sqlite'}")
    main(["admin", "user", "carl"])

    def staff() -> list[str]:
        with services.db.read() as conn:
            return list(conn.scalars(select(STAFF.c.site_id)))

    for _ in range(2):
        assert main(["admin", "staff", "jinan", "carl"]) == 0
    assert staff() == ["jinan"]
    assert main(["admin", "staff", "nowhere", "carl"]) == 1
    assert main(["admin", "staff", "jinan", "carl", "--remove"]) == 0
    assert staff() == []
    assert main(["admin", "staff", "jinan", "carl", "--remove"]) == 1


def test_nobody_else_on_the_machine_reads_what_a_new_gateway_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    main(["admin", "init", "omar"])
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
