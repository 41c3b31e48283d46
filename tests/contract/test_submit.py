"""Hand over work: what a person asked for is what runs, once, and nothing else."""

from __future__ import annotations

import pytest

from site_adapters.states import ObservedState, Reason
from site_adapters.types import Accepted, Array, Attributes, FenceTaken, Rejected, Submission, Unknown
from tests.contract.centre import Centre, submit_all
from tests.lab.slurm import wait_for

# What breaks shells, separators, parsers and terminals.
HOSTILE = {
    "A_PIPE": "a|b||c", "B_QUOTES": "it's \"quoted\" `id` $(id) ${HOME} \\", "C_LINES": "one\ntwo\n\nfour\n",
    "D_SIGNS": "; rm -rf nothing & #! %j %% * ? ~ !! {a,b}", "E_FIELD": "unit\x1fsep\x1erecord\ttab",
    "F_WORLD": "温度 ångström 🚀", "G_EMPTY": "", "H_SPACES": "  leading and trailing  ", "I_EQUALS": "a=b,c=d",
}  # fmt: skip


def test_rendering_is_pure_and_shows_the_fence(centre: Centre) -> None:
    work = centre.work()
    submission = work.submission

    once, twice = (centre.adapter.management.render(submission) for _ in range(2))

    assert once == twice
    assert submission.fence_name in once.script or not centre.can("fence")
    assert once.stdout_path.startswith("/")
    assert work.found() == []


def test_several_at_once_have_an_outcome_each_in_order_and_run_once(centre: Centre) -> None:
    works = [centre.work(then=f"exit {n}") for n in range(3)]

    submit_all(works)
    ended = [work.end()[0] for work in works]

    assert [run.exit_code for run in ended] == [0, 1, 2]
    assert [run.state for run in ended] == [ObservedState.COMPLETED, ObservedState.FAILED, ObservedState.FAILED]
    assert len({work.native_id for work in works}) == 3
    assert [len(work.runs()) for work in works] == [1, 1, 1]


def test_environment_of_any_content_arrives_as_it_is_and_ours_does_not(
    centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PLANTED", "leak")
    work = centre.work(spec={"environment": HOSTILE})
    work.then = f"env -0 >'{work.path('env')}'"

    work.submit().end()

    lines = work.printed("env").decode().split("\0")
    seen = dict(line.partition("=")[::2] for line in lines if line)
    assert {name: seen.get(name) for name in HOSTILE} == HOSTILE
    assert "PENSTOCK_PLANTED" not in seen
    assert len(work.runs()) == 1


def test_arguments_of_any_content_arrive_as_they_are(centre: Centre) -> None:
    work = centre.work()
    words = list(HOSTILE.values())
    program = f"echo ran >>'{work.mark}'; printf '%s\\0' \"$@\" >'{work.path('words')}'"
    work.spec = {"executable": "/bin/bash", "arguments": ("-c", program, "bash", *words)}

    work.submit().end()

    assert work.printed("words").decode().split("\0")[:-1] == words
    assert len(work.runs()) == 1


@pytest.mark.parametrize("name", ["", "a|b", "line\nbreak", "'; touch x; '", "🚀 ракета", "-rf", "x" * 300])
def test_job_of_any_name_is_found_by_its_tag(centre: Centre, name: str) -> None:
    work = centre.work(spec={"name": name}).submit()

    assert work.found_ids() == [work.native_id]
    work.cancel()


def test_large_script_in_another_language_runs_whole(centre: Centre) -> None:
    work = centre.work()
    padding = "# " + "x" * 98 + "\n"
    text = "#!/usr/bin/env python3\n" + padding * 1000 + f"open({str(work.mark)!r}, 'a').write('ran\\n')\n"
    work.spec = {"script": text}

    work.submit()

    assert work.end()[0].state is ObservedState.COMPLETED
    assert work.runs() == ["ran"]


def test_script_that_reads_its_input_finds_its_end(centre: Centre) -> None:
    work = centre.work(then="cat; exit 7").submit()

    assert work.end()[0].exit_code == 7


def test_missing_directory_fails_loudly_and_runs_nothing(centre: Centre) -> None:
    work = centre.work(spec={"directory": str(centre.workplace / "is-not-there")})

    outcome = centre.adapter.management.submit([work.submission])[0]
    if isinstance(outcome, Accepted):
        work.native_id = outcome.native_id
        assert work.end()[0].state is ObservedState.FAILED
    else:
        assert isinstance(outcome, Rejected) and "directory" in outcome.message
    assert work.runs() == []


def test_array_is_one_job_with_a_run_for_each_index(centre: Centre) -> None:
    work = centre.work(spec={"array": Array("1-5:2")})
    if not centre.can("arrays"):
        assert isinstance(centre.adapter.management.submit([work.submission])[0], Rejected)
        pytest.skip(f"{centre.name} has no arrays, and says so")
    work.submit()

    rows = work.end(tasks=3)

    assert [row.task for row in rows] == [1, 3, 5]
    assert {row.native_id for row in rows} == {work.native_id}
    assert sorted(work.runs()) == ["ran 1", "ran 3", "ran 5"]


def test_refused_work_is_rejected_in_words_and_leaves_no_trace(centre: Centre) -> None:
    work = centre.work()
    submission = work.submission
    asked = Submission(centre.refused, submission.account, submission.tag, 1, submission.site_name)

    outcome = centre.adapter.management.submit([asked])[0]

    assert isinstance(outcome, Rejected), outcome
    assert outcome.message
    assert not outcome.retryable
    assert work.found() == []


def test_one_bad_submission_spoils_no_other(centre: Centre) -> None:
    good, also_good, bad = centre.work(), centre.work(), centre.work().submission
    refused = Submission(centre.refused, bad.account, bad.tag, 1, bad.site_name)

    outcomes = centre.adapter.management.submit([good.submission, refused, also_good.submission])

    assert [type(outcome) for outcome in outcomes] == [Accepted, Rejected, Accepted]


def test_cut_answer_is_unknown_and_the_job_is_found_by_its_tag_once(centre: Centre) -> None:
    work = centre.work()
    with centre.breakage.cut():
        outcome = centre.adapter.management.submit([work.submission])[0]
    assert isinstance(outcome, Unknown), outcome

    found = work.found_ids()

    assert len(found) == 1
    work.native_id = found[0]
    assert work.end()[0].state is ObservedState.COMPLETED
    assert len(work.runs()) == 1


def test_late_copy_runs_nothing_once_its_fence_is_taken(centre: Centre) -> None:
    late = centre.work()
    with centre.breakage.late() as land:
        outcome = centre.adapter.management.submit([late.submission])[0]
    assert isinstance(outcome, Unknown), outcome
    assert late.found() == []
    taken = centre.adapter.management.take_fences(centre.account, [late.submission.fence_name])
    again = centre.work(job_id=late.job_id, attempt=2).submit()
    again.end()
    land()

    found = late.found_ids()
    assert len(found) == 1
    late.native_id = found[0]
    ended = late.end()[0]

    assert taken == [FenceTaken()]
    assert (ended.state, ended.reason) == (ObservedState.FAILED, Reason.FENCED)
    assert len(again.runs()) == 1


def test_second_copy_of_an_attempt_runs_nothing(centre: Centre) -> None:
    _needs_a_fence(centre)
    work = centre.work()
    centre.adapter.management.submit([work.submission])
    work.submit()  # a client that lost the answer and tried again, against the rules

    for native_id in work.found_ids():
        work.native_id = native_id
        work.end()

    assert len(work.runs()) == 1


def test_second_copy_leaves_what_the_first_printed(centre: Centre) -> None:
    """Both were given one output file, and a scheduler opens it before the fence can speak."""
    _needs_a_fence(centre)
    work = centre.work(then="echo said; echo complained >&2")
    work.spec = {"stdout_path": str(work.path("out")), "stderr_path": str(work.path("err"))}
    work.submit().end()
    centre.adapter.management.submit([work.submission])

    for native_id in work.found_ids():
        work.native_id = native_id
        work.end()

    assert len(work.runs()) == 1
    assert (work.printed("out"), work.printed("err")) == (b"said\n", b"complained\n")


def test_output_is_there_while_it_runs(centre: Centre) -> None:
    work = centre.work(then="echo first; sleep 300")
    work.spec = {"stdout_path": str(work.path("out")), "stderr_path": str(work.path("err"))}
    work.submit()

    wait_for(lambda: work.path("out").exists() and work.printed("out") == b"first\n", "its first line", centre.until_s)

    work.cancel()
    work.end()
    assert work.printed("out") == b"first\n"


def _needs_a_fence(centre: Centre) -> None:
    if not centre.can("fence"):
        pytest.skip(f"no fence can stand at {centre.name}: what is unknown there is for a person to decide")


def test_a_later_job_begins_a_named_output_anew(centre: Centre) -> None:
    """As people know it from Slurm, also where the file is opened to be appended to."""
    if not centre.can("fence"):
        pytest.skip(f"{centre.name} opens the file itself, before any word of ours: nobody published how")
    first, second = centre.work(then="echo one"), centre.work(then="echo two")
    for work in (first, second):
        work.spec = {"stdout_path": str(first.path("out")), "stderr_path": str(first.path("err"))}
        work.submit().end()

    assert first.printed("out") == b"two\n"


def test_a_job_that_cannot_be_written_in_the_dialect_spoils_no_other(centre: Centre) -> None:
    good, bad = centre.work(), centre.work()
    bad.spec = {"attributes": Attributes(duration=300, custom_attributes={"no.such.option": "1"})}

    outcomes = centre.adapter.management.submit([bad.submission, good.submission])

    assert isinstance(outcomes[1], Accepted), outcomes
    good.native_id = outcomes[1].native_id
    good.end()
    assert isinstance(outcomes[0], Rejected) or centre.adapter.scheduler == "local"
