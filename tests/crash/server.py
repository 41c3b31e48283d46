"""A child that serves HTTP until it dies: where the nth commit of a request is, or when its time is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import uvicorn

from gateway.app import create_app
from gateway.bootstrap import compose
from gateway.settings import Settings
from tests.crash.worker import DeadlyDatabase, Death


def live(order: dict[str, Any], report_to: int) -> None:
    """Serve on a free port of loopback, whose number is written to `order["port_file"]`; no tick runs here."""
    settings = Settings(**order["settings"])
    death = Death("", 0, report_to)
    services = compose(settings, db=DeadlyDatabase(settings.effective_database_url, death))
    config = uvicorn.Config(create_app(services), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    asyncio.run(_serve(uvicorn.Server(config), death, order))


async def _serve(server: uvicorn.Server, death: Death, order: dict[str, Any]) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    death.expect(f": {order['point']}", order["nth"])
    port_file = Path(order["port_file"])
    part = port_file.with_suffix(".part")
    part.write_text(str(server.servers[0].sockets[0].getsockname()[1]))
    part.rename(port_file)  # whole, or not there
    await serving
