"""The SSH transport against a real sshd: noise, floods, threads, stops, cuts; nothing hangs and nothing lies."""

from __future__ import annotations

import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, NotFound, OutcomeUnknown, Refused, SiteError, SiteUnreachable
from site_adapters.transport.files import write_whole
from site_adapters.transport.ssh import SshConnection
from tests.live.sshd import Sshd, Start, Wire, command, shell

pytestmark = pytest.mark.live


# ---------------------------------------------------------------- what comes back


def test_a_talking_profile_is_no_part_of_the_answer(here: SshConnection) -> None:
    assert here.run(shell("printf out; printf err >&2; exit 3")) == Output(b"out", b"err", 3)
    assert here.run(shell('echo "$SITE $LC_ALL $OWN"', env=(("OWN", "a b"),))).text == "here C a b\n"


def test_binary_stdin_and_stdout_arrive_byte_for_byte(here: SshConnection) -> None:
    for content in (bytes(range(256)), random.Random(1).randbytes(1_000_000), b"x" * 2_000_000 + b"\n", b"\n", b"-e"):
        assert here.run(command("cat", stdin=content)).stdout == content


def test_words_with_every_dangerous_character_are_data(here: SshConnection, tmp_path: Path) -> None:
    words = ("$(touch pwned)", "`id`", "a'b\"c", "\n", ";|&", "汉字", "", "-n", "\\", "!x", "\x7f\x01")
    output = here.run(command("/usr/bin/printf", "%s\\0", *words))
    assert output.stdout.decode().split("\0")[:-1] == list(words)


def test_many_commands_in_one_round_trip_keep_their_order_and_a_refused_one_its_place(here: SshConnection) -> None:
    commands = [command("echo", str(n)) for n in range(200)]
    commands[100] = command("echo", "a\0b")
    results = here.run_many(commands)
    refused = results.pop(100)
    assert isinstance(refused, Refused) and refused.code == "invalid"
    assert [int(r.text) for r in results if isinstance(r, Output)] == [n for n in range(200) if n != 100]
    assert here.run_many([]) == []


def test_something_left_running_in_the_background_is_not_waited_for(here: SshConnection) -> None:
    begun = time.monotonic()
    assert here.run(shell("sleep 5 & echo started")).stdout == b"started\n"
    assert time.monotonic() - begun < 3


def test_64_mb_is_the_most_that_a_command_may_print(here: SshConnection) -> None:
    most = 64 * 1024 * 1024
    assert len(here.run(command("head", "-c", str(most), "/dev/zero")).stdout) == most
    with pytest.raises(CommandFailed, match="more than is allowed"):
        here.run(command("head", "-c", str(most + 1), "/dev/zero"))


def test_a_flood_ends_the_command_that_makes_it_and_keeps_what_came_before(here: SshConnection) -> None:
    flood = command("yes", stdout_bytes_max=100_000)
    before, failed, after = here.run_many([command("echo", "a"), flood, command("touch", "x", write=True)])
    assert isinstance(before, Output) and before.stdout == b"a\n"
    assert type(failed) is CommandFailed
    assert type(after) is OutcomeUnknown
    assert here.run(command("echo", "b")).stdout == b"b\n"


def test_a_flood_of_complaints_leaves_the_answer(here: SshConnection) -> None:
    output = here.run(shell("head -c 9000000 /dev/zero >&2; echo fine"))
    assert output.stdout == b"fine\n" and len(output.stderr) == 1024 * 1024


# ---------------------------------------------------------------- files


def test_a_file_is_written_and_read_by_pieces(here: SshConnection, tmp_path: Path) -> None:
    content, path = bytes(range(256)) * 500, str(tmp_path / "a file")
    here.run(write_whole(path, content))
    assert here.read_file(path, offset=0, limit=10**7).data == content
    chunk = here.read_file(path, offset=1000, limit=50)
    assert (chunk.data, chunk.offset, chunk.size, chunk.eof) == (content[1000:1050], 1000, len(content), False)
    with pytest.raises(NotFound):
        here.read_file(path + "x", offset=0, limit=1)
    with pytest.raises(Refused):
        here.read_file(str(tmp_path), offset=0, limit=1)


# ---------------------------------------------------------------- threads and sessions


def test_20_threads_share_one_connection_of_five_sessions(noisy: Sshd, here: SshConnection) -> None:
    before = noisy.logins

    def work(thread: int) -> list[bool]:
        return [here.run(command("echo", f"{thread}.{n}")).text == f"{thread}.{n}\n" for n in range(15)]

    with ThreadPoolExecutor(20) as pool:
        assert all(itertools.chain.from_iterable(pool.map(work, range(20))))
    assert noisy.logins == before + 1


def test_an_sshd_with_fewer_sessions_than_we_would_use_is_waited_for(start: Start, opened: list[SshConnection]) -> None:
    own = start("MaxSessions 2").connect()
    opened.append(own)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda n: own.run(command("echo", str(n))).text, range(60)))
    assert results == [f"{n}\n" for n in range(60)]


def test_sessions_that_stuck_commands_keep_are_left_behind(noisy: Sshd, opened: list[SshConnection]) -> None:
    own = noisy.connect()
    opened.append(own)
    for _ in range(12):  # more than sshd has sessions for one connection
        with pytest.raises(SiteUnreachable, match="deadline"):
            own.run(command("sleep", "30", deadline_s=0.15))
    assert own.run(command("echo", "a")).stdout == b"a\n"


# ---------------------------------------------------------------- deadlines


@pytest.fixture
def stopped(start: Start, opened: list[SshConnection]) -> tuple[Sshd, SshConnection]:
    """A connection to an sshd that has stopped answering."""
    sshd = start()
    opened.append(sshd.connect())
    opened[-1].run(command("true"))
    sshd.pause()
    return sshd, opened[-1]


@pytest.mark.parametrize("stdin", [b"", b"x" * 20_000_000 + b"\n"], ids=["small", "20 MB"])
def test_a_stopped_sshd_holds_a_command_no_longer_than_its_deadline(
    stopped: tuple[Sshd, SshConnection], stdin: bytes
) -> None:
    sshd, own = stopped
    begun = time.monotonic()
    with pytest.raises(SiteUnreachable):
        own.run(command("cat", stdin=stdin, deadline_s=1, write=True))
    assert time.monotonic() - begun < 2.5
    sshd.resume()
    assert own.run(command("echo", "again")).stdout == b"again\n"


def test_a_stopped_sshd_holds_many_threads_no_longer_than_their_deadline(stopped: tuple[Sshd, SshConnection]) -> None:
    _, own = stopped
    begun = time.monotonic()

    def ask(_: int) -> type[BaseException] | None:
        try:
            own.run(command("true", deadline_s=1))
        except SiteError as exc:
            return type(exc)
        return None

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(ask, range(20))) == {SiteUnreachable}
    assert time.monotonic() - begun < 4


def test_logging_in_to_a_stopped_sshd_ends_at_the_connect_timeout(start: Start, opened: list[SshConnection]) -> None:
    sshd = start()
    sshd.pause()
    opened.append(sshd.connect(connect_timeout_s=0.5))
    begun = time.monotonic()
    with pytest.raises(SiteUnreachable):
        opened[-1].run(command("true", deadline_s=30))
    assert time.monotonic() - begun < 3
    again = time.monotonic()
    with pytest.raises(SiteUnreachable):  # nobody queues up for a dead host
        opened[-1].run(command("true", deadline_s=30))
    assert time.monotonic() - again < 0.2


def test_a_command_stopped_half_way_is_an_unknown_write(start: Start, opened: list[SshConnection]) -> None:
    opened.append(start().connect())
    commands = [command("echo", "a", write=True), command("sleep", "20", write=True), command("true", write=True)]
    first, *rest = opened[-1].run_many([Command(c.argv, c.parse, write=True, deadline_s=0.5) for c in commands])
    assert isinstance(first, Output)
    assert [type(r) for r in rest] == [OutcomeUnknown, OutcomeUnknown]


# ---------------------------------------------------------------- cuts


def test_a_connection_that_died_unseen_is_replaced_before_anything_is_sent(noisy: Sshd, here: SshConnection) -> None:
    here.run(command("true"))
    for _ in range(3):
        noisy.drop_connections()
        assert here.run(command("echo", "a", write=True)).stdout == b"a\n"


@pytest.mark.parametrize("seed", [20240607, *[pytest.param(n, marks=pytest.mark.soak) for n in range(20)]])
def test_no_cut_at_any_byte_makes_a_write_run_twice_or_an_outcome_wrong(noisy: Sshd, tmp_path: Path, seed: int) -> None:
    wire = Wire(noisy.port).start()
    chance = random.Random(seed)
    outcomes: list[type | str] = []
    for trial in range(60):
        own = noisy.connect(port=wire.port, connect_timeout_s=3.0)
        if trial % 4:
            own.run(command("true"))  # three of four are cut after the login, the fourth within
        limit = 1_500 if trial % 4 else 4_000
        wire.cut(**{chance.choice(["up", "down"]): chance.randrange(limit)})
        ran = tmp_path / str(trial)
        writes = [shell(f"echo x >>{ran}.{n}", write=True, deadline_s=5) for n in range(3)]
        results = own.run_many(writes)
        outcomes.append([type(r).__name__ for r in results][-1])
        own.close()
        wire.mend()
        noisy.drop_connections()
        for n, result in enumerate(results):
            count = len(Path(f"{ran}.{n}").read_text()) // 2 if Path(f"{ran}.{n}").exists() else 0
            allowed = {Output: {1}, OutcomeUnknown: {0, 1}, SiteUnreachable: {0}}[type(result)]  # type: ignore[index]
            assert count in allowed, (trial, n, result, count)
    wire.stop()
    assert {"Output", "OutcomeUnknown", "SiteUnreachable"} <= set(outcomes), outcomes


def test_a_cut_keeps_the_results_that_were_seen(noisy: Sshd, opened: list[SshConnection]) -> None:
    wire = Wire(noisy.port).start()
    opened.append(noisy.connect(port=wire.port))
    opened[-1].run(command("true"))
    wire.cut(down=20_000)
    results = opened[-1].run_many([command("head", "-c", "1000", "/dev/zero") for _ in range(200)])
    seen = [isinstance(r, Output) for r in results]
    assert 1 <= sum(seen) < 30 and seen == sorted(seen, reverse=True)
    assert {type(r) for r in results} == {Output, SiteUnreachable}
    wire.mend()
    assert opened[-1].run(command("echo", "a")).stdout == b"a\n"
    wire.stop()


def test_a_cut_while_logging_in_is_not_taken_for_a_refused_key(noisy: Sshd, opened: list[SshConnection]) -> None:
    wire = Wire(noisy.port).start()
    for down in range(0, 2_400, 160):
        opened.append(noisy.connect(port=wire.port, connect_timeout_s=3.0))
        wire.cut(down=down)
        with pytest.raises(SiteUnreachable):
            opened[-1].run(command("true", deadline_s=5))
        wire.mend()
    wire.stop()
