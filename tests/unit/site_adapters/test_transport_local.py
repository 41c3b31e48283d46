"""Commands on this machine: bounded in time and size, by the right user."""

from __future__ import annotations

import os
import pwd
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CommandFailed, CredentialRefused, NotFound, OutcomeUnknown, Refused, SiteUnreachable
from site_adapters.transport.files import read_chunk, write_whole
from site_adapters.transport.local import LocalConnection
from site_adapters.transport.pool import SiteLogins

ME = pwd.getpwuid(os.geteuid()).pw_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="switching the user takes root")


def connection(username: str = ME, *, switch_user: bool = False, **environment: str) -> LocalConnection:
    return LocalConnection(username, environment=environment, switch_user=switch_user)


def command(*argv: str, **more: Any) -> Command[Output]:
    return Command(argv, lambda output: output, **more)


def shell(text: str, **more: Any) -> Command[Output]:
    return command("/bin/sh", "-c", text, **more)


def test_both_streams_the_exit_code_and_binary_stdin() -> None:
    every_byte = bytes(range(256)) * 1000
    output = connection().run(shell("cat; echo err >&2; exit 7", stdin=every_byte))
    assert output == Output(every_byte, b"err\n", 7)


def test_the_gateways_own_environment_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET", "x")
    text = connection(SITE="a").run(command("env", env=(("OWN", "b"),))).text
    assert "PENSTOCK" not in text
    assert {"SITE=a", "OWN=b", "LC_ALL=C", f"USER={ME}"} <= set(text.splitlines())


def test_a_program_that_is_not_there_has_the_shells_exit_code() -> None:
    assert connection().run(command("no-such-program")).exit_code == 127
    assert connection().run(command("/")).exit_code == 126


def test_a_command_that_does_not_read_its_stdin_does_no_harm() -> None:
    assert connection().run(command("true", stdin=b"x" * 1_000_000)).exit_code == 0


@pytest.mark.parametrize(("write", "error"), [(False, SiteUnreachable), (True, OutcomeUnknown)])
def test_a_command_past_its_deadline_is_killed_with_its_children(
    tmp_path: Path, write: bool, error: type[Exception]
) -> None:
    begun = time.monotonic()
    with pytest.raises(error, match="deadline"):
        connection().run(shell(f"sleep 60 & echo $! >{tmp_path}/pid; wait", write=write, deadline_s=0.3))
    assert time.monotonic() - begun < 5
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))


def test_a_command_past_its_deadline_is_not_saved_by_its_chatter() -> None:
    with pytest.raises(SiteUnreachable, match="deadline"):
        connection().run(shell("while :; do echo x >&2; done", deadline_s=0.3))


def test_output_over_the_limit_fails_at_once_without_filling_memory() -> None:
    with pytest.raises(CommandFailed, match="more than"):
        connection().run(command("yes", stdout_bytes_max=1_000_000, deadline_s=30))
    with pytest.raises(OutcomeUnknown):
        connection().run(command("yes", stdout_bytes_max=1_000_000, deadline_s=30, write=True))


def test_complaints_over_the_limit_are_cut_and_the_answer_kept() -> None:
    output = connection().run(shell("head -c 5000000 /dev/zero >&2; echo fine"))
    assert output.stdout == b"fine\n" and 1_000_000 < len(output.stderr) < 3_000_000


def test_something_left_running_in_the_background_is_not_waited_for() -> None:
    begun = time.monotonic()
    output = connection().run(shell("sleep 3 & echo started"))
    assert output.stdout == b"started\n" and time.monotonic() - begun < 2


def test_one_failing_command_of_many_leaves_the_others() -> None:
    slow = command("sleep", "60", deadline_s=0.1)
    results = connection().run_many([command("echo", "a"), slow, command("echo", "b\0"), command("echo", "c")])
    assert [type(r).__name__ for r in results] == ["Output", "SiteUnreachable", "Refused", "Output"]


def test_a_killed_write_has_an_unknown_outcome() -> None:
    with pytest.raises(OutcomeUnknown, match="signal 9"):
        connection().run(shell("kill -9 $$", write=True))
    assert connection().run(shell("kill -9 $$")).exit_code == 137


def test_many_threads_share_one_connection() -> None:
    own, answers = connection(), []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(own.run(command("echo", str(n))).text)) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(a) for a in answers) == list(range(16))


# ---------------------------------------------------------------- files


@pytest.fixture(params=["directly", "by a command"])
def read(request: pytest.FixtureRequest) -> Callable[..., Any]:
    own = connection()
    if request.param == "directly":
        return own.read_file
    return lambda path, *, offset, limit: own.run(read_chunk(path, offset=offset, limit=limit))


def test_a_piece_of_a_file_comes_with_its_size(read: Callable[..., Any], tmp_path: Path) -> None:
    content = bytes(range(256)) * 40 + b"\nEND-x 0 0\n"
    (tmp_path / "a 'b'").write_bytes(content)
    path = str(tmp_path / "a 'b'")
    assert read(path, offset=0, limit=10_000_000).data == content
    chunk = read(path, offset=200, limit=100)
    assert (chunk.data, chunk.offset, chunk.size, chunk.eof) == (content[200:300], 200, len(content), False)
    past = read(path, offset=10**9, limit=100)
    assert (past.data, past.offset, past.eof) == (b"", len(content), True)


def test_a_file_that_is_not_there_is_not_found(read: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "no" / "folder", tmp_path / "file" / "below"):
        with pytest.raises(NotFound):
            read(str(path), offset=0, limit=1)


def test_what_is_no_file_is_refused_and_a_fifo_does_not_block(read: Callable[..., Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(Refused):
            read(str(path), offset=0, limit=1)


def test_a_file_of_the_home_folder(read: Callable[..., Any]) -> None:
    with pytest.raises(NotFound):
        read("~/.no-such-penstock-file", offset=0, limit=1)


def test_a_file_is_written_whole_with_its_mode(tmp_path: Path) -> None:
    content, path = bytes(range(256)) * 100, tmp_path / "-odd name\n"
    path.write_bytes(b"old")
    connection().run(write_whole(str(path), content, mode=0o640))
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["-odd name\n"]


def test_writing_below_a_folder_that_is_not_there_or_over_a_folder_fails(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        connection().run(write_whole(str(tmp_path / "no" / "x"), b"a"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(Refused):
        connection().run(write_whole(str(tmp_path / "folder"), b"a"))


# ---------------------------------------------------------------- whose power


def test_another_user_is_refused_without_switching() -> None:
    other = next(u.pw_name for u in pwd.getpwall() if u.pw_uid != os.geteuid())
    with pytest.raises(CredentialRefused, match="takes root and switch_user"):
        connection(other)


@pytest.mark.parametrize("name", ["no-such-user", "", "a\0b", "../x"])
def test_a_user_who_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(CredentialRefused):
        connection(name, switch_user=True)


@as_root
def test_root_acts_as_the_person_with_the_persons_groups_only() -> None:
    person = next(u for u in pwd.getpwall() if u.pw_uid > 0 and u.pw_shell.endswith("sh"))
    output = connection(person.pw_name, switch_user=True).run(shell("id -u; id -G; umask"))
    groups = sorted(os.getgrouplist(person.pw_name, person.pw_gid))
    uid, gids, umask = output.text.split("\n")[:3]
    assert int(uid) == person.pw_uid and sorted(map(int, gids.split())) == groups and umask == "0022"


@as_root
def test_root_reads_files_with_the_persons_rights(tmp_path: Path) -> None:
    person = next(u.pw_name for u in pwd.getpwall() if u.pw_uid > 0 and u.pw_shell.endswith("sh"))
    secret = tmp_path / "closed" / "secret"
    secret.parent.mkdir(mode=0o700)
    secret.write_text("x")
    own = connection(person, switch_user=True)
    for path in (secret, Path("/etc/shadow")):
        with pytest.raises(Refused, match="may use"):
            own.read_file(str(path), offset=0, limit=10)


@as_root
def test_accounts_without_a_login_and_root_are_no_persons() -> None:
    nobody = next(u.pw_name for u in pwd.getpwall() if u.pw_uid > 0 and u.pw_shell.endswith("nologin"))
    with pytest.raises(CredentialRefused, match="no login of a person"):
        connection(nobody, switch_user=True)
    wanted = {"site": "here", "scheduler": "slurm", "transport": {"kind": "local", "switch_user": True}}
    logins = SiteLogins(SiteConfig.model_validate(wanted), lambda _username: None)
    with pytest.raises(CredentialRefused, match="no login of a person"):
        logins.actor("root")


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
