"""The emulated Slurm answers the recorded commands as a real 22.05.8 did: exit code, stderr, the shape of stdout."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from site_adapters.slurm.commands import SACCT_FIELDS, SEPARATOR
from tests.emulators.site import SlurmCluster, install_slurm
from tests.lab.slurm import wait_for

RECORDED = Path(__file__).parents[2] / "recorded" / "slurm" / "22.05"
ME = getpass.getuser()


class Centre:
    """The lab's centre `alpha` (4 nodes of 16) or `beta` (2 of 64, limits enforced); nothing is started."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.cluster: SlurmCluster = install_slurm(folder, **settings)
        self.close_partition("normal")
        (folder / "job.sh").write_text("#!/bin/sh\ntrue\n")

    def close_partition(self, name: str, state: str = "DOWN") -> None:
        partitions = self.cluster.partitions()
        partitions[name]["state"] = state
        self.cluster.put("partitions", partitions)

    def run(self, *words: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.folder / 'bin'}{os.pathsep}/usr/bin:/bin", "TZ": "UTC", **environment}
        return subprocess.run(words, input=stdin, capture_output=True, text=True, cwd=self.folder, env=env, check=False)

    def shell(self, line: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.run("/bin/bash", "-c", line, stdin=stdin)

    def may(self, *accounts: str, qos: tuple[str, ...] = ("normal",)) -> None:
        self.cluster.put("associations", {ME: {"accounts": list(accounts), "qos": list(qos)}})

    def submit(self, *options: str) -> str:
        return self.run("sbatch", "--parsable", *options, stdin="#!/bin/sh\ntrue\n").stdout.strip()


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Centre:
    return Centre(tmp_path_factory.mktemp("alpha"), cluster="alpha", nodes=4, cores_per_node=16)


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory) -> Centre:
    return Centre(tmp_path_factory.mktemp("beta"), cluster="beta", nodes=2, cores_per_node=64, enforce_part_limits=True)


def items(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RECORDED / name).read_text())["items"]
    return found


# What the login of a recording was: lab_alice is in proj1 and proj2 and has the QOS debug.
WHO = {"lab_alice": (("proj1", "proj2"), ("normal", "debug", "low")), "lab_bob": (("proj2",), ("normal",)),
       "lab_gw": (("proj1",), ("normal",)), "lab_noassoc": ((), ("normal",))}  # fmt: skip
# Scripts that came on stdin were not kept with the recording; what they were stands in its note.
STDIN = {"script without shebang": "echo no\n", "empty script": "", "script with CRLF": "#!/bin/sh\r\ntrue\r\n",
         "script over 4 MiB": "#!/bin/sh\n" + "# x\n" * 1_100_000,
         "bad directive in script": "#!/bin/sh\n#SBATCH --nope=1\ntrue\n",
         "directive after first command is ignored silently": "#!/bin/sh\ntrue\n#SBATCH --nope=1\n"}  # fmt: skip


@pytest.mark.parametrize("item", items("rejections.json"), ids=lambda i: i["note"])
def test_sbatch_refuses_and_accepts_in_the_same_words(alpha: Centre, item: dict[str, Any]) -> None:
    accounts, qos = WHO[item["user"]]
    alpha.may(*accounts, qos=qos)
    if "--uid" in item["cmd"] and os.geteuid() == 0:
        pytest.skip("root may use --uid")

    done = alpha.shell(item["cmd"], stdin=STDIN.get(item["note"]))

    assert (done.returncode, done.stderr) == (item["rc"], item["stderr"])
    assert re.sub(r"^\d+", "N", done.stdout) == re.sub(r"^\d+", "N", item["stdout"])


@pytest.mark.parametrize("item", items("rejections-enforced.json"), ids=lambda i: i["note"])
def test_sbatch_with_enforced_limits_in_the_same_words(beta: Centre, item: dict[str, Any]) -> None:
    accounts, qos = WHO[item["user"]]
    beta.may(*accounts, qos=qos)
    if "slurmctld down" in item["note"]:
        beta.cluster.fault("*", down=True)
    try:
        done = beta.shell(item["cmd"])
    finally:
        beta.cluster.heal()

    assert (done.returncode, done.stderr) == (item["rc"], item["stderr"])
    assert bool(done.stdout) == bool(item["stdout"])


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Centre]:
    """The jobs of the recorded looks, made anew."""
    centre = Centre(tmp_path, cluster="alpha", nodes=4, cores_per_node=16)
    centre.close_partition("normal", "UP")
    centre.may("proj1", "proj2")
    yield centre
    centre.run("scancel", "-u", ME)


def test_looks_show_the_recorded_states_in_the_recorded_form(busy: Centre) -> None:
    squeue = next(i for i in items("looks.json") if i["note"] == "squeue of everybody")
    sacct = next(i for i in items("looks.json") if i["note"] == "sacct of everybody")
    out = ("-o", "/dev/null")
    busy.submit(*out, "--job-name=ok-ptest0123456789a.1", "--comment=pst1:j1:p1:u1:1:0:0")
    busy.shell("echo '#!/bin/sh\nexit 3' | sbatch -o /dev/null --job-name=fails-ptest0123456789a.2")
    busy.shell("echo '#!/bin/sh\nkill -9 $$' | sbatch -o /dev/null --job-name=killed")
    busy.submit(*out, "--array=0-2", "--job-name=done-array")
    busy.submit(*out, "-H", "--array=1,3,5,7,9%2", "--job-name=held-array")
    busy.submit(*out, "--begin=now+1hour", "--job-name=later")
    busy.submit(*out, "-N4", "--exclusive", "--job-name=big")
    waiting = busy.submit(*out, "-H", "--job-name=canceled-waiting")
    array = busy.submit(*out, "-H", "--array=0-4", "--job-name=canceled-array")
    long = busy.shell("echo '#!/bin/sh\nsleep 60' | sbatch --parsable -o /dev/null --job-name=long --requeue")
    busy.run("scancel", waiting, array)
    ends = "state = 'running' AND seq != ?"
    wait_for(lambda: not busy.cluster.jobs(ends, int(long.stdout)), "the short ones to end", 60)
    busy.run("squeue")  # no daemon: what waited for nodes starts now
    wait_for(lambda: not busy.cluster.jobs(ends, int(long.stdout)), "the big one to end", 60)
    busy.run("scontrol", "requeue", long.stdout.strip())
    wait_for(lambda: any(j.runs == 2 for j in busy.cluster.jobs("state = 'running'")), "the second run", 60)

    queue = busy.run(*squeue["argv"], **squeue["env"])
    accounting = busy.run(*_since(sacct["argv"]), **sacct["env"])

    assert (queue.returncode, queue.stderr, accounting.returncode, accounting.stderr) == (0, "", 0, "")
    assert _queue_forms(queue.stdout) >= _queue_forms(squeue["stdout"])
    assert _accounting_forms(accounting.stdout) >= _accounting_forms(sacct["stdout"])


def _since(argv: list[str]) -> list[str]:
    """The recorded question, of a window that has today in it."""
    return ["2020-01-01T00:00:00" if before == "-S" else word for before, word in zip(["", *argv], argv, strict=False)]


def _queue_forms(text: str) -> set[tuple[str, ...]]:
    """What kinds of rows there are: name, state, reason, the form of ids, tasks and times, exit code, restarts."""
    forms = set()
    for row in filter(str.strip, text.split("\x1e\n")):
        cells = row.split(SEPARATOR)
        if len(cells) != 15 or cells[14] in ("fenced-ptest0123456789a.3", "sbatch"):
            continue  # the hostile name's rest; what is not made anew here
        full, raw, parent, task, state, reason, *times, cpus, _, restarts, code, comment, name = cells
        own = "" if name == "done-array" else "own" if raw == parent else "other"
        forms.add((name, state, reason, _digits(full), own, task if "-" in task else "", *map(_digits, times), cpus,
                   restarts, code, comment))  # fmt: skip
    return forms


def _accounting_forms(text: str) -> set[tuple[str, ...]]:
    volatile = {"DBIndex", "JobIDRaw", "User", "UID", "ElapsedRaw", "Partition", "NodeList", "SubmitLine", "AllocTRES",
                "ReqTRES", "Eligible", "Reason", "Account"}  # fmt: skip
    forms = set()
    for row in text.splitlines():
        cells = dict(zip(SACCT_FIELDS, row.split(SEPARATOR), strict=False))
        if cells.get("JobName") in ("fenced-ptest0123456789a.3", "sbatch", None):
            continue
        forms.add(tuple(_digits(re.sub(r" by \d+", " by N", v)) if k not in ("ExitCode", "JobName") else v
                        for k, v in cells.items() if k not in volatile))  # fmt: skip
    return forms


def _digits(text: str) -> str:
    """Moments and ids as such; small numbers, which are counts, as they are."""
    return re.sub(r"\d{9,}", "T", re.sub(r"^\d{1,4}(?=$|_)", "N", text))


@pytest.mark.parametrize(
    ("words", "code", "stderr"),
    [
        # Transcripts 01 to 03b of the lab, and a probe of the same centre for those that end in "finished".
        (("squeue", "-h", "-j", "999999"), 1, "slurm_load_jobs error: Invalid job id specified\n"),
        (("sacct", "-X", "-P", "-n", "-j", "999999", "--format=JobIDRaw,State"), 0, ""),
        (("sacct", "-X", "-P", "-n", "--format=Nope"), 1, 'sacct: error: Invalid field requested: "Nope"\n'),
        (("scancel", "999999"), 0, ""),
        (("scancel", "abc"), 1, "scancel: error: Invalid job id abc\n"),
        (("scontrol", "hold", "999999"), 1,
         "Invalid job id specified for job 999999\nslurm_suspend error: Invalid job id specified\n"),
        (("scontrol", "update", "job=999999", "timelimit=10"), 1, "Invalid job id specified for job 999999\n"),
        (("scontrol", "show", "nonsense"), 1, "invalid entity:nonsense for keyword:show \n"),
        (("scontrol", "nonsense"), 1, "invalid keyword: nonsense\n"),
    ],
)  # fmt: skip
def test_other_commands_answer_in_the_same_words(alpha: Centre, words: tuple[str, ...], code: int, stderr: str) -> None:
    done = alpha.run(*words)

    assert (done.returncode, done.stderr, done.stdout) == (code, stderr, "")


def test_acts_on_waiting_and_finished_jobs_answer_in_the_same_words(tmp_path: Path) -> None:
    centre = Centre(tmp_path, cluster="alpha", nodes=1, cores_per_node=2)
    waiting = centre.submit("--no-requeue")
    centre.close_partition("normal", "UP")
    over = centre.submit("-o", "/dev/null", "--no-requeue")
    wait_for(lambda: centre.cluster.jobs("seq = ? AND state = 'ended'", int(over)), "its end", 60)
    centre.close_partition("normal")
    waiting = centre.submit("--requeue")

    finished = f"Job has already finished for job {over}\n"
    assert (
        centre.run("scontrol", "release", over).stderr == finished + "slurm_suspend error: Job has already finished\n"
    )
    assert centre.run("scontrol", "update", f"jobid={over}", "timelimit=3").stderr == finished
    assert centre.run("scontrol", "requeue", waiting).stderr == f"Job is pending execution for job {waiting}\n"
    nowhere = centre.run("scontrol", "update", f"jobid={waiting}", "partition=nope")
    assert nowhere.stderr == f"Invalid partition name specified for job {waiting}\n"
    assert centre.run("scontrol", "hold", waiting).returncode == 0
    shown = centre.run("squeue", "-h", "-j", waiting, "-o", "%i|%T|%r|%N|%S|%e").stdout
    assert shown == f"{waiting}|PENDING|JobHeldUser||N/A|N/A\n"


def test_task_canceled_alone_leaves_no_row_and_the_rest_share_one(tmp_path: Path) -> None:
    """Transcript 08: `sacct: no row for it`, `one row stands for all the unstarted tasks`."""
    centre = Centre(tmp_path, cluster="alpha")
    array = centre.submit("--array=0-3", "--hold")
    form = ("--format=JobIDRaw,JobID%20,State%24,ElapsedRaw,AllocTRES%50",)

    centre.run("scancel", f"{array}_1")
    queue = centre.run("squeue", "-h", "-t", "all", "-j", array, "-o", "%i|%A|%T").stdout
    centre.run("scancel", array)
    rows = centre.run("sacct", "-X", "-P", "-n", "-D", *form, "-j", array).stdout

    assert queue == f"{array}_[0,2-3]|{array}|PENDING\n"
    assert rows == f"{array}|{array}_[0,2-3]|CANCELLED by {os.geteuid()}|0|\n"


def test_what_never_was_eligible_is_missing_from_windows_that_name_no_state(tmp_path: Path) -> None:
    centre = Centre(tmp_path, cluster="alpha")
    held = centre.submit("--hold", "-J", "never-eligible")
    centre.run("scancel", held)
    window = ("sacct", "-X", "-P", "-n", "-S", "now-1days", "-E", "now", "--name=never-eligible", "-o", "JobIDRaw")

    assert centre.run(*window).stdout == ""
    assert centre.run(*window, "-s", "CA").stdout == f"{held}\n"
    assert centre.run("sacct", "-X", "-P", "-n", "-j", held, "-o", "JobIDRaw").stdout == f"{held}\n"


def test_controller_that_is_down_answers_as_the_real_one(alpha: Centre) -> None:
    """Transcript 03b."""
    alpha.cluster.fault("*", down=True)
    contact = "Unable to contact slurm controller (connect failure)\n"
    try:
        ping, squeue, scancel = (alpha.run(*w.split()) for w in ("scontrol ping", "squeue -h", "scancel 1"))
    finally:
        alpha.cluster.heal()

    assert (ping.returncode, ping.stderr) == (1, "")
    assert re.fullmatch(r"Slurmctld\(primary\) at \S+ is DOWN\n", ping.stdout)
    assert (squeue.returncode, squeue.stderr) == (1, f"slurm_load_jobs error: {contact}")
    assert (scancel.returncode, scancel.stderr) == (8, f"scancel: error: Kill job error on job id 1: {contact}")
