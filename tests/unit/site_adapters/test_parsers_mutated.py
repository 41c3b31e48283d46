"""Random and mutated outputs: no row is lost, and every row that was not touched has its right values.

Rows + problems are never fewer than the rows that the answer has by its own marks.

A share in every run; `make soak` goes through all 120,000.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from site_adapters.command import Garbled, Output
from site_adapters.pbs import billing
from site_adapters.pbs.commands import Qstat, read_qsub
from site_adapters.slurm.commands import SEPARATOR, read_sbatch, read_squeue
from site_adapters.states import ObservedState
from site_adapters.sunway.commands import read_bjobs, read_bsub
from site_adapters.types import Accepted, Look, ObservedRun, Rejected, Unknown

NOW = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)
LETTERS = "QRHEFX"


@dataclass(frozen=True, slots=True)
class Format:
    """Rows of one command, how an answer is put together of them, and what reads it."""

    row: Callable[[random.Random, int], str]
    whole: Callable[[list[str]], str]
    read: Callable[[bytes], Look]
    count: Callable[[str], int]  # rows that a mutated answer has, by its own marks
    native_id: Callable[[int], str]


def pbs_text_row(r: random.Random, n: int) -> str:
    letter = r.choice(LETTERS)
    ended = "    Exit_status = 3\n    substate = 93\n" if letter in "FX" else "    substate = 10\n"
    return (f"Job Id: {n}.pbs01\n    Job_Name = job-{n}\n    Job_Owner = alice@pbs01\n    job_state = {letter}\n"
            f"    ctime = Mon Nov 23 06:34:36 2026\n    mtime = Mon Nov 23 06:35:36 2026\n{ended}"
            f"    Variable_List = A=1,B=2,\n\tX=y\n    Resource_List.ncpus = {r.randint(1, 64)}\n\n")  # fmt: skip


def sunway_row(r: random.Random, n: int) -> str:
    status = r.choice(("PEND", "RUN", "DONE", "EXIT"))
    return (f"Job<{n}>, User<alice>, Status<{status}>, Project<->, Queue<q_sw_share>, Command</bin/sh /x/{n}.sh>\n\n"
            f"Nov 23 12:32:17: Submitted from host <psn002>, CWD</home/export/online3>.\n"
            f"Nov 23 12:32:18: Started on mn <mn238>, using <0> nodes\nNov 23 12:32:27: End!\n")  # fmt: skip


def squeue_row(r: random.Random, n: int) -> str:
    word = r.choice(("PENDING", "RUNNING", "COMPLETED", "FAILED"))
    fields = [str(n), str(n), "N/A", "N/A", word, "None", "1795415676", "1795415677", "1795415680", "4", "alice", "0",
              "0", "", f"job-{n}"]  # fmt: skip
    return SEPARATOR.join(fields) + "\x1e\n"


def log_row(r: random.Random, n: int) -> str:
    return (f"11/23/2026 06:34:{r.randint(10, 59)};{r.choice('ER')};{n}.pbs01;user=alice jobname=job-{n} "
            f"start=1795415676 end=1795415687 Exit_status=0 resources_used.walltime=00:00:11\n")  # fmt: skip


def read_log(data: bytes) -> Look:
    """Log rows as a look, so that one test fits all."""
    batch = billing.frame_log(data.decode("utf-8", "replace"), since=NOW - timedelta(days=9999), users=set())
    runs = tuple(_run(usage.fields["line"]) for usage in batch.usages)
    return Look(runs, batch.problems)


def _run(line: str) -> ObservedRun:
    parts = line.split(";")
    return ObservedRun(parts[2], ObservedState.COMPLETED, parts[1], name=line)


def log_count(text: str) -> int:
    """Lines that end a run, and lines that are none."""
    lines = [line for line in text.split("\n") if line.strip()]
    kinds = [m[1] if (m := re.match(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d;([A-Za-z]);[^;]*;", li)) else "" for li in lines]
    return sum(kind in ("E", "R", "") for kind in kinds)


FORMATS = {
    "qstat-text": Format(
        pbs_text_row, "".join, lambda data: Qstat("qstat", torque=True).live(user=None).parse(Output(data, b"", 0)),
        lambda text: len(re.findall(r"(?m)^Job Id: ", text)) + bool(re.split(r"(?m)^Job Id: ", text)[0].strip()),
        lambda n: f"{n}.pbs01",
    ),
    "bjobs-l": Format(
        sunway_row, "\n".join, lambda data: read_bjobs(Output(data, b"", 0), zone="UTC", now=NOW)[1],
        lambda text: len(re.findall(r"(?m)^Job ?<", text)), str,
    ),
    "squeue": Format(
        squeue_row, "".join, lambda data: read_squeue(Output(data, b"", 0)),
        lambda text: sum(bool(part.strip()) for part in text.split("\x1e\n")), str,
    ),
    "pbs-log": Format(log_row, "".join, read_log, log_count, lambda n: f"{n}.pbs01"),
}  # fmt: skip


def mutated(r: random.Random, row: str) -> str:
    """One of the things that happen to bytes: flipped, lost, doubled, cut, replaced by noise."""
    data = bytearray(row.encode())
    for _ in range(r.randint(1, 4)):
        place = r.randrange(len(data)) if data else 0
        match r.randrange(5):
            case 0 if data:
                data[place] = r.randrange(256)
            case 1:
                del data[place : place + r.randint(1, 12)]
            case 2:
                data[place:place] = data[place : place + r.randint(1, 40)]
            case 3:
                del data[place:]
            case _:
                data[place:place] = bytes(r.randrange(256) for _ in range(r.randint(1, 20)))
    return data.decode("utf-8", "replace")


def campaign(name: str, answers: int, seed: int) -> int:
    """Go through that many answers; returns how many rows were touched."""
    form, r, touched = FORMATS[name], random.Random(seed), 0
    for _ in range(answers):
        numbers = r.sample(range(1000, 9000), r.randint(1, 6))
        rows = [form.row(r, n) for n in numbers]
        clean = {run.native_id: run for run in form.read(form.whole(rows).encode()).runs}
        assert len(clean) == len(rows)
        # The last row is the one to touch: what follows a row that lost its end may be taken for its rest.
        broken = mutated(r, rows[-1])
        touched += 1
        text = form.whole([*rows[:-1], broken])
        look = form.read(text.encode())
        assert look.error is None or not rows[:-1]
        if look.error is None:
            assert len(look.runs) + len(look.problems) >= form.count(text), text
            found = {run.native_id: run for run in look.runs}
            for n in numbers[:-1]:
                forged = sum(run.native_id == form.native_id(n) for run in look.runs) > 1
                assert forged or found[form.native_id(n)] == clean[form.native_id(n)], text
    return touched


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_answers_lose_no_row(name: str) -> None:
    assert campaign(name, 1500, seed=7) == 1500


@pytest.mark.soak
@pytest.mark.parametrize("name", FORMATS)
def test_thirty_thousand_mutated_answers_lose_no_row(name: str) -> None:
    assert campaign(name, 30_000, seed=11) == 30_000


def test_random_bytes_never_raise_and_are_never_taken_for_an_id() -> None:
    r = random.Random(3)
    for _ in range(2000):
        data = bytes(r.randrange(256) for _ in range(r.randint(0, 200)))
        for read in (read_qsub, read_bsub, read_sbatch):
            outcome = read(Output(data, b"", r.choice((0, 1, 137, 255))))
            assert isinstance(outcome, Accepted | Rejected | Unknown)
        for form in FORMATS.values():
            form.read(data)
        with suppress(Garbled):
            Qstat("qstat").live(user=None).parse(Output(data, b"", 0))
