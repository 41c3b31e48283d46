"""Act when a moment has passed: the way out of calls that wait without end. One thread, while there is one to watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOK_S = 0.25
_IDLE_S = 2.0


class Watchdog:
    """Cheaper than a timer thread for each command: those cost milliseconds while other threads are busy."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def at(self, moment: float, act: Callable[[], None]) -> Iterator[None]:
        """Call `act` up to a quarter of a second after the (monotonic) moment, unless the block has ended by then."""
        token = object()
        with self._changed:
            self._due[token] = (moment, act)
            if self._thread is None or not self._thread.is_alive():  # a fork leaves threads behind
                self._thread = threading.Thread(target=self._watch, name="transport-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(token, None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                if not self._due and not self._changed.wait_for(lambda: self._due, _IDLE_S):
                    self._thread = None
                    return
                now = time.monotonic()
                late = [self._due.pop(token)[1] for token, (moment, _) in list(self._due.items()) if moment < now]
            for act in late:
                act()
            time.sleep(_LOOK_S)
