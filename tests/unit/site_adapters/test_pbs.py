"""PBS's dialect on the answers of a real OpenPBS 23.06.06 (tests/recorded/pbs), and what it sends."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from site_adapters.command import Command, Garbled, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import Busy, CommandFailed, NotFound, Refused, SiteError, SiteUnreachable
from site_adapters.pbs import billing, commands
from site_adapters.pbs.attributes import from_text
from site_adapters.pbs.commands import Qstat, classify, read_qsub
from site_adapters.pbs.management import PbsDialect
from site_adapters.pbs.resource import shown
from site_adapters.states import ObservedState, Reason
from site_adapters.types import (
    Accepted,
    Array,
    Attributes,
    Change,
    JobSpec,
    Look,
    Rejected,
    Resources,
    SiteAccount,
    Submission,
    Unknown,
)

RECORDED = Path(__file__).parents[2] / "recorded" / "pbs"
S = ObservedState
ALICE = SiteAccount("alice", "/home/alice", 1000)
TAG = "ptest00000000001"


def recorded(name: str) -> tuple[Output, list[str]]:
    row = json.loads((RECORDED / f"{name}.json").read_text())
    out, err = (row[k].encode("utf-8", "surrogateescape") for k in ("stdout", "stderr"))
    return Output(out, err, row["exit_code"]), row["command"]


def ids_of(words: list[str]) -> list[str]:
    return [w for w in words[1:] if w[0].isdigit()]


def look_of(name: str) -> Look:
    """What the dialect makes of a recorded `qstat -f [-x] [-t] -F json ids`."""
    output, words = recorded(name)
    return Qstat("qstat").of(ids_of(words)).parse(output)


# ---------------------------------------------------------------- what became of a job

ENDS = {
    # recording: (state, reason, exit code, signal)
    "qstat_x_json_walltime_exceeded": (S.FAILED, Reason.TIME_LIMIT, None, None),
    "qstat_x_json_walltime_exceeded_trap": (S.FAILED, Reason.TIME_LIMIT, None, None),
    "qstat_x_json_cput_exceeded": (S.FAILED, Reason.NONZERO_EXIT, 137, None),
    "qstat_x_json_deleted_running": (S.CANCELED, Reason.NONE, None, 15),
    "qstat_x_json_qdel_handler_exit0": (S.CANCELED, Reason.NONE, None, 15),
    "qstat_x_json_ext_sigkill": (S.FAILED, Reason.USER_SIGNAL, None, 9),
    "qstat_x_json_bad_interpreter": (S.FAILED, Reason.NONZERO_EXIT, 127, None),
    "qstat_x_json_command_not_found": (S.FAILED, Reason.NONZERO_EXIT, 127, None),
    "qstat_x_json_nodefail_norerun": (S.FAILED, Reason.NODE_FAIL, None, None),
    "qstat_x_json_depend_parent_deleted": (S.FAILED, Reason.DEPENDENCY_FAILED, None, None),
    "qstat_x_json_depend_deleted": (S.FAILED, Reason.DEPENDENCY_FAILED, None, None),
    "qstat_x_json_depend_ok": (S.COMPLETED, Reason.NONE, 0, None),
    "qstat_x_deleted_force_json": (S.CANCELED, Reason.NONE, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_end_is_read_from_substate_and_exit_status_together(name: str) -> None:
    look = look_of(name)

    assert look.good and look.problems == ()
    run = look.runs[0]
    assert (run.state, run.reason, run.exit_code, run.signal) == ENDS[name]
    assert run.end_time is not None and run.username == "researcher"


LIVE = {
    "qstat_running_json": (S.ACTIVE, Reason.NONE, "R/42"),
    "qstat_queued_json": (S.QUEUED, Reason.LIMIT, "Q/10"),
    "qstat_held_json": (S.HELD, Reason.HELD_BY_USER, "H/20"),
    "qstat_depend_held_json": (S.HELD, Reason.DEPENDENCY, "H/22"),
    "qstat_waiting_json": (S.QUEUED, Reason.BEGIN_TIME, "W/30"),
    "qstat_suspended_json": (S.SUSPENDED, Reason.NONE, "S/43"),
    "qstat_never_run_json": (S.QUEUED, Reason.WILL_NOT_START, "Q/10"),
    "qstat_json_scheduling_off": (S.QUEUED, Reason.NONE, "Q/10"),
    "qstat_json_waiting_for_resources": (S.QUEUED, Reason.RESOURCES, "Q/10"),
    "qstat_json_waiting_for_limit": (S.QUEUED, Reason.RESOURCES, "Q/10"),  # its comment says no more than that
    "qstat_json_node_down": (S.ACTIVE, Reason.NONE, "R/42"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIVE)
def test_live_job_says_where_it_is_and_why_it_waits(name: str) -> None:
    run = look_of(name).runs[0]

    assert (run.state, run.reason, run.native_state) == LIVE[name]
    assert run.exit_code is None and run.end_time is None


def test_requeued_job_waits_as_its_next_run_though_it_carries_an_old_exit_status() -> None:
    run = look_of("qstat_after_qrerun_json").runs[0]

    assert (run.state, run.restarts, run.exit_code, run.start_time) == (S.HELD, 1, None, None)
    assert look_of("qstat_json_after_node_requeue").runs[0].restarts == 1
    assert look_of("qstat_running_json").runs[0].restarts == 0


def test_array_is_its_tasks_and_its_parent_says_nothing() -> None:
    runs = look_of("qstat_array_partly_finished_t_json").runs

    assert [(r.task, r.state, r.exit_code) for r in runs] == [
        (0, S.COMPLETED, 0), (1, S.FAILED, 5), (2, S.ACTIVE, None), (3, S.ACTIVE, None)
    ]  # fmt: skip
    assert {r.native_id for r in runs} == {"13120[].pbs01"}
    ended = look_of("qstat_x_t_json_array_all").runs
    assert [r.task for r in ended if r.state is S.FAILED] == [4]  # while the parent's own Exit_status is 0


def test_exclusive_job_does_not_tell_its_cores() -> None:
    assert look_of("qstat_excl_running_json").runs[0].cores is None
    assert look_of("qstat_running_json").runs[0].cores == 8


# ---------------------------------------------------------------- what looks like "no jobs"


@pytest.mark.parametrize("name", ["server_down_qstat_f_json"])
def test_outage_is_valid_json_without_jobs_and_is_no_empty_queue(name: str) -> None:
    output, words = recorded(name)

    assert json.loads(output.stdout)["pbs_server"] == "pbs01"
    assert not Qstat("qstat").of(ids_of(words)).parse(output).good
    assert not Qstat("qstat").live(user=None).parse(output).good


def test_hidden_job_is_empty_with_exit_code_0_and_is_not_absent() -> None:
    output, words = recorded("qstat_other_user_forbidden_json")
    assert output.exit_code == 0 and b"Jobs" not in output.stdout

    look = Qstat("qstat").of(ids_of(words)).parse(output)

    assert look.runs == () and not look.good
    assert look.error is not None and "hidden" in look.error


def test_unknown_id_is_absent_and_spoils_no_other() -> None:
    assert look_of("qstat_unknown_id_x_json") == Look()


@pytest.mark.parametrize(
    ("name", "left_out"), [("qstat_multi_json", ("4.pbs01", "10.pbs01")), ("qstat_x_mixed_all_json", ("12068",))]
)
def test_jobs_that_a_real_server_left_out_beside_an_unknown_one_are_not_absent(
    name: str, left_out: tuple[str, ...]
) -> None:
    look = look_of(name)

    assert len(look.runs) == 1
    assert look.unanswered == left_out and not look.good


def test_server_without_history_does_not_prove_absence() -> None:
    output, _ = recorded("qstat_history_disabled_x_listing")
    assert not Qstat("qstat").ended(user=None).parse(replace(output, stdout=b'{"timestamp": 1}')).good


def test_json_that_is_none_is_asked_for_as_text() -> None:
    broken = Output(b'{"timestamp":1,"Jobs":{"1.s":{"Job_Name":"a","Variable_List":{"A":005}}}}', b"", 0)

    with pytest.raises(Garbled) as caught:
        Qstat("qstat").live(user=None).parse(broken)

    instead: Command[Look] = caught.value.instead
    assert instead.argv == ("qstat", "-f", "-t")
    text, _ = recorded("qstat_x_f_text_finished")
    run = instead.parse(text).runs[0]
    assert (run.native_id, run.state, run.exit_code, run.name) == ("12068.pbs01", S.COMPLETED, 0, "cores")


def test_text_folds_lines_and_a_cut_job_is_a_problem() -> None:
    text, _ = recorded("qstat_x_f_text_finished")

    attributes = from_text(text.text).rows[0][1]
    assert attributes["comment"].endswith("(cn002:ncpus=8)+(cn003:ncpus=8) and finished")
    assert attributes["Submit_arguments"].endswith("-l place=scatter:excl -l walltime=120 job_c2.sh")
    cut = from_text(text.text[:900])
    assert cut.rows == () and len(cut.problems) == 1


@pytest.mark.parametrize("path", sorted(RECORDED.glob("qstat_json_odd_*.json")), ids=lambda p: p.stem)
def test_odd_values_cost_no_row(path: Path) -> None:
    look = look_of(path.stem)

    assert look.good and len(look.runs) == 1 and look.problems == ()


# ---------------------------------------------------------------- submitting


def test_every_recorded_qsub_is_read_as_what_it_was() -> None:
    for path in sorted(RECORDED.glob("qsub_*.json")):
        output, _ = recorded(path.stem)
        outcome = read_qsub(output)
        if path.stem.startswith("qsub_reject") or output.exit_code == 1:
            assert isinstance(outcome, Rejected), path.stem
        elif path.stem in ("qsub_quiet", "qsub_block_exit3"):
            assert not isinstance(outcome, Accepted), path.stem
        else:
            assert isinstance(outcome, Accepted), (path.stem, outcome)
            assert outcome.native_id == output.text.strip()


REFUSALS = {
    "qsub_reject_acl_queue": "permission", "qsub_reject_bad_walltime": "resources",
    "qsub_reject_walltime_over_queue_max": "resources", "qsub_reject_site_hook": "site_policy",
    "qsub_reject_root": "permission",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_has_its_class_and_the_centres_words(name: str) -> None:
    output, _ = recorded(name)

    outcome = read_qsub(output)

    assert isinstance(outcome, Rejected) and outcome.code == REFUSALS[name] and not outcome.retryable
    assert outcome.message in output.error_text


def test_server_that_is_down_and_a_closed_queue_may_take_it_later() -> None:
    assert read_qsub(recorded("server_down_qsub")[0]) == Rejected(
        "qsub: cannot connect to server pbs01 (errno=15010)", True, "site_down"
    )
    closed = read_qsub(recorded("qsub_reject_closed_queue")[0])
    assert isinstance(closed, Rejected) and closed.retryable


@pytest.mark.parametrize(
    ("stderr", "code"), [(b"", 0), (b"qsub: Premature end of message", 183), (b"", 137), (b"", 143)]
)
def test_answer_that_says_neither_yes_nor_no_is_unknown(stderr: bytes, code: int) -> None:
    assert isinstance(read_qsub(Output(b"", stderr, code)), Unknown)


def test_banner_does_not_hide_the_id() -> None:
    output = Output(b"Welcome to Jinan\nproject balance: 12 kh\n21[].pbs01\n", b"", 0)
    assert read_qsub(output) == Accepted("21[].pbs01", "pbs01")


ERRORS: dict[str, type[SiteError]] = {
    "qdel_finished": NotFound, "qdel_unknown": NotFound, "qdel_deleted_again": NotFound,
    "qdel_array_finished_subjob": NotFound, "qdel_exiting": Busy, "qdel_job_on_dead_node": Busy,
    "qalter_running_walltime_up": Refused, "qhold_finished": NotFound, "server_down_qdel": SiteUnreachable,
    "server_down_qhold": SiteUnreachable, "server_down_qselect": SiteUnreachable,
    "client_bad_server": SiteUnreachable, "server_down_pbsnodes_json": SiteUnreachable,
    "qrerun_user": Refused,
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_error_has_its_class(name: str) -> None:
    assert isinstance(classify(recorded(name)[0]), ERRORS[name])


# ---------------------------------------------------------------- what is sent


def dialect(**pbs: Any) -> PbsDialect:
    return PbsDialect(SiteConfig.model_validate(
        {"site": "jinan", "scheduler": "pbs", "transport": {"kind": "local"}, "pbs": pbs,
         "queues": {"cpu": {"native": "workq"}, "whole": {"native": "workq", "exclusive": True}}}
    ))  # fmt: skip


def lines(spec: JobSpec, **pbs: Any) -> list[str]:
    name = f"job-{TAG}.1"
    script = dialect(**pbs).render(Submission(spec, ALICE, TAG, 1, name, "pst1:j:p:u:1:0:0")).script
    return [line[5:] for line in script.splitlines() if line.startswith("#PBS ")]


def test_resources_become_select_and_place() -> None:
    spec = JobSpec(
        script="true", resources=Resources(node_count=2, processes_per_node=4, cpu_cores_per_process=2, memory=2**31),
        attributes=Attributes(duration=3661, queue_name="whole", account="proj-astro"),
    )  # fmt: skip

    said = lines(spec)

    assert "-l select=2:ncpus=8:mpiprocs=4:mem=2097152kb" in said and "-l walltime=01:01:01" in said
    assert "-l place=scatter:excl" in said
    assert "-q workq" in said and "-A proj-astro" in said and "-r n" in said and "-k doe" in said


def test_torque_has_its_own_words() -> None:
    spec = JobSpec(
        script="true", resources=Resources(node_count=2, processes_per_node=3, exclusive_node_use=True),
        attributes=Attributes(duration=60), array=Array("0-6:3", 2),
    )  # fmt: skip

    said = lines(spec, flavour="torque")

    assert "-l nodes=2:ppn=3" in said and "-l walltime=00:01:00" in said
    assert "-n" in said and "-t 0,3,6%2" in said
    assert not any(line.startswith("-k") for line in said)


@pytest.mark.parametrize(
    ("name_max", "name"), [(230, f"a_long_name-{TAG}.1"), (25, f"a_long-{TAG}.1"), (18, f"{TAG}.1"), (15, TAG[:15])]
)
def test_token_stays_whole_in_the_name_as_long_as_there_is_room(name_max: int, name: str) -> None:
    submission = Submission(JobSpec(script="true"), ALICE, TAG, 1, f"a_long_name-{TAG}.1")

    rendered = dialect(name_max=name_max).render(submission)

    assert f"#PBS -N {name}\n" in rendered.script
    assert f"PENSTOCK_FENCE={TAG}.1" in rendered.argv


def test_token_of_a_cut_name_is_found_among_the_variables() -> None:
    job = {"Job_Name": TAG[:15], "Job_Owner": "alice@s", "job_state": "Q", "ctime": "Mon Nov 23 06:34:36 2026",
           "Variable_List": {"PENSTOCK_FENCE": f"{TAG}.1", "PENSTOCK_MANIFEST": "pst1:j:p:u:1:0:0"}}  # fmt: skip
    output = Output(json.dumps({"timestamp": 1, "Jobs": {"1.s": job}}).encode(), b"", 0)

    run = Qstat("qstat").live(user="alice").parse(output).runs[0]

    assert run.tags_seen == (f"{TAG}.1",)
    assert run.manifest == "pst1:j:p:u:1:0:0"


@pytest.mark.parametrize(
    "spec",
    [
        JobSpec(script="true", array=Array("1,3,5")),
        JobSpec(script="true", array=Array("4-4")),
        JobSpec(script="true", attributes=Attributes(qos="high")),
        JobSpec(script="true", attributes=Attributes(account="a b\n#PBS -q root")),
        JobSpec(script="true", attributes=Attributes(custom_attributes={"pbs.place": "x\ny"})),
        JobSpec(script="true", attributes=Attributes(custom_attributes={"pbs.anything": "1"})),
    ],
)
def test_what_pbs_cannot_say_is_refused_and_never_dropped(spec: JobSpec) -> None:
    with pytest.raises(Refused):
        lines(spec)


def test_output_path_of_any_signs_is_opened_by_the_script_and_qsub_sees_only_ours() -> None:
    spec = JobSpec(script="true", stdout_path="/a:b, 'c' {task}", array=Array("1-3"))
    rendered = dialect().render(Submission(spec, ALICE, TAG, 1, "n"))

    assert rendered.stdout_path == "/a:b, 'c' {task}"
    assert """exec >>'/a:b, '"'"'c'"'"' '"$PENSTOCK_ARRAY_TASK"'' 2>>""" in rendered.script
    assert [word for word in rendered.argv if "c'" in word] == []
    assert f"/out/{TAG}.1.spool.out.^array_index^" in rendered.argv[rendered.argv.index("-o") + 1]


def test_directives_in_a_persons_script_are_not_read_by_pbs() -> None:
    script = dialect().render(Submission(JobSpec(script="#!/bin/sh\n#PBS -q root\ntrue\n"), ALICE, TAG, 1, "n")).script

    above = script.partition("penstock_id=")[0]
    assert "-q root" not in above


def test_one_id_goes_to_each_qdel_and_queries_ask_in_utc() -> None:
    assert dialect().ids_per_act == 1
    assert dialect().cancel(["1.s"]).argv == ("qdel", "1.s")
    assert ("TZ", "UTC") in dialect().queue(None).env
    assert dialect().modify("1.s", Change(duration=60)).argv == ("qalter", "-l", "walltime=60", "1.s")
    assert dialect().modify("1.s", Change(queue_name="cpu")).argv == ("qmove", "workq", "1.s")


# ---------------------------------------------------------------- facts and meter


def test_queues_and_nodes_are_read() -> None:
    queues = shown("qstat", ("-Q", "-f"), "Queue", from_text).parse(recorded("qstat_Qf_json")[0])
    nodes = shown("pbsnodes", ("-a", "-v"), "nodes", from_text).parse(recorded("pbsnodes_av_json_busy")[0])

    assert dict(queues.rows)["debug"]["resources_max.walltime"] == "00:10:00"
    assert dict(nodes.rows)["cn003"]["state"] == "job-exclusive"
    with pytest.raises(SiteUnreachable):
        shown("qstat", ("-Q", "-f"), "Queue", from_text).parse(recorded("server_down_qstat_Q_json")[0])


def test_log_lines_that_end_a_run_are_framed_with_the_line_that_began_it() -> None:
    text = recorded("accounting_records")[0].text
    start = datetime(2026, 11, 1, tzinfo=UTC)

    batch = billing.frame_log(text, since=start, users={"researcher"})

    kinds = [usage.fields["line"].split(";")[1] for usage in batch.usages]
    assert (kinds.count("E"), kinds.count("R"), batch.problems) == (17, 2, ())
    for usage in batch.usages:
        began = usage.fields["S"].split(";")
        assert began == [""] or began[1:3] == ["S", usage.fields["line"].split(";")[2]]
    assert billing.frame_log(text, since=start, users={"somebody"}).usages == ()


def test_a_pause_is_told_as_it_was_over_a_change_of_clocks_and_to_the_end_of_a_deleted_run() -> None:
    """25 October 2026 in Berlin: at 03:00 it is 02:00 once more."""
    log = ["10/25/2026 01:30:00;S;7.p;user=a start=1", "10/25/2026 01:40:00;z;7.p;", "10/25/2026 03:40:00;r;7.p;",
           "10/25/2026 04:00:00;z;7.p;", "10/25/2026 04:10:00;E;7.p;user=a start=1 end=2"]  # fmt: skip
    batch = billing.frame_log("\n".join(log), since=datetime(2026, 1, 1, tzinfo=UTC), users=set(), zone="Europe/Berlin")
    assert [usage.fields["suspended_s"] for usage in batch.usages] == [str(3 * 3600 + 600)]


def test_qstat_rows_hold_no_environment() -> None:
    records = Qstat("qstat").raw().parse(recorded("qstat_x_t_json_array_all")[0])
    batch = billing.frame_qstat(records, set(), datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

    assert len(batch.usages) == 11
    assert not any(name.startswith("Variable_List") for usage in batch.usages for name in usage.fields)


def test_log_that_cannot_be_read_is_an_error_and_no_silence() -> None:
    with pytest.raises(CommandFailed):
        billing.read_log("/x", ["20261123"]).parse(Output(b"", b"cat: Permission denied", 1))
    assert commands.ping("qstat").parse(recorded("server_down_qstat_B")[0])[0] is False
