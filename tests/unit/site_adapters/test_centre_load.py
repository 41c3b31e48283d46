"""What staff see of the load that we cause: the page at `serve`, its JSON, and the command, all from the same count."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from site_adapters.centre.cli import main
from site_adapters.centre.home import Centre
from site_adapters.states import ObservedState
from site_adapters.types import Accepted, Look, Observation, ObservedRun, Resources
from tests.builders import local_site
from tests.docking import Docked, dock, serving
from tests.fake_site import FakeSite, submission

POLICY = {"queued_jobs_max": 3, "cores_in_use_max": 64, "submits_per_minute": 60, "share_core_seconds": 36_000_000}


@pytest.fixture
def docked(tmp_path: Path) -> Docked:
    return dock(tmp_path, local_site(tmp_path, policy=POLICY), accounts=["alice"])


@pytest.fixture
def centre(docked: Docked) -> Iterator[Centre]:
    """Three jobs of two people are there, one that ran two hours on four cores has ended, one was turned away."""
    made = docked.compose(adapter=FakeSite().adapter())
    people = ("<b>eve</b>", "u1", "u1", "u1", "late")
    for number, person in enumerate(people, 1):
        one = submission(number, person=person)
        one = replace(one, spec=replace(one.spec, resources=Resources(process_count=4)))
        ((let_in, refused),) = made.gate.enter([one])
        if refused is None:
            made.gate.leave(let_in, Accepted(str(number), "fake"))
        if number == 1:
            now = made.gate._clock()
            started = now.replace(hour=0, minute=0, second=0, microsecond=0)
            run = ObservedRun("1", ObservedState.COMPLETED, "done", username="alice", start_time=started,
                              end_time=started.replace(hour=2), cores=4)  # fmt: skip
            made.gate.seen(Observation(Look((run,)), Look()))
    yield made
    made.close()


def staff(centre: Centre) -> tuple[str, str]:
    """What a browser sends once somebody has typed what `penstock-site page-password` printed."""
    shown = CliRunner().invoke(main, ["--home", str(centre.home.folder), "page-password"])
    return "staff", shown.output.strip()


def test_nobody_sees_who_runs_what_without_the_password(docked: Docked, centre: Centre) -> None:
    good = staff(centre)[1]
    with serving(centre) as url:
        for path in ("/", "/load.json"):
            for wrong in (None, ("staff", ""), ("staff", good[:-1]), (good, "staff"), ("staff", "é")):
                refused = httpx.get(url + path, auth=wrong)
                assert refused.status_code == 401 and "Basic" in refused.headers["WWW-Authenticate"]
                assert "u1" not in refused.text and "eve" not in refused.text
            assert httpx.get(url + path, headers={"Authorization": f"Bearer {good}"}).status_code == 401
            assert httpx.get(url + path, auth=("anybody", good)).status_code == 200
    assert (docked.home.state / "page.password").stat().st_mode & 0o77 == 0
    assert staff(centre)[1] == good, "made once"


def test_the_page_the_json_and_the_command_say_the_same(docked: Docked, centre: Centre) -> None:
    shown = CliRunner().invoke(main, ["--home", str(docked.home.folder), "load"])
    told = CliRunner().invoke(main, ["--home", str(docked.home.folder), "load", "--json"])
    with serving(centre) as url:
        page = httpx.get(url + "/", auth=staff(centre))
        facts = httpx.get(url + "/load.json", auth=staff(centre)).json()

    assert shown.exit_code == told.exit_code == 0, shown.output + told.output
    rows = {words[0]: (words[1], words[3]) for line in shown.output.splitlines() if len(words := line.split()) >= 4}
    assert rows["jobs"] == ("3", "3") and rows["cores"] == ("12", "64") and rows["core-hours"] == ("8", "10000")
    assert (facts["jobs"], facts["cores"], facts["share_used_core_seconds"]) == (3, 12, 8 * 3600)
    same = ("jobs", "places", "cores", "nodes", "share_used_core_seconds", "share_core_seconds", "people")
    assert {name: facts[name] for name in same} == {name: json.loads(told.output)[name] for name in same}
    cells = dict(re.findall(r"<tr><th scope=row>([^<]+)<td>(\d+)<td>", page.text))
    assert cells["Jobs of ours"] == "3" and cells["Cores"] == "12" and cells["Core-hours used"] == "8"
    assert "policy_limit" in page.text  # what was turned away


def test_the_page_quotes_whatever_a_gateway_called_its_people(docked: Docked) -> None:
    made = docked.compose(adapter=FakeSite().adapter())
    made.gate.enter([submission(1, person="<script>x</script>")])
    docked.home.stop("drill & <rest>")
    with serving(made) as url:
        page = httpx.get(url + "/", auth=staff(made)).text
    assert "<script>" not in page and "&lt;script&gt;x" in page
    assert "Stopped: drill &amp; &lt;rest&gt;" in page


def test_a_stop_shows_in_the_command(docked: Docked, centre: Centre) -> None:
    docked.home.stop("drill")
    shown = CliRunner().invoke(main, ["--home", str(docked.home.folder), "load"])
    assert "STOPPED: drill" in shown.output
