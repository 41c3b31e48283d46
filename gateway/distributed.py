"""Many processes on PostgreSQL: a session advisory lock for each site names the worker that serves it.

The lock dies with its connection (`kill -9`). A worker that is frozen keeps its connection, so it also leaves a
heartbeat: whoever sees it too old ends its sessions and takes the site. A frozen worker that thaws
finds its lease stale: every transaction of a tick checks the fencing number.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any

import psycopg
import structlog

from gateway import leases
from gateway.db import SESSIONS_OF_THIS_PROCESS, Database, libpq_url
from gateway.services import Services
from gateway.ticks import TICKS, run_tick

log = structlog.get_logger()

CHANNEL = "penstock_wake"
HEARTBEAT_S = 2.0
# Seen this old, a holder counts as frozen; with the poll below a site is served again within 15 s.
FROZEN_AFTER = timedelta(seconds=8)
TRY_S = 1.0
# A tick that has ended late is begun again at most this much later.
_LOOK_AGAIN_S = 0.1


def lock_number(site_id: str) -> int:
    """The advisory lock of a site: 32 bits of its name behind a prefix of ours."""
    return (0x50535400 << 32) | zlib.crc32(site_id.encode())


def notify(db: Database, site_id: str) -> None:
    """Wake whoever serves a site, from any process."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, site_id))


class Worker:
    """Serves every site that nobody else serves; one thread for each site."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self.serving: set[str] = set()

    def run(self) -> None:
        """Serve until `stop`."""
        for site_id, adapter in self._services.sites.items():
            if adapter.closed_reason is None:
                thread = threading.Thread(target=self._site, args=(site_id,), name=f"site-{site_id}", daemon=True)
                self._threads[site_id] = thread
                thread.start()
        self._stop.wait()
        for thread in self._threads.values():
            thread.join(timeout=30)

    def stop(self) -> None:
        self._stop.set()

    def _site(self, site_id: str) -> None:
        """Try for the site's lock; serve as long as it is ours; start again."""
        while not self._stop.is_set():
            try:
                with SiteLock(libpq_url(self._services.db), site_id) as lock:
                    while not self._stop.is_set() and not lock.take():
                        self._stop.wait(TRY_S)
                    if not self._stop.is_set():
                        self._serve(site_id, lock)
            except psycopg.Error as exc:
                log.warning("lock_lost", site=site_id, error=str(exc).strip())
                self._stop.wait(TRY_S)
            finally:
                self.serving.discard(site_id)

    def _serve(self, site_id: str, lock: SiteLock) -> None:
        lease = leases.take(self._services.db, site_id, self._name)
        self.serving.add(site_id)
        log.info("site_taken", site=site_id, worker=self._name, fencing=lease.fencing)
        beat = threading.Thread(target=_beat, args=(lock, self._stop), daemon=True)
        beat.start()
        due = dict.fromkeys((tick.name for tick in TICKS), 0.0)
        running: dict[str, Future[Any]] = {}
        # A thread for each tick: a long hand-over, or a meter that hangs, keeps no news from those who watch.
        with ThreadPoolExecutor(len(TICKS), f"ticks-{site_id}") as pool:
            while not self._stop.is_set() and beat.is_alive():
                running = {name: run for name, run in running.items() if not run.done()}
                for tick in reversed(TICKS):
                    if time.monotonic() >= due[tick.name] and tick.name not in running:
                        due[tick.name] = time.monotonic() + tick.every_s(self._services.settings)
                        running[tick.name] = pool.submit(run_tick, self._services, lease, tick)
                idle = [at for name, at in due.items() if name not in running]
                if lock.wait(min(_LOOK_AGAIN_S, max(0.01, min(idle, default=math.inf) - time.monotonic()))):
                    due["dispatch"] = 0.0


def _beat(lock: SiteLock, stop: threading.Event) -> None:
    """Say every two seconds that this worker lives; ends when the lock's connection is gone."""
    while not stop.is_set():
        try:
            lock.beat()
        except psycopg.Error:
            return
        stop.wait(HEARTBEAT_S)


def _connect(dsn: str) -> psycopg.Connection:
    """A connection that notices within seconds when the other side is gone."""
    return psycopg.connect(
        dsn,
        autocommit=True,
        application_name=SESSIONS_OF_THIS_PROCESS,
        keepalives_idle=3,
        keepalives_interval=1,
        keepalives_count=3,
        tcp_user_timeout=6000,
    )


class SiteLock:
    """The lock of one site on a connection of its own, with a heartbeat in a row of its own."""

    def __init__(self, dsn: str, site_id: str) -> None:
        self._site_id, self._number = site_id, lock_number(site_id)
        self._conn, self._beat_conn = _connect(dsn), _connect(dsn)
        self._guard = threading.Lock()

    def __enter__(self) -> SiteLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._conn.close()
        self._beat_conn.close()

    def take(self) -> bool:
        """Take the lock if nobody has it, or if whoever has it is frozen."""
        row = self._conn.execute("SELECT pg_try_advisory_lock(%s)", (self._number,)).fetchone()
        if row is not None and row[0]:
            self._conn.execute(f"LISTEN {CHANNEL}")
            self.beat()
            return True
        self._end_frozen_holder()
        return False

    def beat(self) -> None:
        """Renew the heartbeat; raises when the lock's own connection is gone."""
        with self._guard:
            if self._conn.closed:
                raise psycopg.OperationalError("the lock's connection is closed")
            self._beat_conn.execute(
                "INSERT INTO heartbeats (site_id, at) VALUES (%s, now()) "
                "ON CONFLICT (site_id) DO UPDATE SET at = now()",
                (self._site_id,),
            )

    def wait(self, seconds: float) -> bool:
        """Sleep until woken for this site; True when woken."""
        return any(n.payload == self._site_id for n in self._conn.notifies(timeout=seconds, stop_after=1))

    def _end_frozen_holder(self) -> None:
        """End every session of the process that holds the lock and is frozen.

        One that froze in the middle of a statement is not idle: no limit of the server ends it, and it keeps its locks.
        """
        self._conn.execute(
            "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity h ON h.pid = l.pid "
            "JOIN pg_stat_activity a ON a.pid = h.pid OR a.application_name = h.application_name "
            "AND a.datname = h.datname AND h.application_name <> current_setting('application_name'), heartbeats b "
            "WHERE l.locktype = 'advisory' AND l.granted "
            "AND l.classid = %s AND l.objid = %s AND b.site_id = %s AND b.at < now() - %s",
            (self._number >> 32, self._number & 0xFFFFFFFF, self._site_id, FROZEN_AFTER),
        )
