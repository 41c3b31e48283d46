"""`gateway worker`, except that it stops (signal 19) once at a point of `worker.POINTS`: as a frozen machine would."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from gateway import distributed, logs
from gateway.bootstrap import compose
from gateway.settings import Settings
from gateway.ticks import TICKS, Tick
from tests.crash.worker import DeadlyDatabase, Death, deadly

SENDING = "dispatch: while sending before commit"


class SendingDatabase(DeadlyDatabase):
    """Where one may stop in the middle of a statement: to the server that session is busy, not idle."""

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as conn:
            yield conn
            driver: Any = conn.connection.driver_connection
            with driver.cursor().copy("COPY sites (id) FROM STDIN"):
                self.death.at("while sending before commit")


def main(point: str) -> None:
    logs.configure()
    settings = Settings()
    death = Death(point, 1, os.open(os.devnull, os.O_WRONLY), signal.SIGSTOP)
    database = SendingDatabase if point == SENDING else DeadlyDatabase
    services = compose(settings, db=database(settings.effective_database_url, death))
    services = replace(services, sites={name: deadly(site, death) for name, site in services.sites.items()})
    distributed.TICKS = tuple(Tick(t.name, _named(t, death), t.every_s) for t in TICKS)
    distributed.Worker(services).run()


def _named(tick: Tick, death: Death) -> Any:
    def run(*args: Any) -> Any:
        death.tick = tick.name
        return tick.run(*args)

    return run


if __name__ == "__main__":
    main(sys.argv[1])
