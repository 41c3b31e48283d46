"""An sshd like a centre's login node, and others as a test wants them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from site_adapters.transport.ssh import SshConnection
from tests.live.sshd import Sshd, Start, missing_reason


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Like a centre's login node: a banner, a profile that talks on both streams, ten sessions for a connection."""
    reason = missing_reason()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("sshd")
    (folder / "banner").write_text("Authorised use only\n")
    profile = "echo 'Welcome! BEGIN END'; echo 'module: not found' >&2; printf 'no newline'\n"
    sshd = Sshd(folder, (f"Banner {folder}/banner", "MaxSessions 10"), profile).start()
    yield sshd
    sshd.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Daemons of the test's own."""
    reason = missing_reason()
    if reason is not None:
        pytest.skip(reason)
    started: list[Sshd] = []

    def one(*options: str, **more: Any) -> Sshd:
        started.append(Sshd(tmp_path / f"sshd{len(started)}", options, **more).start())
        return started[-1]

    yield one
    for sshd in started:
        sshd.stop()


@pytest.fixture
def opened() -> Iterator[list[SshConnection]]:
    """What is put in here is closed at the end."""
    connections: list[SshConnection] = []
    yield connections
    for connection in connections:
        connection.close()


@pytest.fixture
def here(noisy: Sshd, opened: list[SshConnection]) -> SshConnection:
    opened.append(noisy.connect())
    return opened[-1]
