"""Slurm's parsers on what a real 22.05.8 printed, and on every way to damage it: rows in = rows read + problems."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accounting.sources.sacct import STATES as METERED
from site_adapters.command import Output
from site_adapters.slurm.commands import (
    SACCT_FIELDS,
    SEPARATOR,
    STATE_MAP,
    AccountingRows,
    read_sacct,
    read_sbatch,
    read_squeue,
    runs_of,
    sacct,
    squeue,
)
from site_adapters.slurm.reasons import reason_of
from site_adapters.slurm.rest import read_answer
from site_adapters.states import ObservedState, Reason
from site_adapters.types import Accepted, Rejected, Unknown

RECORDED = Path(__file__).parents[2] / "recorded" / "slurm" / "22.05"
# JOB REASON CODES of 22.05: the names in libslurmfull.so of Debian's 22.05.8 (`strings`).
REASONS = (RECORDED / "reasons.txt").read_text().split()


def items(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RECORDED / name).read_text())["items"]
    return found


def printed(note: str) -> str:
    return str(next(item["stdout"] for item in items("looks.json") if item["note"] == note))


SQUEUE = printed("squeue of everybody")
# Recorded with --parsable2, which leaves out the separator at the end that --parsable writes.
SACCT = printed("sacct of everybody").replace("\n", f"{SEPARATOR}\n")


def output(item: dict[str, Any]) -> Output:
    return Output(item["stdout"].encode(), item["stderr"].encode(), item["rc"])


@pytest.mark.parametrize("item", items("rejections.json") + items("rejections-enforced.json"), ids=lambda i: i["note"])
def test_every_recorded_answer_of_sbatch_is_what_its_exit_code_says(item: dict[str, Any]) -> None:
    outcome = read_sbatch(output(item))

    if item["rc"] == 0:
        assert outcome == Accepted(item["stdout"].strip())
    elif "slurmctld down" in item["note"]:
        assert isinstance(outcome, Unknown)
    else:
        assert isinstance(outcome, Rejected)
        assert outcome.message
        assert "Traceback" not in outcome.message


@pytest.mark.parametrize(
    ("note", "code", "retryable"),
    [
        ("unknown partition", "queue", False),
        ("unknown account", "account", False),
        ("unknown qos", "qos", False),
        ("too much memory", "resources", False),
        ("inactive partition", "limit", True),
        ("qos debug MaxSubmitJobsPerUser=5: job 6", "limit", True),
    ],
)
def test_refusals_are_told_apart(note: str, code: str, retryable: bool) -> None:
    outcome = read_sbatch(output(next(i for i in items("rejections.json") if i["note"] == note)))

    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.retryable) == (code, retryable)


@pytest.mark.parametrize("item", items("slurmrestd.json"), ids=lambda i: i["note"])
def test_every_recorded_answer_of_slurmrestd_has_an_outcome(item: dict[str, Any]) -> None:
    body, _, status = item["stdout"].rpartition("\nHTTP ")
    outcome = read_answer(int(status.split()[0]), body.encode())

    says_id = "job_id" in body and json.loads(body).get("job_id", 0) > 0
    assert isinstance(outcome, Accepted) == says_id
    assert not isinstance(outcome, Unknown) or "JSON" in outcome.message


def test_recorded_queue_is_read_whole() -> None:
    look = read_squeue(Output(SQUEUE.encode(), b"", 0))
    by_name: dict[str, list[Any]] = {}
    for run in look.runs:
        by_name.setdefault(run.name, []).append(run)

    assert [problem.line.partition("|")[0] for problem in look.problems] == ["37"]  # the end of a hostile name
    assert [run.task for run in by_name["held-array"]] == [1, 3, 5, 7, 9]
    assert {run.state for run in by_name["held-array"]} == {ObservedState.HELD}
    assert [run.task for run in by_name["done-array"]] == [0, 1, 2]
    assert by_name["long"][0].restarts == 1
    fenced = by_name["fenced-ptest0123456789a.3"][0]
    assert (fenced.exit_code, fenced.reason) == (75, Reason.FENCED)
    assert by_name["ok-ptest0123456789a.1"][0].manifest == "pst1:j1:p1:u1:1:0:0"
    assert any(name.startswith("a|b \x1f") for name in by_name)


def test_recorded_accounting_has_a_run_for_each_requeue() -> None:
    look = runs_of(read_sacct(Output(SACCT.encode(), b"", 0)))
    long = sorted((run.restarts, run.state) for run in look.runs if run.name == "long")

    assert look.problems == ()
    assert [restart for restart, _ in long] == [0, 1]
    assert long[0][1] is ObservedState.REQUEUED
    canceled = [run for run in look.runs if run.name == "canceled-array"]
    assert {run.task for run in canceled} == {0, 1, 2, 3, 4}
    assert all(run.start_time is None for run in canceled)


def test_every_state_of_the_recordings_has_its_line_in_the_table() -> None:
    words = {row.split(SEPARATOR)[4] for row in SQUEUE.split("\x1e\n") if row.count(SEPARATOR) > 4}

    assert words <= STATE_MAP.keys()


# slurm.schedmd.com/job_state_codes.html, "Job states" and "Job flags".
STATES_OF_25 = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING"),
    *("PREEMPTED", "RUNNING", "SUSPENDED", "TIMEOUT", "COMPLETING", "CONFIGURING", "EXPEDITING", "LAUNCH_FAILED"),
    *("POWER_UP_NODE", "RECONFIG_FAIL", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD"),
    *("REVOKED", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "UPDATE_DB"),
}


def test_every_state_and_flag_of_slurms_manual_has_a_meaning_here_and_in_the_meter() -> None:
    assert STATE_MAP.keys() >= STATES_OF_25
    assert STATES_OF_25 <= METERED


FINAL_WORDS = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
               "REVOKED", "TIMEOUT"}  # fmt: skip


def test_no_flag_ends_a_job_that_the_scheduler_may_run_again() -> None:
    assert {word for word, state in STATE_MAP.items() if state.final} == FINAL_WORDS


@pytest.mark.parametrize("flag", ["LAUNCH_FAILED", "RECONFIG_FAIL", "SPECIAL_EXIT", "REQUEUE_HOLD"])
def test_a_run_that_accounting_ends_with_a_flag_is_followed_by_the_next(flag: str) -> None:
    first = dict.fromkeys(SACCT_FIELDS, "") | {
        "DBIndex": "1", "JobID": "7", "JobIDRaw": "7", "State": flag, "Submit": "100", "Start": "110", "End": "170",
        "ElapsedRaw": "60", "ExitCode": "0:0",
    }  # fmt: skip
    then = first | {"DBIndex": "2", "State": "COMPLETED", "Submit": "171", "Start": "200", "End": "260"}
    look = runs_of(AccountingRows((first, then), ()))
    assert [(run.restarts, run.state) for run in look.runs] == [
        (0, ObservedState.REQUEUED), (1, ObservedState.COMPLETED),
    ]  # fmt: skip
    alone = runs_of(AccountingRows((first | {"End": "Unknown"},), ())).runs
    assert [run.state for run in alone] == [ObservedState.HELD]


@pytest.mark.parametrize("word", REASONS)
def test_every_reason_of_slurm_has_a_sentence_of_its_own(word: str) -> None:
    why = reason_of(word)

    assert why.reason is not Reason.OTHER or word == "FedJobLock"
    assert why.sentence.endswith(".") and word not in ("", why.sentence)


# ---------------------------------------------------------------- damage


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """Cuts, doubles, drops and foreign characters (separators, digits of other scripts, huge numbers) anywhere."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        put = draw(st.one_of(st.just(""), st.text(max_size=5), st.sampled_from(
            ["\n", SEPARATOR, "\x1e", "\x1e\n", "²", "٣", "9" * 30, "-1", "1_[0-5]", "1_[1-0]", "1_[0-99999999]", "\r"]
        )))  # fmt: skip
        text = text[:start] + put + text[end:]
    return text


@settings(max_examples=300, deadline=None)
@given(damaged(SQUEUE))
@example(SQUEUE.replace("1795615420", "9" * 30))
def test_damaged_queue_loses_no_row(text: str) -> None:
    rows = [row for row in text.encode("utf-8", "replace").decode().split("\x1e\n") if row.strip()]

    whole = read_squeue(Output(text.encode("utf-8", "replace"), b"", 0))

    each = [read_squeue(Output(f"{row}\x1e\n".encode(), b"", 0)) for row in rows]
    greeted = [bool(row.partition(SEPARATOR)[0].rpartition("\n")[0].strip()) and SEPARATOR in row for row in rows]
    assert [bool(look.runs) + len(look.problems) for look in each] == [1 + greeting for greeting in greeted]
    assert whole.runs == tuple(run for look in each for run in look.runs)
    assert [p.line for p in whole.problems] == [p.line for look in each for p in look.problems]


@settings(max_examples=300, deadline=None)
@given(damaged(SACCT))
@example(SACCT.replace("1097", "²"))
@example(SACCT.replace("1795615420", "9" * 30))
def test_damaged_accounting_loses_no_line(text: str) -> None:
    data = text.encode("utf-8", "replace")
    found = read_sacct(Output(data, b"", 0))
    look = runs_of(found)

    kept = "".join([*("".join(row.values()) for row in found.rows), *(p.line for p in found.problems)])
    assert _characters(kept) == _characters(data.decode())
    resized = sum(row["State"].startswith("RESIZING") for row in found.rows)
    read = {(run.native_id, run.submit_time, run.name, run.native_state) for run in look.runs}
    assert len(found.rows) - resized <= len(read) + len(look.problems) - len(found.problems) + _equal(found.rows)


def _characters(text: str) -> Counter[str]:
    """What is written, but for separators and white space."""
    return Counter("".join(text.replace(SEPARATOR, "").split()))


def _equal(rows: Any) -> int:
    """Rows that say the same of the same run."""
    return len(rows) - len({(r["JobID"].partition("_")[0], r["Submit"], r["JobName"], r["State"]) for r in rows})


def test_name_that_holds_a_row_is_no_row_of_the_queue() -> None:
    """Everybody reads everybody's names: a forged row would end, or charge, another person's job."""
    ask = squeue("squeue", user=None)
    end = ask.argv[-1].rpartition(":")[2]
    true_row = SQUEUE.split("\x1e\n")[0]
    forged = true_row.replace("CANCELLED", "COMPLETED").replace("lab_alice", "lab_bob")
    text = f"{true_row}\x1e\n{forged}\x1e\n{end}\n"

    look = ask.parse(Output(text.encode(), b"", 0))

    assert [(run.username, run.state) for run in look.runs] == [("lab_alice", ObservedState.CANCELED)]
    assert end != squeue("squeue", user=None).argv[-1].rpartition(":")[2]


def test_name_that_holds_a_row_is_no_row_of_the_accounts() -> None:
    ask = sacct("sacct", since=datetime(2026, 1, 1, tzinfo=UTC), everybody=True)
    separator = next(word for word in ask.argv if word.startswith("--delimiter=")).partition("=")[2]
    true_row, forged = SACCT.split("\n")[:2]
    text = true_row.removesuffix(SEPARATOR).replace(SEPARATOR, separator) + f"\n{forged}{separator}\n"

    found = ask.parse(Output(text.encode(), b"", 0))

    assert [row["JobID"] for row in found.rows] == ["550"]
    assert found.rows[0]["JobName"].endswith(forged)


def test_free_texts_with_line_breaks_stay_one_row() -> None:
    row = SACCT.split("\n")[0].split(SEPARATOR)
    row[-4], row[-3] = "sbatch --wrap\necho\n1|2", "\na\nb"  # the separator and a line break, as at a row's end
    text = f"{SEPARATOR.join(row)}\n{SACCT}"

    found = read_sacct(Output(text.encode(), b"", 0))

    assert found.problems == ()
    assert (found.rows[0]["SubmitLine"], found.rows[0]["Comment"]) == (row[-4], row[-3])
    assert len(found.rows) == SACCT.count("\n") + 1
