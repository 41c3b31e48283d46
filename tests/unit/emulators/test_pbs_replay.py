"""The emulated PBS answers the recorded commands as the real one did: exit code, stderr, and the shape of stdout."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.site import PbsCluster, install_pbs
from tests.lab.slurm import wait_for

RECORDED = Path(__file__).parents[2] / "recorded" / "pbs"


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Centre:
    return Centre(tmp_path_factory.mktemp("replay"))


class Centre:
    """The cluster of the recordings: server pbs01, three nodes with 64 cores, its queues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster: PbsCluster = install_pbs(folder, nodes=3, cores_per_node=64, scheduling=False, server="pbs01")
        for name in ("job_s.sh", "job_l.sh", "job_a.sh", "job_f.sh"):
            (folder / name).write_text("#!/bin/sh\ntrue\n")

    def run(self, *words: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.folder / 'bin'}{os.pathsep}/usr/bin:/bin", "TZ": "UTC", **environment}
        return subprocess.run(words, input=stdin, capture_output=True, text=True, cwd=self.folder, env=env, check=False)

    def submit(self, *options: str, script: str = "true\n") -> str:
        return self.run("qsub", *options, stdin=script).stdout.strip()

    def until_ended(self, native_id: str) -> None:
        number = int(re.match(r"\d+", native_id)[0])  # type: ignore[index]
        self.cluster.put("scheduling", True)
        self.run("qstat")
        wait_for(lambda: all(j.state == "ended" for j in self.cluster.jobs("seq = ?", number)), native_id)
        self.cluster.put("scheduling", False)


def recorded(name: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return row


# qsub refuses, whatever the state: word for word.
SKIPPED = {
    "qsub_reject_missing_script",  # run below, with a name that is not there
    "qsub_reject_root", "qsub_reject_site_hook", "qsub_reject_bad_directive",
}  # fmt: skip
REFUSALS = sorted(p.stem for p in RECORDED.glob("qsub_reject_*.json") if p.stem not in SKIPPED)


@pytest.mark.parametrize("name", REFUSALS)
def test_qsub_refuses_in_the_same_words(centre: Centre, name: str) -> None:
    row = recorded(name)

    done = centre.run(*row["command"], stdin=row["stdin"])

    assert (done.returncode, done.stderr, done.stdout) == (row["exit_code"], row["stderr"], row["stdout"])


def test_missing_script_and_site_hook(centre: Centre) -> None:
    missing, hook = recorded("qsub_reject_missing_script"), recorded("qsub_reject_site_hook")
    assert centre.run(*missing["command"]).stderr == missing["stderr"]
    centre.cluster.put("hook_text", hook["stderr"].removeprefix("qsub: ").strip())
    try:
        done = centre.run(*hook["command"])
    finally:
        centre.cluster.put("hook_text", "")
    assert (done.returncode, done.stderr) == (hook["exit_code"], hook["stderr"])


ACCEPTED = ("qsub_array", "qsub_array_pending", "qsub_accept_name_230", "qsub_accept_name_digit_first", "qsub_stdin",
            "qsub_accept_bad_depend", "qsub_old_nodes_syntax", "qsub_project_account", "qsub_to_stopped_queue",
            "qsub_too_many_ncpus_never_runs", "qsub_hold", "qsub_odd_vars_numeric", "qsub_odd_vars_quotes",
            "qsub_odd_vars_json", "qsub_quiet", "qsub_at_future")  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_qsub_accepts_what_the_real_one_accepted(centre: Centre, name: str) -> None:
    row = recorded(name)
    for file, text in row.get("files", {}).items():
        (centre.folder / file).write_text(text)
    script = row["command"][-1]
    if row["stdin"] is None and script.endswith(".sh") and not (centre.folder / script).exists():
        (centre.folder / script).write_text("#!/bin/sh\ntrue\n")

    done = centre.run(*row["command"], stdin=row["stdin"])

    assert (done.returncode, done.stderr) == (row["exit_code"], row["stderr"])
    assert re.sub(r"^\d+", "N", done.stdout) == re.sub(r"^\d+", "N", row["stdout"])


IN_STATE = {
    # recording: (what the job is, command with its id replaced)
    "qdel_unknown": "unknown", "qalter_unknown": "unknown", "qhold_unknown": "unknown",
    "qstat_unknown_id_x_json": "unknown", "qdel_finished": "ended", "qdel_deleted_again": "ended",
    "qhold_finished": "ended", "qalter_finished": "ended", "qstat_finished_without_x": "ended",
    "qstat_f_json_finished_without_x": "ended", "qdel_pending": "queued", "qhold_queued": "queued",
    "qrls_not_held": "queued", "qhold_system_by_user": "queued", "qalter_queued": "queued", "qrls_held": "held",
    "qrerun_user": "queued", "qstat_malformed_id2": "malformed", "qselect_none": "none",
}  # fmt: skip


@pytest.mark.parametrize("name", IN_STATE)
def test_other_commands_answer_in_the_same_words(centre: Centre, name: str) -> None:
    row, kind = recorded(name), IN_STATE[name]
    native_id = "999999.pbs01"
    if kind in ("queued", "held", "ended"):
        native_id = centre.submit(*(("-h",) if kind == "held" else ()))
    if kind == "ended":
        centre.until_ended(native_id)
    old = next((word for word in row["command"] if re.fullmatch(r"\d+(\.pbs01)?", word)), "")
    number = old.partition(".")[0]

    def swapped(text: str) -> str:
        return re.sub(rf"\b{number}(\.pbs01)?\b", native_id, text) if number else text

    done = centre.run(*(swapped(word) for word in row["command"]))

    assert (done.returncode, done.stderr) == (row["exit_code"], swapped(row["stderr"]))
    assert _shape(done.stdout) == _shape(row["stdout"])


@pytest.mark.parametrize("name", sorted(p.stem for p in RECORDED.glob("server_down_*.json")))
def test_server_that_is_down_answers_as_the_real_one(centre: Centre, name: str) -> None:
    row = recorded(name)
    centre.cluster.fault("*", down=True)
    try:
        done = centre.run(*row["command"])
    finally:
        centre.cluster.heal()

    assert (done.returncode, done.stderr) == (row["exit_code"], row["stderr"])
    assert _shape(done.stdout) == _shape(row["stdout"])


JOBS = {
    "qstat_queued_json": ("-q", "stopped", "-A", "proj-astro", "-N", "waiting"),
    "qstat_held_json": ("-h", "-N", "held"),
    "qstat_x_json_deleted_running": ("-N", "delrun", "-A", "proj-astro"),
    "qstat_x_json_depend_ok": ("-N", "done",),
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_job_is_told_with_the_same_attributes_in_the_same_types(centre: Centre, name: str) -> None:
    row = recorded(name)
    script = "sleep 30\n" if name.endswith("deleted_running") else "true\n"
    native_id = centre.submit(*JOBS[name], script=script)
    if name.endswith("deleted_running"):
        centre.cluster.put("scheduling", True)
        wait_for(lambda: "42" in centre.run("qstat", "-f", "-F", "json", native_id).stdout, "the job to run")
        centre.run("qdel", native_id)
    if "_x_" in name:
        centre.until_ended(native_id)

    done = json.loads(centre.run("qstat", "-f", "-x", "-F", "json", native_id).stdout)["Jobs"][native_id]
    real = next(iter(json.loads(row["stdout"])["Jobs"].values()))

    volatile = {"depend", "Submit_arguments", "comment", "Stageout_status", "jobdir", "Execution_Time", "etime"}
    assert {k: type(v) for k, v in done.items() if k not in volatile} == {
        k: type(v) for k, v in real.items() if k not in volatile
    }
    assert done["job_state"] == real["job_state"]
    assert done["substate"] == real["substate"]
    assert done.get("Exit_status") == real.get("Exit_status")


def test_values_are_mangled_in_json_as_the_real_one_does(centre: Centre) -> None:
    row = recorded("qstat_json_odd_vars_numeric")
    real = next(iter(json.loads(row["stdout"])["Jobs"].values()))["Variable_List"]
    native_id = centre.submit("-q", "stopped", "-v", "X1=007,X2=1e5,X3=12345678901234567890,X4=-1,X5=3.10,X6=")

    ours = json.loads(centre.run("qstat", "-f", "-F", "json", native_id).stdout)["Jobs"][native_id]["Variable_List"]

    assert {k: ours[k] for k in ours if k.startswith("X")} == {k: real[k] for k in real if k.startswith("X")}


def test_hidden_job_is_an_empty_listing_with_exit_code_0(centre: Centre) -> None:
    row = recorded("qstat_other_user_forbidden_json")
    native_id = centre.submit("-q", "stopped")
    with centre.cluster.locked():
        job = centre.cluster.jobs("seq = ?", int(native_id.partition(".")[0]))[0]
        job.user = "daemon"
        centre.cluster.save(job)
    centre.cluster.put("query_other_jobs", False)
    try:
        done = centre.run("qstat", "-f", "-F", "json", native_id)
    finally:
        centre.cluster.put("query_other_jobs", True)

    assert (done.returncode, done.stderr, _shape(done.stdout)) == (0, "", _shape(row["stdout"]))


def _shape(text: str) -> Any:
    """JSON by its members, other text as it is."""
    if not text.startswith("{"):
        return text
    return sorted(json.loads(text))
