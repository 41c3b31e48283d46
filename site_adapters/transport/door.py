"""The way into one site, shared by all its accounts: how fast it may be entered, and whether it may be at all."""

from __future__ import annotations

import threading
import time

from site_adapters.errors import HostKeyChanged, SiteUnreachable
from site_adapters.transport.watchdog import Watchdog

# So long a changed host key is remembered without asking again; nothing is ever sent to a host with a wrong key.
_SHUT_S = 30.0


class Door:
    """At most `per_second` new logins, all accounts together: a restart must not look like an attack.

    A dead host is not tried again for as long as the last try took, so that its callers do not queue up for it.
    """

    def __init__(self, per_second: float) -> None:
        self._interval_s = 1.0 / per_second
        self._lock = threading.Lock()
        self._next = 0.0
        self._paused: tuple[float, str] = (0.0, "")
        self._shut: tuple[float, str] | None = None
        self.shut_count = 0
        self.watchdog = Watchdog()

    def enter(self, deadline: float) -> None:
        """Wait for one's turn to log in; raises `SiteUnreachable` where it comes after the (monotonic) deadline."""
        with self._lock:
            now = time.monotonic()
            if now < self._paused[0]:
                raise SiteUnreachable(self._paused[1])
            turn = max(now, self._next)
            if turn > deadline:
                raise SiteUnreachable("too many new logins are waiting for this site")
            self._next = turn + self._interval_s
        time.sleep(max(0.0, turn - now))
        self.check()

    def check(self) -> None:
        """Raise `HostKeyChanged` while the site is shut."""
        shut = self._shut
        if shut is not None and time.monotonic() < shut[0]:
            raise HostKeyChanged(shut[1])

    def shut(self, reason: str) -> None:
        """Nobody goes in or stays in: the host showed another key. Open connections see `shut_count` change."""
        with self._lock:
            self._shut = (time.monotonic() + _SHUT_S, reason)
            self.shut_count += 1

    def lift(self) -> None:
        """Let people in again: the next login looks at the key once more."""
        with self._lock:
            self._shut = None
            self._paused = (0.0, "")

    def pause(self, seconds: float, reason: str) -> None:
        """The host did not answer for so long: nobody need try in the next `seconds`."""
        with self._lock:
            self._paused = (time.monotonic() + seconds, reason)
