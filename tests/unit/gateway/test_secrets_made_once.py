"""Files of secrets that processes which start together make: one makes it, and all have the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from gateway.errors import Refused
from gateway.identity import keys
from gateway.identity.keys import load_or_create
from gateway.notices.webhook import load_or_create_secret


def master(file: Path) -> Any:
    """What a master key can be known by: it opens what was sealed with the file's."""
    key = load_or_create(file)
    return lambda: keys.MasterKey(file.read_bytes()).open(key.seal("x", owner="o"), owner="o")


@pytest.mark.parametrize("make", [master, load_or_create_secret])
def test_who_starts_together_has_one_secret(
    tmp_path: Path, make: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, together, found = tmp_path / "home" / "secret", Barrier(8), []
    real = os.urandom

    def slowly(count: int) -> bytes:
        together.wait(timeout=30)  # all have seen that there is no file
        return real(count)

    monkeypatch.setattr(os, "urandom", slowly)
    threads = [Thread(target=lambda: found.append(make(file))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert len(found) == 8, "each has one"
    values = [item() if callable(item) else item for item in found]
    assert set(values) == ({"x"} if make is master else {load_or_create_secret(file)})
    assert [p.name for p in file.parent.iterdir()] == ["secret"] and file.stat().st_mode & 0o777 == 0o600


def test_a_secret_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(Refused, match="that can be read"):
        load_or_create_secret(tmp_path / "folder")
