"""Follow, change and end work; own its fence."""

from __future__ import annotations

import pytest

from site_adapters.errors import Unsupported
from site_adapters.states import ObservedState, Reason
from site_adapters.types import (
    Change,
    Done,
    FenceOwned,
    FenceTaken,
    NotDone,
    Rejected,
    Resources,
    Unfenced,
    Unknown,
)
from tests.contract.centre import Centre
from tests.lab.slurm import wait_for


def test_followed_from_its_start_to_its_end(centre: Centre) -> None:
    work = centre.work(seconds=3, spec={"resources": Resources(process_count=1)}).submit()

    active = work.until(ObservedState.ACTIVE)[0]
    ended = work.end()[0]

    assert work.submission.fence_name in active.tags_seen
    assert active.username == ended.username == centre.account.username
    assert active.start_time is not None and active.end_time is None
    assert (ended.state, ended.exit_code, ended.signal) == (ObservedState.COMPLETED, 0, None)
    assert ended.start_time is not None and ended.end_time is not None and ended.start_time < ended.end_time
    assert ended.start_time.tzinfo is not None
    assert ended.cores is not None and ended.cores >= 1


def test_job_killed_by_a_signal_says_which(centre: Centre) -> None:
    if centre.adapter.scheduler == "northbound":
        pytest.skip("its documents tell of an exit code, not of signals")
    ended = centre.work(then="kill -KILL $PPID; sleep 5").submit().end()[0]

    assert ended.state is ObservedState.FAILED
    assert 9 in (ended.signal, (ended.exit_code or 0) - 128)


def test_job_that_the_site_does_not_know_is_absent_not_finished(centre: Centre) -> None:
    never = centre.work(native_id="9999999")

    seen = never.look()

    assert seen.queue.good and seen.accounting.good
    assert [r for r in (*seen.queue.runs, *seen.accounting.runs) if r.native_id == never.native_id] == []


def test_one_look_shows_many(centre: Centre) -> None:
    works = [centre.work(seconds=1) for _ in range(3)]
    for work in works:
        work.submit()

    seen = centre.adapter.management.observe([work.ref for work in works])

    shown = {run.native_id for run in (*seen.queue.runs, *seen.accounting.runs)}
    assert {work.native_id for work in works} <= shown
    assert seen.queries <= 4
    for work in works:
        work.end()


def test_owner_who_renames_a_job_hides_no_row(centre: Centre) -> None:
    rename = centre.ability("rename")
    work = centre.work(seconds=2).submit()
    before = work.rows()[0]

    rename(work.native_id, "a|b\tc \x1f ; d'\" \x1e\n77\x1f78|\n")
    after = work.rows()[0]

    assert after.submit_time == before.submit_time  # the proof of identity that a new name leaves
    assert work.end()[0].exit_code == 0


def test_requeued_job_is_its_next_run(centre: Centre) -> None:
    requeue = centre.ability("requeue")
    attributes = centre.work().submission.spec.attributes
    work = centre.work(spec={"attributes": type(attributes)(duration=300, rerunnable=True)})
    work.then = f"[ \"$(wc -l <'{work.mark}')\" -gt 1 ] || sleep 250"  # its first run waits to be requeued
    work.submit().until(ObservedState.ACTIVE)
    wait_for(lambda: len(work.runs()) == 1, "the first run")

    requeue(work.native_id)

    wait_for(lambda: any(row.restarts == 1 for row in work.rows()), "the second run", centre.until_s)
    wait_for(lambda: [r for r in work.rows() if r.restarts == 1 and r.state is ObservedState.COMPLETED], "its end", 120)
    assert len(work.runs()) == 2


def test_cancel_ends_waiting_and_running_work_and_may_be_asked_again(centre: Centre) -> None:
    management = centre.adapter.management
    running = centre.work(seconds=300).submit()
    running.until(ObservedState.ACTIVE)

    first = management.cancel(centre.account, [running.ref])
    ended = running.end()[0]
    second = management.cancel(centre.account, [running.ref])

    assert first == second == [Done()]
    assert ended.state is ObservedState.CANCELED


def test_canceled_work_is_asked_to_end_and_may_tidy_up(centre: Centre) -> None:
    work = centre.work()
    tidy = f"sleep 0.1; echo tidy >>{work.path('tidy')}; exit 0"  # of a grace of 2 s and more
    work.then = f"trap '{tidy}' TERM; echo ready >>'{work.mark}'; sleep 300 & wait"
    work.submit()
    wait_for(lambda: len(work.runs()) == 2, "the trap to be set", centre.until_s)

    centre.adapter.management.cancel(centre.account, [work.ref])

    assert work.end()[0].state is ObservedState.CANCELED
    wait_for(work.path("tidy").exists, "the job to have tidied up")


def test_cancel_of_many_answers_for_each_though_one_is_unknown(centre: Centre) -> None:
    works = [centre.work(seconds=300).submit() for _ in range(2)]
    gone = centre.work(native_id="9999999")

    outcomes = centre.adapter.management.cancel(centre.account, [works[0].ref, gone.ref, works[1].ref])

    assert outcomes == [Done()] * 3  # what does not exist needs no end
    assert [work.end()[0].state for work in works] == [ObservedState.CANCELED] * 2


def test_held_work_waits_until_it_is_released(centre: Centre) -> None:
    if not centre.can("hold"):
        with pytest.raises(Unsupported):
            centre.adapter.management.hold(centre.account, [centre.work(native_id="1").ref])
        return
    management = centre.adapter.management
    with centre.ability("busy")():
        work = centre.work().submit()
        work.until(ObservedState.QUEUED)
        assert management.hold(centre.account, [work.ref]) == [Done()]
        assert management.hold(centre.account, [work.ref]) == [Done()]
        held = work.until(ObservedState.HELD)[0]
    assert held.reason is Reason.HELD_BY_USER
    assert work.runs() == []

    assert management.release(centre.account, [work.ref]) == [Done()]
    assert management.release(centre.account, [work.ref]) == [Done()]
    assert work.end()[0].state is ObservedState.COMPLETED
    assert len(work.runs()) == 1


def test_hold_and_release_of_work_that_is_over_are_done(centre: Centre) -> None:
    """It may end between the look and the act."""
    if not centre.can("hold"):
        pytest.skip(f"{centre.name} cannot hold, and says so")
    management = centre.adapter.management
    work = centre.work().submit()
    work.end()

    assert management.hold(centre.account, [work.ref]) == [Done()]
    assert management.release(centre.account, [work.ref]) == [Done()]
    assert len(work.runs()) == 1


def test_waiting_work_can_be_changed_where_the_centre_can(centre: Centre) -> None:
    management = centre.adapter.management
    with centre.ability("busy")():
        work = centre.work().submit()
        if centre.can("modify"):
            assert management.modify(centre.account, work.ref, Change(duration=120)) == Done()
            assert isinstance(management.modify(centre.account, work.ref, Change(queue_name="nowhere")), NotDone)
        else:
            with pytest.raises(Unsupported):
                management.modify(centre.account, work.ref, Change(duration=120))
        work.cancel()
        work.end()


def test_fence_is_taken_once_and_stays_ours(centre: Centre) -> None:
    name = centre.work().submission.fence_name

    outcomes = [centre.adapter.management.take_fences(centre.account, [name, name + "0"]) for _ in range(2)]

    wanted = FenceTaken() if centre.can("fence") else Unfenced()  # where none can stand, nothing is claimed
    assert outcomes == [[wanted, wanted]] * 2


def test_fence_of_a_run_that_started_names_it(centre: Centre) -> None:
    work = centre.work().submit()
    work.end()

    outcome = centre.adapter.management.take_fences(centre.account, [work.submission.fence_name])[0]

    if not centre.can("fence"):
        assert outcome == Unfenced()
        return
    assert isinstance(outcome, FenceOwned)
    assert outcome.owner.rpartition(":")[2] == work.native_id


def test_search_without_tags_finds_all_of_ours_and_their_manifests(centre: Centre) -> None:
    works = [centre.work().submit() for _ in range(2)]
    for work in works:
        work.end()

    look = centre.adapter.management.find([], accounts=[centre.account], since=works[0].submitted_at)

    assert look.good
    found = {run.native_id: run for run in look.runs}
    for work in works:
        # A REST centre keeps neither a comment nor a file of ours: its jobs are attached by their tag only.
        kept = "" if centre.adapter.scheduler == "northbound" else work.submission.manifest
        assert found[work.native_id].manifest == kept
        assert found[work.native_id].tags_seen == (work.submission.fence_name,)


def test_healthy_scheduler_says_so(centre: Centre) -> None:
    assert centre.adapter.management.health().ok


def test_scheduler_that_is_down_is_told_at_once_and_nothing_is_concluded(centre: Centre) -> None:
    down = centre.ability("down")
    management = centre.adapter.management
    work = centre.work()
    with down():
        health = management.health()
        outcome = management.submit([work.submission])[0]
        seen = centre.work(native_id="1").look()
        found = management.find([work.submission.fence_name], accounts=[centre.account], since=work.submitted_at)
        acted = management.cancel(centre.account, [centre.work(native_id="1").ref])[0]

    assert not health.ok and health.detail
    if centre.adapter.scheduler == "northbound":
        assert isinstance(outcome, Unknown)  # a request that was answered 503 may have been done
    else:
        assert isinstance(outcome, Rejected) and outcome.retryable and outcome.code == "site_down"
    assert not seen.queue.good and not seen.accounting.good
    assert not found.good
    assert isinstance(acted, NotDone) and acted.retryable
    assert work.runs() == []
