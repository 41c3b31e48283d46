"""Traps of accounting.md that are the parsers' and the reconciliation's: each rule, and what is wrong without it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import update

from accounting import meters_watch
from accounting.calendar import month
from accounting.meters_watch import SeenJob
from accounting.sources import condor, gaps, pbs_log, sacct
from accounting.usage import UsageRecord
from gateway.billing import collect
from gateway.jobs.repository import SITES
from tests.builders import local_site, make_gateway

HEAD = "DBIndex|Cluster|JobID|JobIDRaw|User|Account|State|Submit|Start|End|ElapsedRaw|AllocCPUS|AllocNodes|JobName"


def line(
    job: str = "7", *, index: int = 1, raw: str = "", state: str = "COMPLETED", start: str = "2026-11-10T10:00:00",
    end: str = "2026-11-10T10:01:00", elapsed: int = 60, cpus: int = 2, account: str = "p", name: str = "x",
    submit: str = "",
) -> str:  # fmt: skip
    submit = submit or start.replace("None", "2026-11-10T09:00:00")
    words = [index, "c", job, raw or job, "alice", account, state, submit, start, end, elapsed, cpus, 1, name]
    return "|".join(str(word) for word in words)


def read(*lines: str, zone: str = "UTC") -> list[UsageRecord]:
    reading = sacct.read_document("\n".join([HEAD, *lines]), site_id="alpha", zone=ZoneInfo(zone))
    assert reading.rows == len(lines)
    return list(reading.records)


def charged(records: Sequence[UsageRecord]) -> int:
    """As the store does: of one run key only the newest reading counts."""
    return sum({r.run_key: r.core_seconds for r in records}.values())


def recorded(name: str) -> str:
    return str(json.loads((Path(__file__).parents[2] / "recorded" / name).read_text())["stdout"])


def test_trap_01_every_run_of_a_requeued_job_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = line(index=1, state="REQUEUED"), line(index=2, start="2026-11-10T11:00:00", end="2026-11-10T11:01:00")
    assert charged(read(*runs)) == 240
    log = recorded("pbs/accounting_records.json")
    of_1041 = [r for r in pbs_log.read_document(log, site_id="a").records if r.native_id == "1041.pbs01"]
    assert [(r.state, r.elapsed_s) for r in of_1041] == [("REQUEUED", 10)]

    monkeypatch.setattr(sacct, "_run_key", lambda fields: fields["JobIDRaw"])
    monkeypatch.setattr(pbs_log, "_PASSED", pbs_log._PASSED | {"R"})
    assert charged(read(*runs)) == 120
    assert not [r for r in pbs_log.read_document(log, site_id="a").records if r.native_id == "1041.pbs01"]


def test_trap_02_tasks_are_runs_and_a_bracket_row_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (line("9_2", index=2, raw="11"), line("9_1", index=3, raw="12"),
            line("9_[3-5]", index=4, raw="9", state="CANCELLED by 6", start="None", elapsed=0, cpus=0))  # fmt: skip
    assert [(r.native_id, r.task) for r in read(*rows)] == [("9", 2), ("9", 1)]

    monkeypatch.setattr(sacct, "_NO_RUN", re.compile(r"\."))
    assert len(read(*rows)) == 3


def test_trap_03_components_of_one_job_are_runs_with_accounts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = line("5+0", index=1, raw="5", account="a"), line("5+1", index=2, raw="6", account="b", cpus=8)
    assert charged(read(*rows)) == 120 + 480
    assert [r.account for r in read(*rows)] == ["a", "b"]

    monkeypatch.setattr(sacct, "_run_key", lambda fields: fields["JobID"].partition("+")[0])
    assert charged(read(*rows)) == 480


def test_trap_04_steps_are_not_added_to_their_job(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = line(), line("7.batch", index=2), line("7.0", index=3)
    assert charged(read(*rows)) == 120

    monkeypatch.setattr(sacct, "_NO_RUN", re.compile(r"_\["))
    assert charged(read(*rows)) == 360


def test_trap_05_a_centres_local_time_is_read_in_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    row = line(start="2026-12-01T07:00:00", end="2026-12-01T07:01:00")

    def in_november() -> bool:
        (record,) = read(row, zone="Asia/Shanghai")
        assert record.end_time is not None
        return record.end_time < month("2026-11").end

    assert in_november()

    plain = sacct.moment
    monkeypatch.setattr(sacct, "moment", lambda text, _zone: plain(text, UTC))
    assert not in_november()


def test_trap_09_an_id_that_is_used_again_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = line(index=1), line(index=900, start="2026-11-20T10:00:00", end="2026-11-20T10:01:00")
    assert charged(read(*rows)) == 240

    monkeypatch.setattr(sacct, "_run_key", lambda fields: f"{fields['Cluster']}:{fields['JobIDRaw']}")
    assert charged(read(*rows)) == 120


def test_trap_17_an_unknown_state_is_kept_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join([HEAD, line(state="EXPLODED"), line(index=2)])
    reading = sacct.read_document(text, site_id="alpha")
    assert (len(reading.records), len(reading.problems), reading.passed) == (1, 1, 0)
    assert "EXPLODED" in reading.problems[0].why

    monkeypatch.setattr(sacct, "STATES", sacct.STATES | {"EXPLODED"})
    monkeypatch.setattr(sacct, "LIVE", sacct.LIVE | {"EXPLODED"})
    assert sacct.read_document(text, site_id="alpha").problems == ()  # nobody would hear of it


def test_trap_19_a_record_that_comes_late_is_still_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = make_gateway(tmp_path, f"sqlite:///{tmp_path}/db.sqlite", local_site(tmp_path))
    now = datetime(2026, 11, 10, 18, tzinfo=UTC)
    last_look, ended = now - timedelta(minutes=5), now - timedelta(hours=4)
    with gateway.services.db.write() as conn:
        conn.execute(update(SITES).where(SITES.c.id == "local").values(collected_until=last_look))
    assert collect._since(gateway.services, "local", now) <= ended
    assert collect._since(gateway.services, "local", now + timedelta(days=1)) <= now - timedelta(days=30)

    monkeypatch.setattr(collect, "OVERLAP", timedelta(0))
    assert collect._since(gateway.services, "local", now) > ended


def test_trap_26_a_clock_that_contradicts_the_meter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = recorded("pbs/accounting_records.json")

    def doubtful() -> set[str]:
        return {r.native_id for r in pbs_log.read_document(log, site_id="a").records if r.estimated}

    # 1054 ended while the server was down: 43 s by the stamps, 25 s by the meter.
    assert "1054.pbs01" in doubtful()
    assert "1023.pbs01" not in doubtful()

    monkeypatch.setattr(pbs_log, "SKEW_S", 10**9)
    assert "1054.pbs01" not in doubtful()


def test_trap_28_sizes_durations_and_names_are_read_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from accounting.sources.figures import mib, seconds

    assert (mib("62.50G"), mib("8000Mn"), mib("6000kb")) == (64_000, 8000, 5)
    assert (seconds("32-00:00:00"), seconds("00:10"), seconds("1-02:03:04")) == (2_764_800, 10, 93_784)
    odd = line(name="a|b|c")
    assert [r.job_name for r in read(odd)] == ["a|b|c"]

    def naive(lines: Sequence[str], names: Sequence[str], separator: str) -> Iterator[Mapping[str, str]]:
        for text in filter(None, lines):
            words = text.split(separator)
            yield dict(zip(names, words, strict=True)) if len(words) == len(names) else {sacct.LINE: text}

    monkeypatch.setattr(sacct, "frame", naive)
    assert read(odd) == []


def test_trap_29_a_hole_in_the_ids_is_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [*range(1000, 1400), *range(1700, 2000)]
    records = read(*(line(str(n), index=n) for n in ids))
    assert [(h.first, h.last, h.missing) for h in gaps.holes(records)] == [(1400, 1699, 300)]
    assert gaps.holes(read(*(line(str(n), index=n) for n in range(1000, 1400)))) == []
    assert gaps.holes(read(*(line(str(n), index=n) for n in range(1000, 9000, 40)))) == []  # one person's jobs only

    monkeypatch.setattr(gaps, "_means_something", lambda *_: False)
    assert gaps.holes(records) == []


def test_trap_29_a_day_that_the_centres_log_has_lost_is_an_alarm_within_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of 10 November was rotated away: the gateway saw those jobs end, and the centre has no record of them."""
    lost, kept = (datetime(2026, 11, day, 12, tzinfo=UTC) for day in (10, 11))
    jobs = [SeenJob(lost, 4, 1, 400, None)] * 3 + [SeenJob(kept, 4, 1, 400, 404)] * 2
    now = kept + meters_watch.LATE

    def told() -> list[tuple[str, str, int]]:
        found = meters_watch.alarms(meters_watch.totals(jobs, slack_s=2), last_read=now, now=now)
        return [(a.kind.value, a.day, a.figures["missing"]) for a in found]

    assert told() == [("gap", "2026-11-10", 3)]

    whole = meters_watch.totals
    monkeypatch.setattr(meters_watch, "totals", lambda jobs, slack_s: whole(  # what has no record is passed over
        [job for job in jobs if job.centre_core_seconds is not None], slack_s=slack_s))  # fmt: skip
    assert told() == []


def test_trap_30_condors_wall_clock_is_a_sum_over_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"JobStatus": 4, "GlobalJobId": "h#3.0#1", "ClusterId": 3, "ProcId": 0, "Owner": "alice", "QDate": 990,
           "JobStartDate": 1000, "EnteredCurrentStatus": 1100, "RemoteWallClockTime": 16.0, "CommittedTime": 8,
           "CumulativeSuspensionTime": 3, "CpusProvisioned": 2}  # fmt: skip
    runs = [
        {
            **job,
            "EpochWriteDate": end,
            "JobCurrentStartDate": end - 8,
            "RunInstanceID": n,
            "RemoteWallClockTime": 8.0 * n,
        }
        for n, end in enumerate((1008, 1100))
    ]

    def core_seconds(ads: object) -> int:
        return sum(r.core_seconds for r in condor.read_document(json.dumps(ads), site_id="c").records)

    assert core_seconds([job]) == 2 * (16 - 3)
    assert core_seconds(runs) == 2 * (8 + 8)

    monkeypatch.setattr(
        condor, "_wall", lambda fields, _start, _end, is_epoch: int(float(fields["RemoteWallClockTime"]))
    )
    assert core_seconds(runs) == 2 * 8  # the total before each run, taken for the run
