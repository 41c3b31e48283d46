"""The state machine and its pure neighbours: every pair of phase and event, every proof, every turn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ids import first_id, new_id
from gateway.jobs.dependencies import IMPOSSIBLE, OPEN, SATISFIED, verdict
from gateway.jobs.identity import Known, Proof, prove
from gateway.jobs.ids import Manifest, parse_manifest, site_name, tag_of
from gateway.jobs.lifecycle import SEEN, SHOWN, TRANSITIONS, Event, Phase, State, advance, array_state
from gateway.jobs.line import Load, Waiter, choose
from site_adapters.policy import open_at
from site_adapters.states import ObservedState
from site_adapters.types import Condition, ObservedRun, Policy

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def test_every_pair_of_phase_and_event_has_an_answer_and_final_is_never_left() -> None:
    assert set(TRANSITIONS) == {(phase, event) for phase in Phase for event in Event}
    assert all(advance(Phase.ENDED, event) is None for event in Event)
    assert set(SHOWN) == set(Phase)
    assert set(SEEN) == set(ObservedState)


def test_every_phase_but_the_last_can_be_left() -> None:
    for phase in set(Phase) - {Phase.ENDED}:
        assert any(TRANSITIONS[phase, event] not in (None, phase) for event in Event)


@pytest.mark.parametrize(
    ("tasks", "state"),
    [
        ([State.COMPLETED, State.COMPLETED], State.COMPLETED),
        ([State.COMPLETED, State.FAILED], State.FAILED),
        ([State.FAILED, State.ACTIVE], State.ACTIVE),
        ([State.CANCELED, State.COMPLETED], State.CANCELED),
        ([State.QUEUED, State.FAILED], State.QUEUED),
    ],
)
def test_array_has_one_state(tasks: list[State], state: State) -> None:
    assert array_state(tasks) is state


# ---------------------------------------------------------------- identity


def known(**changes: object) -> Known:
    values: dict[str, object] = {"username": "alice", "tag": "pabcd12345678901", "attempt": 1, "submit_time": NOW,
                                 "restarts": 0} | changes  # fmt: skip
    return Known(**values)  # type: ignore[arg-type]


def row(**changes: object) -> ObservedRun:
    values: dict[str, object] = {"native_id": "7", "state": ObservedState.ACTIVE, "native_state": "RUNNING",
                                 "username": "alice", "submit_time": NOW} | changes  # fmt: skip
    return ObservedRun(**values)  # type: ignore[arg-type]


LATER = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("job", "seen", "proof"),
    [
        (known(), row(username="bob", tags_seen=("pabcd12345678901.1",)), Proof.FOREIGN),
        (known(), row(tags_seen=("pabcd12345678901.1",), submit_time=LATER), Proof.OURS),
        (known(), row(name="renamed"), Proof.OURS),
        (known(), row(submit_time=LATER, restarts=1), Proof.OURS),
        (known(), row(submit_time=LATER), Proof.FOREIGN),
        (known(), row(tags_seen=("pabcd12345678901.2",)), Proof.FOREIGN),
        (known(submit_time=None), row(), Proof.UNPROVED),
        (known(submit_time=None), row(has_submit_line=True), Proof.FOREIGN),
    ],
)
def test_a_row_is_ours_on_one_proof_and_foreign_only_on_positive_proof(
    job: Known, seen: ObservedRun, proof: Proof
) -> None:
    assert prove(job, seen) is proof


# ---------------------------------------------------------------- the line


def test_people_take_turns_whoever_came_first() -> None:
    line = [Waiter(f"a{i:03}", "alice") for i in range(50)] + [Waiter(f"b{i}", "bob") for i in range(3)]
    chosen = choose(line, Policy(), Load({}, {}, 0), now=NOW, most=6)
    assert sorted(w.user_id for w in chosen) == ["alice"] * 3 + ["bob"] * 3


@given(
    waiters=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), max_size=40),
    queued=st.integers(1, 20),
    per_person=st.integers(1, 8),
    per_minute=st.integers(1, 30),
    lately=st.integers(0, 30),
)
def test_the_policy_is_never_exceeded(
    waiters: list[tuple[str, int]], queued: int, per_person: int, per_minute: int, lately: int
) -> None:
    policy = Policy(queued_jobs_max=queued, queued_jobs_per_person_max=per_person, submits_per_minute=per_minute)
    line = [Waiter(f"{i:03}", user, weight=weight) for i, (user, weight) in enumerate(waiters)]
    chosen = choose(line, policy, Load({"a": 1}, {}, lately), now=NOW, most=100)
    assert 1 + sum(w.weight for w in chosen) <= max(queued, 1)
    assert len(chosen) <= max(0, per_minute - lately)
    for user in "abc":
        assert sum(w.weight for w in chosen if w.user_id == user) + (user == "a") <= max(per_person, user == "a")


def test_a_centre_that_is_open_at_night_takes_nothing_by_day() -> None:
    policy = Policy(hours=(("18:00", "08:00"),), zone="Asia/Shanghai")
    assert open_at(policy, datetime(2026, 11, 24, 12, 0, tzinfo=UTC))  # 20:00 there
    assert not open_at(policy, datetime(2026, 11, 24, 4, 0, tzinfo=UTC))  # noon there
    assert choose([Waiter("a", "u")], policy, Load({}, {}, 0), now=datetime(2026, 11, 24, 4, tzinfo=UTC), most=9) == []


# ---------------------------------------------------------------- dependencies and names


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("condition", list(Condition))
def test_a_dependency_is_decided_only_by_what_cannot_change(condition: Condition, state: State) -> None:
    decided = verdict(condition, state, started=state is State.ACTIVE)
    if not state.final:
        assert decided == (SATISFIED if condition is Condition.AFTER and state is State.ACTIVE else OPEN)
    else:
        assert decided in (SATISFIED, IMPOSSIBLE)


@given(name=st.text(max_size=80))
def test_a_jobs_name_at_a_site_is_safe_and_bears_its_tag(name: str) -> None:
    tag = tag_of("ab12", "j123")
    made = site_name(name, tag, 2)
    assert made.isascii() and made.endswith(f"-{tag}.2") and made[0].isalpha() and len(made) < 70
    assert not set(made) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def test_manifest_survives_the_comment_it_is_kept_in() -> None:
    made = Manifest("j1", "r2", "u3", 4, "0123456789abcdef", "fedcba9876543210")
    assert parse_manifest(f"--comment={made} x") == made
    assert parse_manifest("nothing of ours") is None


def test_ids_are_ordered_by_time() -> None:
    ids = [new_id("j", NOW + timedelta(milliseconds=i)) for i in range(100)]
    assert ids == sorted(ids)
    assert first_id("j", NOW) <= ids[0] < first_id("j", NOW + timedelta(milliseconds=1))


def test_cores_of_all_jobs_together_stay_below_what_the_centre_allows() -> None:
    line = [Waiter(f"j{i}", f"u{i % 3}", cores=4) for i in range(20)]
    load = Load({"u0": 1}, {"u0": 4}, 0)

    chosen = choose(line, Policy(cores_in_use_max=20), load, now=datetime(2026, 1, 1, tzinfo=UTC), most=100)

    assert sum(w.cores for w in chosen) == 16
