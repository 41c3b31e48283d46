"""Many jobs take one step by one statement: only those that may, and the database says which."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from gateway.jobs.lifecycle import Event, Phase
from gateway.jobs.moving import Move, move_all
from gateway.jobs.repository import JOBS
from tests.builders import Gateway, local_site, make_gateway


def test_only_jobs_that_are_still_where_they_were_seen_are_moved(tmp_path: Path, db_url: str) -> None:
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path))
    first, second, third = (gateway.submit("local") for _ in range(3))
    gateway.wish(second, "cancel")  # has left the line meanwhile
    moves = [_claim(first), _claim(second), _claim(third, at_attempt=4), _claim("j-that-is-not-there")]
    with gateway.services.db.write() as conn:
        moved = move_all(conn, Event.INTENT, moves, now=gateway.services.clock(), expected=Phase.WAITING)
    assert moved == {first}
    assert _phases(gateway, first, second, third) == ["submitting", "ended", "waiting"]
    assert gateway.events(first) == ["accepted_by_gateway", "intent"]
    assert gateway.events(third) == ["accepted_by_gateway"]


def test_a_second_claim_of_the_same_jobs_moves_none(tmp_path: Path, db_url: str) -> None:
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path))
    moves = [_claim(gateway.submit("local")) for _ in range(3)]
    for expected in (3, 0):
        with gateway.services.db.write() as conn:
            moved = move_all(conn, Event.INTENT, moves, now=gateway.services.clock(), expected=Phase.WAITING)
        assert len(moved) == expected


def test_times_numbers_texts_and_what_is_unset_arrive_as_they_are(tmp_path: Path, db_url: str) -> None:
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path))
    job_id, now = gateway.submit("local"), gateway.services.clock()
    told = {"submitted_at": now, "native_submit_time": None, "missing_looks": 0, "exit_code": 3, "limit_hit": "",
            "native_id": "17",
            "message": "it's \"odd\" \\ %s :x 中文 🚀\n"}  # fmt: skip
    with gateway.services.db.write() as conn:
        move_all(conn, Event.INTENT, [_claim(job_id)], now=now, expected=Phase.WAITING)
        moves = [Move(job_id, 1, told, {"native_id": "17"})]
        assert move_all(conn, Event.ACCEPTED, moves, now=now, expected=Phase.SUBMITTING) == {job_id}
        row = conn.execute(select(JOBS).where(JOBS.c.id == job_id)).one()
    assert {name: getattr(row, name) for name in told} == told
    assert (row.phase, row.state, row.updated_at, row.last_event) == ("at_site", "queued", now, 3)


def _claim(job_id: str, *, at_attempt: int = 0) -> Move:
    return Move(job_id, at_attempt, {"attempt": at_attempt + 1}, {"attempt": at_attempt + 1})


def _phases(gateway: Gateway, *job_ids: str) -> list[str]:
    with gateway.services.db.read() as conn:
        rows = {row.id: row.phase for row in conn.execute(select(JOBS.c.id, JOBS.c.phase))}
    return [rows[job_id] for job_id in job_ids]
