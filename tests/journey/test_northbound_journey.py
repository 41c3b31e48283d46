"""From a submission to a charge at a stand-in for a northbound REST centre: signed login, pages, lost answers."""

from __future__ import annotations

import getpass
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Invalid
from site_adapters.errors import NotFound
from site_adapters.types import Attributes, JobRef, Resources
from tests.builders import Gateway, make_gateway
from tests.lab.slurm import wait_for

sys.path.insert(0, str(Path(__file__).parents[1] / "emulators"))
import northbound


@dataclass(frozen=True, slots=True)
class Centre:
    gateway: Gateway
    cluster: northbound.RestCluster
    folder: Path

    def submit(self, script: str, **wanted: Any) -> str:
        attributes = wanted.pop("attributes", Attributes(duration=600, queue_name="train"))
        text = f"#!/bin/sh\n{script}\n"
        return self.gateway.submit("hangzhou", text, inherit_environment=False, attributes=attributes, **wanted)


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    cluster = northbound.RestCluster(tmp_path / "state")
    cluster.put("cores_per_node", 8)
    server = northbound.serve(tmp_path / "state")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    (tmp_path / "access").write_text(northbound.ACCESS)
    (tmp_path / "secret").write_text(northbound.SECRET)
    (tmp_path / "home").mkdir()
    site = {
        "site": "hangzhou", "scheduler": "northbound", "transport": {"kind": "http"},
        "northbound": {"url": f"http://127.0.0.1:{server.server_address[1]}", "user": getpass.getuser(),
                       "cluster": "ai", "access_key_file": str(tmp_path / "access"),
                       "secret_key_file": str(tmp_path / "secret"),
                       "home": str(tmp_path / "home")},
    }  # fmt: skip
    yield Centre(make_gateway(tmp_path, f"sqlite:///{tmp_path}/p.db", site), cluster, tmp_path)
    server.shutdown()
    server.server_close()


def test_job_runs_once_is_read_and_charged(centre: Centre) -> None:
    mark = centre.folder / "mark"

    job_id = centre.submit(f"echo ran >> {mark}; echo printed; sleep 1", resources=Resources(process_count=2))
    done = centre.gateway.until(job_id, "completed")
    charged = centre.gateway.charged(job_id)

    assert mark.read_text() == "ran\n"
    assert done["status"]["exit_code"] == 0
    assert charged["usage"]["core_seconds"] in (2, 4, 6)
    log = centre.gateway.services.sites["hangzhou"].log
    path = next((centre.folder / "home").glob("*.out"))
    assert log.read(None, str(path), offset=2, limit=5).data == b"inted"  # type: ignore[arg-type]
    centre.gateway.check_books()


def test_exit_code_time_limit_and_cancel_are_told(centre: Centre) -> None:
    failing = centre.submit("exit 3")
    canceled = centre.submit("sleep 60")
    centre.gateway.until(canceled, "active")
    centre.gateway.wish(canceled, "cancel")

    assert centre.gateway.until(failing, "failed")["status"]["exit_code"] == 3
    assert centre.gateway.until(canceled, "canceled")


def test_token_that_ran_out_is_replaced_and_nothing_is_done_twice(centre: Centre) -> None:
    first = centre.submit("true")
    centre.gateway.until(first, "completed")
    centre.cluster.expire_tokens()

    second = centre.submit("true")

    assert centre.gateway.until(second, "completed")
    assert len(centre.cluster.jobs()) == 2


def test_an_output_is_not_mistaken_for_a_refusal_nor_a_refusal_for_an_output(centre: Centre) -> None:
    """The API says no with status 200: a token that ran out, a file that is not there."""
    job_id = centre.submit("""printf '{"code": "402", "msg": "mine"}'""")
    centre.gateway.until(job_id, "completed")
    log = centre.gateway.services.sites["hangzhou"].log
    path = str(next((centre.folder / "home").glob("*.out")))
    centre.cluster.expire_tokens()

    assert log.read(None, path, offset=0, limit=100).data == b'{"code": "402", "msg": "mine"}'  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        log.read(None, path + ".none", offset=0, limit=100)  # type: ignore[arg-type]


def test_checks_ask_each_part_of_the_api_and_say_what_a_refused_login_leaves_out(centre: Centre) -> None:
    auth = centre.gateway.services.sites["hangzhou"].auth
    good = {c.name: c for c in auth.check()}
    assert all(c.ok for c in good.values()) and {"login", "queues", "live jobs", "history", "files"} <= good.keys()

    centre.cluster.fault("POST /api/job/v3/jobs/history-job", down=True)
    assert [(c.name, bool(c.remedy)) for c in auth.check() if not c.ok] == [("history", True)]
    centre.cluster.heal()
    centre.cluster.expire_tokens()
    (centre.folder / "secret").write_text("another")
    refused = {c.name: c for c in auth.check()}
    assert not refused["login"].ok and refused["login"].remedy
    assert refused["files"].detail == "not asked: the login is refused"


def test_answer_that_was_lost_is_found_by_name_and_not_sent_again(centre: Centre) -> None:
    centre.cluster.fault("POST /hpc/openapi/v2/apptemplates/BASIC/BASE/job", drop=True, times=1)
    mark = centre.folder / "mark"

    job_id = centre.submit(f"echo ran >> {mark}")

    assert centre.gateway.until(job_id, "completed")
    assert mark.read_text() == "ran\n"
    assert len(centre.cluster.jobs()) == 1


def test_request_of_which_nothing_is_found_needs_a_decision(centre: Centre) -> None:
    centre.cluster.fault("POST /hpc/openapi/v2/apptemplates/BASIC/BASE/job", down=True, times=1)
    job_id = centre.submit("true")

    def undecided() -> bool:
        centre.gateway.tick("dispatch")
        return str(centre.gateway.show(job_id)["status"]["reason"]) == "needs_decision"

    wait_for(undecided, "the question to a person", 60, every=0.2)
    assert centre.cluster.jobs() == []


def test_service_that_is_down_changes_no_job(centre: Centre) -> None:
    job_id = centre.submit("sleep 1")
    centre.gateway.until(job_id, "active")
    centre.cluster.fault("POST /api/job/v3/jobs/active-job", down=True)
    for _ in range(4):
        centre.gateway.tick("watch")
    assert centre.gateway.state(job_id) == "active"

    centre.cluster.heal()
    assert centre.gateway.until(job_id, "completed")


def test_250_jobs_are_three_pages(centre: Centre) -> None:
    centre.cluster.put("scheduling", False)
    job_id = centre.submit("true")
    centre.gateway.until(job_id, "queued")
    first = centre.cluster.jobs()[0]
    with centre.cluster.locked():
        for n in range(1, 250):
            first.seq += 1
            centre.cluster.save(first)
            assert n
    now = centre.gateway.services.clock()
    refs = [JobRef(str(j.seq), "", getpass.getuser(), "t", now) for j in centre.cluster.jobs()]

    seen = centre.gateway.services.sites["hangzhou"].management.observe(refs)

    assert (len(seen.queue.runs), seen.queries) == (250, 3)


def test_refusal_has_the_centres_own_words(centre: Centre) -> None:
    with pytest.raises(Invalid, match="no word for account"):
        centre.submit("true", attributes=Attributes(duration=60, queue_name="debug", account="p"))
