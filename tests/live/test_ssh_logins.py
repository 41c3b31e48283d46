"""Logging in by SSH, against real sshds: host keys, refused keys, jump hosts, how often, and by whose power."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from site_adapters.config import SiteConfig
from site_adapters.errors import CredentialRefused, HostKeyChanged, SiteUnreachable
from site_adapters.transport.door import Door
from site_adapters.transport.pool import SiteLogins
from site_adapters.transport.ssh import Endpoint, Jump, SshConnection
from tests.lab.slurm import wait_for
from tests.live.sshd import ME, Sshd, Start, command, shell

pytestmark = pytest.mark.live


# ---------------------------------------------------------------- keys


def test_a_changed_host_key_shuts_the_site_before_a_key_of_ours_is_shown(
    start: Start, opened: list[SshConnection]
) -> None:
    sshd, door = start(), Door(1000)
    opened += [sshd.connect(door=door), sshd.connect(door=door)]
    opened[0].run(command("true"))
    pinned, port = sshd.host_key, sshd.port
    sshd.stop()
    other = start(port=port)
    (other.folder / "authorized_keys").write_bytes((sshd.folder / "user.pub").read_bytes())
    for own in (*opened, opened[0]):
        with pytest.raises(HostKeyChanged, match="not the pinned one"):
            own.run(command("true"))
    assert other.logins == 0 and "publickey" not in other.log
    assert other.log.count("Connection from") == 1  # the others did not even try
    other.stop()
    back = start(port=port)
    back.stop()
    (back.folder / "host_ed25519").write_bytes((sshd.folder / "host_ed25519").read_bytes())
    (back.folder / "host_ed25519.pub").write_text(pinned)
    (back.folder / "user").write_bytes((sshd.folder / "user").read_bytes())
    (back.folder / "user.pub").write_bytes((sshd.folder / "user.pub").read_bytes())
    back.start()
    door.lift()
    assert opened[0].run(command("echo", "a")).stdout == b"a\n"


def test_a_changed_host_key_ends_what_was_open_before(start: Start, opened: list[SshConnection]) -> None:
    sshd, door = start(), Door(1000)
    opened += [sshd.connect(door=door), sshd.connect(door=door, host_key=start().host_key)]
    opened[0].run(command("true"))
    with pytest.raises(HostKeyChanged):
        opened[1].run(command("true"))
    with pytest.raises(HostKeyChanged):
        opened[0].run(command("true"))
    door.lift()
    assert opened[0].run(command("true")).exit_code == 0
    assert sshd.logins == 2


def test_a_host_that_has_no_key_of_the_pinned_type_any_more_has_changed(
    start: Start, opened: list[SshConnection]
) -> None:
    pinned = start().host_key
    opened.append(start(host_key_type="rsa").connect(host_key=pinned))
    with pytest.raises(HostKeyChanged, match="no ssh-ed25519 key any more"):
        opened[-1].run(command("true"))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_types_of_host_keys_can_be_pinned(start: Start, opened: list[SshConnection], kind: str) -> None:
    opened.append(start(host_key_type=kind).connect())
    assert opened[-1].run(command("true")).exit_code == 0


def test_an_sshd_without_a_common_algorithm_is_told_in_words(start: Start, opened: list[SshConnection]) -> None:
    opened.append(start("KexAlgorithms diffie-hellman-group14-sha1").connect())
    with pytest.raises(SiteUnreachable, match=r"share no algorithm.*needs an update"):
        opened[-1].run(command("true"))


def test_a_wrong_key_is_refused_and_not_tried_again_at_once(start: Start, opened: list[SshConnection]) -> None:
    sshd, stranger = start(), start()
    opened.append(sshd.connect(key=stranger.user_key))
    for _ in range(5):
        with pytest.raises(CredentialRefused, match=f"does not accept the key of {ME}"):
            opened[-1].run(command("true"))
    assert sshd.log.count("Connection from") == 1
    with pytest.raises(CredentialRefused, match=r"asked just now, and is asked again in [1-5] s"):
        opened[-1].run(command("true"))


def test_a_site_that_wants_a_second_factor_is_told_in_words(start: Start, opened: list[SshConnection]) -> None:
    sshd = start("PasswordAuthentication yes", "AuthenticationMethods publickey,password")
    opened.append(sshd.connect())
    with pytest.raises(CredentialRefused, match="more than a key: password"):
        opened[-1].run(command("true"))


def test_an_account_that_may_run_nothing_says_so_and_nothing_is_in_doubt(
    start: Start, opened: list[SshConnection]
) -> None:
    sshd = start('ForceCommand echo "This account is currently not available."; exit 1')
    opened.append(sshd.connect())
    for _ in range(2):
        with pytest.raises(SiteUnreachable, match="currently not available") as caught:
            opened[-1].run(command("touch", "x", write=True))
        assert type(caught.value) is SiteUnreachable
    assert sshd.logins == 1


def test_a_profile_that_eats_stdin_makes_nothing_run(start: Start, opened: list[SshConnection], tmp_path: Path) -> None:
    opened.append(start(profile="read a; read b\n").connect())
    with pytest.raises(SiteUnreachable) as caught:
        opened[-1].run(command("cat", stdin=f"touch {tmp_path}/ran\n".encode() * 9, write=True))
    assert type(caught.value) is SiteUnreachable
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- jump hosts


def through(gate: Sshd, sshd: Sshd, **more: Any) -> Endpoint:
    return sshd.endpoint(jump=Jump(gate.endpoint(**more), ME, gate.user_key))


def test_a_login_node_is_reached_through_a_jump_host(start: Start, opened: list[SshConnection]) -> None:
    gate, sshd = start(), start()
    own = SshConnection(through(gate, sshd), ME, sshd.user_key, door=Door(1000), environment={})
    opened.append(own)
    content = bytes(range(256)) * 2_000
    assert own.run(command("cat", stdin=content)).stdout == content
    for broken in (sshd, gate):
        broken.drop_connections()
        wait_for(lambda: own.run(command("true")).exit_code == 0, "the way to be open again")
    assert len(gate.pids(sessions_only=True)) <= 2  # one connection and its helper: nothing is left open


def test_the_key_of_a_jump_host_is_pinned_too(start: Start, opened: list[SshConnection]) -> None:
    gate, sshd = start(), start()
    own = SshConnection(through(gate, sshd, host_key=sshd.host_key), ME, sshd.user_key, door=Door(1000), environment={})
    opened.append(own)
    with pytest.raises(HostKeyChanged):
        own.run(command("true"))


def test_a_jump_host_that_forwards_nothing_is_told_in_words(start: Start, opened: list[SshConnection]) -> None:
    gate, sshd = start("AllowTcpForwarding no"), start()
    opened.append(SshConnection(through(gate, sshd), ME, sshd.user_key, door=Door(1000), environment={}))
    with pytest.raises(SiteUnreachable, match="does not pass us on"):
        opened[-1].run(command("true"))
    wait_for(lambda: not gate.pids(sessions_only=True), "the jump connection to be closed")


# ---------------------------------------------------------------- logins


def test_a_restart_is_no_storm_of_logins(noisy: Sshd, opened: list[SshConnection]) -> None:
    door, before = Door(per_second=10), noisy.logins
    opened += [noisy.connect(door=door) for _ in range(8)]
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda own: own.run(command("true")), opened))
    assert time.monotonic() - begun >= 0.7
    assert noisy.logins == before + 8


def test_a_login_whose_turn_comes_after_the_deadline_is_not_waited_for(
    noisy: Sshd, opened: list[SshConnection]
) -> None:
    door = Door(per_second=0.1)
    opened += [noisy.connect(door=door), noisy.connect(door=door)]
    opened[0].run(command("true"))
    begun = time.monotonic()
    with pytest.raises(SiteUnreachable, match="too many new logins"):
        opened[1].run(command("true", deadline_s=2))
    assert time.monotonic() - begun < 0.5


def test_an_unused_connection_is_closed_and_comes_back(noisy: Sshd, here: SshConnection) -> None:
    before = noisy.logins
    here.run(command("true"))
    here.rest(idle_s=60)
    here.run(command("true"))
    assert noisy.logins == before + 1
    here.rest(idle_s=0)
    wait_for(lambda: not noisy.pids(sessions_only=True), "the connection to be closed")
    here.run(command("true"))
    assert noisy.logins == before + 2


def test_a_connection_at_work_is_not_idle(here: SshConnection) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(here.run, shell("sleep 0.5; echo done"))
        while not slow.done():
            here.rest(idle_s=0)
            time.sleep(0.01)
    assert slow.result().stdout == b"done\n"


def test_a_closed_connection_cuts_what_runs_and_does_not_come_back(here: SshConnection) -> None:
    here.run(command("true"))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(here.run, command("sleep", "20"))
        time.sleep(0.2)
        here.close()
        with pytest.raises(SiteUnreachable):
            slow.result(5)
    with pytest.raises(SiteUnreachable, match="was closed"):
        here.run(command("true"))


# ---------------------------------------------------------------- the logins of a site


@pytest.fixture
def keys() -> dict[str, str]:
    return {}


@pytest.fixture
def logins(noisy: Sshd, keys: dict[str, str], tmp_path: Path) -> Iterator[SiteLogins]:
    key_file = tmp_path / "gw"
    key_file.write_text(noisy.user_key)
    config = SiteConfig.model_validate(
        {
            "site": "far", "scheduler": "slurm", "policy": {"logins_per_second": 1000},
            "transport": {"kind": "ssh", "host": "127.0.0.1", "port": noisy.port, "host_key": noisy.host_key},
            "credentials": {"observer": {"username": ME, "key_file": str(key_file)}},
        }
    )  # fmt: skip
    found = SiteLogins(config, keys.get)
    yield found
    found.close()


def test_nobody_gets_the_observers_login_by_claiming_its_name(logins: SiteLogins) -> None:
    observer = logins.observer()
    assert observer is not None and observer.run(command("true")).exit_code == 0
    with pytest.raises(CredentialRefused, match="no key is stored"):
        logins.actor(ME)
    assert logins.observer() is observer
    assert logins.meter() is None


def test_a_key_that_was_taken_back_ends_the_login(noisy: Sshd, logins: SiteLogins, keys: dict[str, str]) -> None:
    keys[ME] = noisy.user_key
    person = logins.actor(ME)
    assert person.run(command("true")).exit_code == 0
    assert logins.actor(ME) is person
    del keys[ME]
    with pytest.raises(CredentialRefused):
        logins.actor(ME)
    with pytest.raises(SiteUnreachable, match="was closed"):
        person.run(command("true"))


def test_a_new_key_replaces_the_login_of_the_old_one(noisy: Sshd, logins: SiteLogins, keys: dict[str, str]) -> None:
    keys[ME] = "no key at all"
    with pytest.raises(CredentialRefused, match="neither Ed25519"):
        logins.actor(ME).run(command("true"))
    keys[ME] = noisy.user_key
    assert logins.actor(ME).run(command("true")).exit_code == 0


def test_open_connections_leave_no_threads_and_no_files_behind(noisy: Sshd) -> None:
    def used() -> tuple[int, int]:
        return threading.active_count(), len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))

    door = Door(1000)
    warm = noisy.connect(door=door)
    warm.run(command("true"))
    warm.close()
    wait_for(lambda: threading.active_count() < 8, "threads of earlier tests to end")
    before = used()
    for _ in range(5):
        own = noisy.connect(door=door)
        own.run_many([command("true")] * 3)
        own.close()
    wait_for(lambda: used()[0] <= before[0] and used()[1] <= before[1], f"no more than {before}")
