"""Serve HTTP, run the ticks: the processes of a gateway."""

from __future__ import annotations

import argparse
import gc
import signal
import threading

import structlog
import uvicorn

from gateway import distributed, logs
from gateway.admin.texts import said, tr
from gateway.app import create_app
from gateway.bootstrap import AlreadyRunning, compose, lock_home, open_database
from gateway.embedded import EmbeddedWorker
from gateway.settings import Settings

log = structlog.get_logger()


def serve(_args: argparse.Namespace) -> int:
    """HTTP, and the ticks with it unless `embedded_worker` is off (then `worker` processes run them)."""
    logs.configure()
    settings = Settings()
    db = open_database(settings)
    try:
        lock = lock_home(settings.home) if db.is_sqlite else None
    except AlreadyRunning as exc:
        print(f"gateway: {said(str(exc))}")
        return 1
    worker: list[EmbeddedWorker] = []

    def wake(site_id: str) -> None:
        if worker:
            worker[0].wake(site_id)
        elif not db.is_sqlite:
            distributed.notify(db, site_id)

    services = compose(settings, db=db, wake=wake)
    if settings.embedded_worker:
        worker.append(EmbeddedWorker(services))
        worker[0].start()
    app = create_app(services)
    _settle()
    log.info("gateway_starts", url=f"http://{settings.host}:{settings.port}", home=str(settings.home.absolute()))
    config = uvicorn.Config(app, host=settings.host, port=settings.port, log_level="warning",
                            timeout_graceful_shutdown=5, access_log=False)  # fmt: skip
    try:
        uvicorn.Server(config).run()
    finally:
        if worker:
            worker[0].stop()
        services.close()
        if lock is not None:
            lock.close()
    return 0


def work(_args: argparse.Namespace) -> int:
    """The ticks alone, on PostgreSQL: as many of these processes as one likes."""
    logs.configure()
    settings = Settings()
    services = compose(settings)
    if services.db.is_sqlite:
        print(tr("gateway: separate workers need PostgreSQL (PENSTOCK_DATABASE_URL=postgresql+psycopg://…)"))
        return 1
    worker = distributed.Worker(services)
    _settle()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
    try:
        worker.run()
    finally:
        services.close()
    return 0


def _settle() -> None:
    """What is there at the start stays: a full collection that looked at it would stop every thread for 0.13 s."""
    gc.collect()
    gc.freeze()
